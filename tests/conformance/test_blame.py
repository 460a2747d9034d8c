"""The blame matrix: every defect fails a check, every check fails for a defect, the diagnosis names exactly the
defect."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from mtlref.conformance import Implementation
from mtlref.conformance.diagnosis import diagnose
from mtlref.conformance.runner import session
from mtlref.defects import DEFECTS, combinations
from tests.conformance import wrong_combination, wrong_gradients
from tests.conformance.variants import DECLARED, SHOWS, STEMS, fails, implementation, judged, ready, results

ALL = [(stem, defect.name) for stem in STEMS for defect in DEFECTS[stem]]

BY_HAND = {
    "direction_is_that_of_the_weights": "the weights make the direction: the check wants others reported, below",
    "dependent_gradients_have_relaxed_weights_of_least_norm": "wants the rule declared and not followed, below",
    "sees_inner_products_alone": "PCGrad's equations get inner products: the check wants one that gets signs, below",
    "draws_anew": "a draw is given: the check wants one that draws for itself and does not, in test_orders",
    "ignores_the_gradients_common_scale": "PE-LTR brings gradients to a common size first: an absolute ridge, below",
    "answers_every_problem": "a method with a defect answers: the check wants one that crashes, below",
    "replays_its_runs": "a method with a defect starts anew: the check wants one that does not, below",
    "check_combination_permutes_with_the_tasks": "all equations treat tasks alike: it wants one favoured, below",
    "ignores_evaluations": "extra steps are no replaced equation: the check wants one that makes them, below",
}
"""The checks that no listed defect has to fail, and why."""

ALIKE = {
    "pcgrad": ((("MeanAlways [PCG-5]", "PCG-C2: reduction = 'mean'"), "the choice, undeclared"),),
    "pe_ltr": ((("NextWeightsAtOnce [PELTR-8]", "PELTR-C1: timing = 'same'"), "the choice, undeclared"),),
}
"""Defects that no observable tells apart, by method: sets of names, each with the reason."""

SILENT = {"ZeroGradientNaN"}
"""Defects that show by no answer at all: beside another one they leave no number behind."""


def named(stem, *names):
    """The defects of these names."""
    return tuple(defect for defect in DEFECTS[stem] if defect.name in names)


@cache
def outcome(stem, name):
    """The session of a defect, and the names of the checks that it fails."""
    with np.errstate(all="ignore"):
        found, told = judged(implementation(stem, named(stem, name), SHOWS.get((stem, name))))
        return found, {check for check, result in told.items() if result.status == "failed"}


@pytest.mark.parametrize("stem", STEMS)
def test_the_specification_passes(stem):
    for choices in DECLARED.get(stem, ({},)):
        told = results(ready(implementation(stem, (), choices)))
        assert {result.status for result in told} <= {"passed", "skipped"}, choices


@pytest.mark.parametrize(("stem", "name"), ALL)
def test_a_defect_fails_a_check_and_is_named(stem, name):
    found, checks = outcome(stem, name)
    assert checks
    with np.errstate(all="ignore"):
        diagnosis = found.diagnosis
    if name in SILENT:
        assert checks >= {f"check_{stem}_answers_every_problem"}
        assert diagnosis.kind == "agrees"
        return
    names = {candidate.name for candidate in diagnosis.candidates}
    own = {f"{defect.name} [{defect.equation}]" for defect in named(stem, name)}
    alike = next((set(group) for group, _ in ALIKE.get(stem, ()) if own <= set(group)), own)
    assert names == alike, diagnosis.text
    assert diagnosis.kind == ("defects" if len(alike) == 1 else "ambiguous")


@pytest.mark.parametrize("stem", STEMS)
def test_a_check_is_failed_by_a_defect(stem):
    checks = {check.name for check in session(implementation(stem)).checks}
    failing = {check for defect in DEFECTS[stem] for check in outcome(stem, defect.name)[1]}
    assert {c for c in checks - failing if BY_HAND.keys().isdisjoint({c, c.removeprefix(f"check_{stem}_")})} == set()


@pytest.mark.parametrize("stem", STEMS)
def test_pairs_of_defects_are_named(stem):
    pairs = [pair for pair in combinations(stem, 2) if len(pair) == 2 and SILENT.isdisjoint(d.name for d in pair)]
    chosen = [pairs[i] for i in np.random.default_rng(1).permutation(len(pairs))[:4]]
    told = 0
    for pair in chosen:
        declared = [SHOWS[stem, defect.name] for defect in pair if (stem, defect.name) in SHOWS]
        if len(declared) == 2 and declared[0] != declared[1]:
            continue
        with np.errstate(all="ignore"):
            found = session(implementation(stem, pair, *declared[:1]))
            diagnosis = diagnose(found.answers, found.plan)
        names = [{defect.name for defect in candidate.defects} for candidate in diagnosis.candidates]
        assert {defect.name for defect in pair} in names, (pair[0].name, pair[1].name, diagnosis.text)
        told += diagnosis.kind == "defects"
    assert told == 0 if not pairs else told > len(chosen) / 2


# BY HAND


@pytest.mark.parametrize("stem", STEMS)
def test_an_implementation_that_crashes_is_told_so(stem):
    spec = implementation(stem)

    def step(problem, state):
        if problem.n_tasks == 2:
            raise IndexError("two tasks are too few")
        return spec.step(problem, state)

    found = ready(Implementation(stem, name="crashes", step=step, run=spec.run))
    (result,) = results(found, f"check_{stem}_answers_every_problem")
    assert result.status == "failed"
    assert "IndexError: two tasks are too few" in result.message


@pytest.mark.parametrize("stem", STEMS)
def test_a_run_that_remembers_the_run_before_is_told_so(stem):
    spec, calls = implementation(stem), []

    def run(problems):
        calls.append(problems)
        found = spec.run(problems)
        return {name: [np.asarray(value) + len(calls) for value in rows] for name, rows in found.items()}

    assert fails(Implementation(stem, name="remembers", step=spec.step, run=run), f"check_{stem}_replays_its_runs")


def test_signs_for_gradients_fail_where_space_is_rotated():
    def step(problem, state):
        out = problem.method.step(state, problem.losses, np.sign(problem.jacobian), draw=problem.draw)
        return {"weights": out.weights, "direction": out.weights @ problem.jacobian}

    signs = Implementation("pcgrad", name="signs", step=step)
    assert fails(signs, "check_pcgrad_sees_inner_products_alone")


@pytest.mark.parametrize(
    ("name", "check"),
    [
        ("own orders, reported ones", "check_pcgrad_direction_is_that_of_the_weights"),
        ("two orders in turn", "check_pcgrad_draws_anew"),
        ("rule: equal weights", "check_pe_ltr_dependent_gradients_have_relaxed_weights_of_least_norm"),
        ("reports others", "check_combination_direction_is_that_of_the_weights"),
        ("lengths of another norm", "check_combination_sees_inner_products_alone"),
        ("the first task counts twice", "check_combination_permutes_with_the_tasks"),
    ],
)
def test_what_no_defect_shows_fails_its_check(name, check):
    impl = next(impl for impl in (*wrong_gradients.WRONG, *wrong_combination.WRONG) if impl.name == name)
    assert fails(impl, check)


def test_an_absolute_ridge_fails():
    def step(problem, state):
        A = problem.jacobian @ problem.jacobian.T + 1e-8 * np.eye(problem.n_tasks)
        factor = np.linalg.cholesky(A)
        return {"w_next": problem.method.step(state, problem.losses, factor).terms["w_next"]}

    assert fails(Implementation("pe_ltr", name="ridge", step=step), "check_pe_ltr_ignores_the_gradients_common_scale")


def test_statistics_that_take_evaluations_for_steps_fail():
    def run(problems):
        method = problems.method
        state, weights = method.init(problems.n_tasks), []
        for problem in problems:
            out = method.step(state, problem.losses)
            weights.append(out.weights)
            state = out.state if problem.evaluation is None else method.step(out.state, problem.evaluation).state
        return {"weights": weights}

    assert fails(Implementation("cov", name="evaluates", run=run), "check_cov_ignores_evaluations")
