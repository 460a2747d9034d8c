"""Runs that yield, that return mappings or lists, and that alter one array in place."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mtlref.conformance import Implementation, check_implementation, runner
from mtlref.conformance.runner import session
from mtlref.defects import DEFECTS
from tests.conformance.recipes import updated
from tests.conformance.variants import implementation

NEXT = "check_gradnorm_next_weights"


@pytest.fixture(autouse=True)
def few_cases(monkeypatch):
    monkeypatch.setattr(runner, "SIZES", {"step": 4, "run": 3, "live": 2})


def in_place(run, wrong=1.0):
    """Each step's weights, in one array that the next step alters."""
    w, L_0 = np.ones(run.n_tasks), None
    for problem in run:
        L_0 = problem.losses if L_0 is None else L_0
        method = problem.method
        w[:] = updated(w, problem.losses, L_0, problem.jacobian, method.alpha, method.lr) * wrong
        yield w


def yielding(run):
    for w in in_place(run):
        yield {"w_next": w}


def listing(run):
    return [{"w_next": w.copy()} for w in in_place(run)]


def naming(run):
    return {"w_next": [w.copy() for w in in_place(run)]}


def judged(run):
    found = check_implementation(Implementation("gradnorm", name="mine", run=run))
    return [result for result in found if result.status not in ("passed", "skipped")]


@pytest.mark.parametrize("run", [yielding, listing, naming])
def test_a_right_run_passes_at_every_door(run):
    assert judged(run) == []


@pytest.mark.parametrize(
    "given",
    [
        lambda run: [{"w_next": w} for w in in_place(run)],
        lambda run: {"w_next": list(in_place(run))},
        lambda run: {"w_next": [w[:] for w in in_place(run)]},
    ],
)
def test_one_array_altered_in_place_is_pointed_out(given):
    bad = judged(given)
    assert {NEXT, "check_gradnorm_follows_its_own_run"} <= {result.name for result in bad}
    said = "w_next: one array at every step of a run; if it is altered in place, yield each step or give copies"
    assert all(said in result.message for result in bad)


def test_a_wrong_run_that_yields_one_array_is_diagnosed_without_a_word_of_it():
    bad = judged(lambda run: ({"w_next": w} for w in in_place(run, 0.5)))
    assert NEXT in {result.name for result in bad}
    assert all("one array" not in result.message for result in bad)


def test_a_tensor_s_place_is_that_of_its_numbers():
    torch = pytest.importorskip("torch", reason="PyTorch is an extra")

    def given(run):
        rows, w = [], torch.ones(run.n_tasks, dtype=torch.float64)
        for found in in_place(run):
            w.copy_(torch.from_numpy(found))
            rows.append({"w_next": w.detach()})
        return rows

    assert all("w_next: one array" in result.message for result in judged(given))


@pytest.mark.parametrize(
    ("run", "said"),
    [
        (lambda run: list(yielding(run))[1:], "run gives 7 mappings for 8 steps"),
        (lambda run: ({"w_next": np.ones(run.n_tasks)} for _ in range(10**9)), "run gives more mappings for 8 steps"),
        (lambda run: iter([1.0] * len(run)), "run must return a mapping from names to values; it returned float"),
        (lambda run: ({"w_next": "heavy"} for _ in run), "w_next is not an array of real numbers"),
        (lambda run: [[1.0]] * len(run), "run must return a mapping from names to values; it returned list"),
    ],
)
def test_what_is_no_run_is_refused(run, said):
    found = session(Implementation("gradnorm", name="mine", run=run))
    case = next(case for case in found.vectors if len(case.steps) == 8)
    with pytest.raises(Exception, match=said):
        found.answers.fresh(case)


def test_what_follows_from_wrong_weights_is_not_called_wrong():
    """A golden run's later steps are those of the right weights; the specification goes on from the wrong ones."""
    defect = next(defect for defect in DEFECTS["gradnorm"] if defect.name == "MeanForSum")
    wrong = implementation("gradnorm", (defect,), names=("w_next", "head_weights", "direction"))
    found = check_implementation(replace(wrong, step=None))
    failed = {result.name for result in found if result.status not in ("passed", "skipped")}
    assert failed == {NEXT, "check_gradnorm_follows_its_own_run"}
    assert {result.diagnosis.candidates[0].name for result in found if result.diagnosis} == {"MeanForSum [GN-5]"}
