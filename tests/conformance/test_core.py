"""The kit's own parts: allowances, the cases that are drawn, and the conditions that they meet."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

import mtlref
from mtlref.conformance import Implementation, checks
from mtlref.conformance.allowance import plain, spread
from mtlref.conformance.digging import cases, draw
from mtlref.conformance.problem import Case, Problem, same
from mtlref.conformance.runner import session
from mtlref.conformance.strategies import CONDITIONS, battery, conditions, drawn
from tests.conformance.right import gradnorm_single
from tests.conformance.variants import STEMS, failed, fails, implementation, ready

NEVER = {
    "equal": {"unequal weights", "unequal batches"},
    "fixed": {"unequal batches"},
    "gradnorm": {"unequal batches"},
    "uncertainty": {"unequal batches"},
    "cov": {"unequal batches"},
}
"""The conditions that a method cannot meet: only an epoch has batches, and equal weights are equal."""


def kink():
    """A GradNorm step whose second norm is within float32 rounding of its target: 3, 4 and 5 have the mean 4."""
    method = mtlref.GradNorm(alpha=0.0, lr=0.1)
    J = np.diag([3.0, 4.0 * (1 + 1e-9), 5.0])
    problem = Problem(method, np.ones(3), J)
    return problem, replace(method.init(3), initial_losses=np.ones(3))


def test_the_spread_covers_single_precision_at_a_kink_and_not_in_double():
    problem, state = kink()
    right = problem.step(state).terms["w_next"]
    single = gradnorm_single(problem, state)["w_next"].astype(float)
    assert np.max(np.abs(single - right)) > 1e-3  # in float32 the norm sits on its target, and does not move
    assert np.all(np.abs(single - right) <= spread(problem, state, 2.0**-23)["w_next"])
    assert np.max(spread(problem, state, 2.0**-52)["w_next"]) < 1e-9


def test_an_allowance_is_smaller_than_a_guard_of_1e_8():
    """Weights divided by a sum + 1e-8: off by a part in 10^8, which float64 does not excuse and float32 does."""
    assert plain(np.ones(3), 2.0**-52) < 1e-8 < plain(np.ones(3), 2.0**-23)

    def step(problem, state):
        return {"w_next": problem.step(state).terms["w_next"] / (1 + 1e-8)}

    assert fails(Implementation("gradnorm", name="guard", step=step), "check_gradnorm_next_weights")
    assert not failed(Implementation("gradnorm", name="guard", step=step, dtype="float32"))


def test_the_spread_of_a_run_carries_what_the_method_remembers():
    """Losses that vary by 1e-4: the weights of the statistics before hang on earlier losses 10^4 times as much."""
    method = mtlref.CoVWeighting(statistics="previous")
    rng = np.random.default_rng(2)
    steps = tuple(Problem(method, 1 + 1e-4 * rng.standard_normal(3), np.eye(3)) for _ in range(4))
    state, before = method.init(3), []
    for problem in steps[:-1]:
        before.append((problem, {}))
    alone = state
    for problem in steps[:-1]:
        alone = problem.step(alone).state
    eps = 2.0**-52
    assert np.max(spread(steps[-1], state, eps, before)["weights"]) > 100 * np.max(
        spread(steps[-1], alone, eps)["weights"]
    )


@pytest.mark.parametrize("stem", STEMS)
def test_the_cases_meet_every_condition_that_the_method_can_meet(stem):
    """Over the vectors, the drawn cases and the battery: what decides whether a bug shows is there."""
    found = ready(implementation(stem))
    given = [
        case for kind in ("step", "run") for case in (*found.cases(kind), *battery(found.plan, found.impl, kind))
    ]
    met = frozenset().union(*(conditions(case) for case in given))
    asked = set(CONDITIONS) - NEVER.get(stem, set()) - {"gradients of a network"}  # of live cases, in test_live
    if stem in ("gradnorm", *NEVER, "dwa"):
        norms = {"a gradient of zero", "equal or parallel gradients", "norms a hundredfold apart"}
        assert asked - met <= (norms if mtlref.METHODS[stem].reads == "losses" else set())
    assert not met & NEVER.get(stem, set())
    assert {"three tasks or more", "more tasks than dimensions", "an evaluation after the step"} <= met


@pytest.mark.parametrize("stem", STEMS)
def test_the_same_seeds_give_the_same_cases(stem):
    plan, _ = checks.of(stem)
    impl = implementation(stem)
    for kind in ("step", "run"):
        first, second = battery(plan, impl, kind, 4), battery(plan, impl, kind, 4)
        assert len(first) == 4
        assert all(isinstance(case, Case) and len(case.steps) == (9 if kind == "run" else 1) for case in first)
        for a, b in zip(first, second, strict=True):
            assert same(a.steps, b.steps)
            assert same(a.state, b.state)


def test_a_declaration_for_three_tasks_is_put_to_three_tasks():
    impl = implementation("fixed", (), {"weights": (1.0, 0.5, 2.0)})
    plan, _ = checks.of("fixed")
    assert {case.n_tasks for case in battery(plan, impl, "step", 6)} == {3}
    assert {case.n_tasks for case in drawn(plan, impl, "run", 6)} == {3}
    assert {case.n_tasks for case in draw(cases(plan, impl, "run"), 6, "dug")} == {3}


PROCESS = """
import hashlib
{before}
from mtlref.conformance import Implementation
from mtlref.conformance.runner import session

found = hashlib.sha256()
for stem in ("gradnorm", "dwa", "pcgrad"):
    judged = session(Implementation(stem, name="mine", step=dict))
    for kind in ("step", "run"):
        for case in judged.cases(kind):
            found.update(case.label.encode() + case.state.to_json().encode())
            for p in case.steps:
                found.update(p.losses.tobytes() + p.jacobian.tobytes())
print(found.hexdigest())
"""


def test_the_cases_are_the_same_in_every_process(tmp_path):
    """Whatever is loaded beside, and whatever numbers stand in the modules of whoever is judged."""
    (tmp_path / "theirs.py").write_text("NUMBERS = [12345678, 987654321, 40404040, 31, 2, 77]\n", encoding="utf-8")
    found = set()
    for before, seed in (("", "1"), ("import theirs", "2"), ("import hypothesis, random; random.seed(3)", "3")):
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, sys.path)), "PYTHONHASHSEED": seed}
        command = [sys.executable, "-c", PROCESS.format(before=before)]
        found.add(subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, check=True).stdout)
    assert len(found) == 1
    assert {path.name for path in tmp_path.iterdir()} <= {"theirs.py", "__pycache__"}


def test_checking_takes_neither_hypothesis_nor_pytest(tmp_path):
    code = "import sys; sys.modules['hypothesis'] = sys.modules['pytest'] = None\n" + PROCESS.format(before="")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, sys.path))}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True, capture_output=True)


def test_digging_draws_as_many_as_are_asked_for(monkeypatch):
    monkeypatch.setenv("MTLREF_DIG", "7")
    found = session(implementation("gradnorm"))
    assert sum(case.label.startswith("run ") for case in found.cases("run")) == 7
