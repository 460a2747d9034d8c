"""Whoever is wrong in a way that is not listed fails all the same, and the message says where."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest

from mtlref.conformance.runner import session
from mtlref.defects import DEFECTS
from tests.conformance import right_gradients, wrong, wrong_combination, wrong_gradients, wrong_hmoe, wrong_pe_ltr
from tests.conformance.variants import ready, results


@pytest.mark.parametrize(
    "impl",
    [*wrong.WRONG, *wrong_gradients.WRONG, *wrong_combination.WRONG, *wrong_hmoe.WRONG],
    ids=lambda impl: f"{impl.method}: {impl.name}",
)
def test_a_wrong_implementation_fails(impl):
    """Of every eighth all checks are run, with the diagnosis; of the others those up to the first that fails."""
    whole = impl in wrong.WRONG[::8]
    with np.errstate(all="ignore"):
        found = ready(impl, diagnosed=whole)
        bad = (result for result in results(found) if result.status in ("failed", "unusable"))
        told = list(bad if whole else islice(bad, 1))
    assert told
    assert all(result.message for result in told)
    assert not found.answers.printed


def test_none_of_them_is_taken_for_a_listed_defect():
    """A diagnosis is a claim about all numbers: what merely looks like a defect is not called one."""
    known = {"norm_without_the_bias", "mean_over_the_tasks", "ratio_of_last_batches", "guard_in_the_coefficient"}
    for impl in wrong.WRONG:
        if impl.name in known:
            with np.errstate(all="ignore"):
                diagnosis = ready(impl).diagnosis
            assert diagnosis.kind == "differs", (impl.name, diagnosis.text)
            assert not diagnosis.candidates
    assert known <= {impl.name for impl in wrong.WRONG}
    assert all(DEFECTS[impl.method] for impl in wrong.WRONG)


TOLD = {
    "softmax_of_free_parameters": {"LogitsMoved [GN-7]"},
    "no division by the norm": {"MissingNormalisation [PCG-3]"},
    "norm for its square": {"NormForSquare [PCG-3]"},
    "unit gradients": {"UnitGradients [PCG-4]"},
    "the partner is projected": {"FixedOrder [PCG-2]"},
    "normal equations": {"SquaredCondition [PELTR-2]"},
    "negative ones shifted once": {"OneShift [PELTR-4]"},
    "bounds with the wrong sign": {"BoundsSign [PELTR-2]"},
    "tasks without gradient stop all": set(),
    "bounds mixed in at the end": {"UnshiftedSystem [PELTR-2]"},
}
"""What the diagnosis has to call some of them, written without the listed defects' code; nothing of one that
is wrong only where a listed defect has no answer."""


@pytest.mark.parametrize("name", TOLD)
def test_a_defect_is_known_by_its_numbers(name):
    impl = next(impl for impl in [*wrong.WRONG, *wrong_gradients.WRONG] if impl.name == name)
    with np.errstate(all="ignore"):
        diagnosis = session(impl).diagnosis
    assert {candidate.name for candidate in diagnosis.candidates} == TOLD[name], diagnosis.text


def test_slsqp_is_the_projection_but_for_some():
    rng = np.random.default_rng(0)
    errors = []
    for K in rng.integers(2, 8, 300):
        v = rng.normal(0, 1, K) * np.exp(rng.normal())
        v += (1 - v.sum()) / K
        errors.append(np.max(np.abs(wrong_pe_ltr.kinked(v, 1.0) - right_gradients.by_sorting(v, 1.0))))
    assert np.median(errors) < 1e-13
    assert 1e-9 < np.max(errors) < 1e-6
