"""HMoE under judgement: the blame matrix, its declared choices, and what a report says of a pass."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from mtlref.conformance import Implementation, runner
from mtlref.conformance.checks.hmoe import PLAN
from mtlref.conformance.digging import cases, draw
from mtlref.conformance.mixtures import MARGIN, HMoEPass, nearest_kink
from mtlref.conformance.problem import same
from mtlref.conformance.runner import session
from mtlref.conformance.strategies import battery
from mtlref.defects import DEFECTS
from mtlref.notation import DomainError, ShapeError
from mtlref.vectors.replay import observed
from tests.conformance import wrong_hmoe
from tests.conformance.variants import fails, judged

ALIKE = {
    "MaskAbsent": {"HMOE-C4: constrained = False"},
    "OwnTowerStopped": {"HMOE-C5: mode = 'stacked'"},
    "LogitsExchanged": {"HMOE-C3: mix = 'prob'"},
}
"""The undeclared choices that give a defect's numbers: no observable tells them apart."""

SILENT = {"SqueezedBatch"}
"""What shows by no answer at all: the batch of one."""

BY_HAND = {
    "check_hmoe_gradients_add_up_over_samples": "a mean over the batch",
    "check_hmoe_relabelled_experts": "ShiftedShares",
    "check_hmoe_other_gates_get_an_exact_zero": "Neighbours",
}
"""Checks that a wrong implementation has to fail where no listed defect does."""


def implementation(defects=(), choices=None, names=None):
    """The specification with `defects`, which gives the observables `names`."""

    def step(given, state):
        found = observed(given.method.varied(*defects).network, "network", given.plain)
        return {name: value for name, value in found.items() if names is None or name in names}

    name = "+".join(defect.name for defect in defects) or "the specification"
    return Implementation("hmoe", name=name, step=step, choices=choices or {})


def defect(name):
    """The defect of that name."""
    return next(one for one in DEFECTS["hmoe"] if one.name == name)


@cache
def outcome(name):
    """The session of a defect with few cases, and the checks that it fails."""
    with np.errstate(all="ignore"):
        found, results = judged(implementation((defect(name),)))
    return found, {check for check, result in results.items() if result.status == "failed"}


@pytest.mark.parametrize(
    "choices",
    [
        {},
        {"share_gate": True, "share_w": True},
        {"mix": "prob"},
        {"mix": "hidden"},
        {"constrained": False},
        {"mode": "stacked", "share_w": True},
        {"towers": ((3, 1),) * 3, "n_inputs": 7, "activation": "relu"},
    ],
)
def test_the_specification_passes(choices):
    _, results = judged(implementation((), choices))
    assert {result.status for result in results.values()} <= {"passed", "skipped"}
    assert sum(result.status == "passed" for result in results.values()) > 15


@pytest.mark.parametrize("name", [one.name for one in DEFECTS["hmoe"]])
def test_a_defect_fails_a_check_and_is_named(name):
    found, checks = outcome(name)
    assert checks
    with np.errstate(all="ignore"):
        diagnosis = found.diagnosis
    if name in SILENT:
        assert checks >= {"check_hmoe_answers_every_problem"}
        assert diagnosis.kind == "agrees"
        return
    own = {f"{name} [{defect(name).equation}]"} | ALIKE.get(name, set())
    assert {candidate.name for candidate in diagnosis.candidates} == own, diagnosis.text
    assert diagnosis.kind == ("defects" if len(own) == 1 else "ambiguous")


def test_every_check_is_failed_by_a_defect_or_by_hand():
    failing = {check for one in DEFECTS["hmoe"] for check in outcome(one.name)[1]}
    assert {check.name for check in session(implementation()).checks} - failing <= set(BY_HAND)


@pytest.mark.parametrize("check", BY_HAND)
def test_what_no_defect_shows_fails_its_check(check):
    impl = next(impl for impl in wrong_hmoe.WRONG if impl.name == BY_HAND[check])
    assert fails(impl, check)


def test_two_defects_at_once_are_named():
    pair = (defect("SigmoidRelation"), defect("RelationStopped"))
    with np.errstate(all="ignore"):
        diagnosis = session(implementation(pair)).diagnosis
    assert [candidate.defects for candidate in diagnosis.candidates] == [pair]


def test_an_undeclared_choice_is_told():
    with np.errstate(all="ignore"):
        diagnosis = session(implementation(names=("out",), choices={"mix": "prob"})).diagnosis
        wrong = session(Implementation("hmoe", name="hidden", step=hidden)).diagnosis
    assert diagnosis.kind == "agrees"
    assert wrong.text == "would pass if this choice were declared: HMOE-C3: mix = 'hidden'"


def hidden(given, state):
    """Mixes hidden vectors."""
    method = HMoEPass(**{**vars(given.method), "mix": "hidden"})
    return {"out": observed(method.network, "network", given.plain)["out"]}


def test_a_failure_names_the_equation_the_sizes_and_the_page():
    found, _ = outcome("SigmoidGate")
    results = [runner.result(runner.BoundCheck(found, check), None) for check in found.checks]
    message = next(result.message for result in results if result.name == "check_hmoe_gates_share_among_experts")
    assert "derivations/mmoe.md, MMOE-2" in message
    assert "experts, batch" in message


def test_cases_repeat_and_keep_off_kinks():
    impl = implementation()
    first, second = battery(PLAN, impl, "step", 12), battery(PLAN, impl, "step", 12)
    assert all(same(a.steps[0].asked, b.steps[0].asked) for a, b in zip(first, second, strict=True))
    passes = [case.steps[0].asked for case in first]
    assert all(nearest_kink(given) >= MARGIN for given in passes if given.method.activation == "relu")
    assert {len(given.x) for given in passes} >= {1, 4}
    assert any(not given.delta[0].all() for given in passes)


def test_digging_draws_passes():
    dug = draw(cases(PLAN, implementation(), "step"), 5, "dug")
    assert len(dug) == 5
    assert all(case.steps[0].asked.n_tasks == case.n_tasks for case in dug)


def test_what_cannot_be_is_refused():
    with pytest.raises(DomainError, match="HMOE-C5"):
        Implementation("hmoe", name="mine", step=dict, choices={"mode": "stacked", "constrained": False})
    with pytest.raises(ShapeError, match="towers must be one a scenario, 2; there are 3"):
        HMoEPass(towers=(1, 1, 1)).init(2)
