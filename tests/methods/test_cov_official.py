"""CoV-Weighting: the official code's choices, and the known defects."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st

from mtlref.defects.cov import DEFECTS
from mtlref.defects.defect import variant
from mtlref.methods.cov import CoVWeighting
from tests.methods.test_cov import HAND, follow, runs, used

BESIDE = ("HeadsUnweighted", "HeadsMean", "NextWeightsAtOnce", "StartAtOne", "StartBelowZero")
"""What changes the heads, the start or the timing alone: tests/test_defects.py shows it."""

NAMED = {defect.name: defect for defect in DEFECTS}

# CHOICES OF THE OFFICIAL CODE


def official(losses, decay=None):
    """Return the official code's weights as its loop forms them: sums of squares, a floor of 1e-8, weights first."""
    K, weights = len(losses[0]), []
    S, mu_L, mu, deviation = np.zeros(K), np.zeros(K), np.zeros(K), np.ones(K)
    for iteration, row in enumerate(np.array(losses)):
        ratio = row / (row if iteration == 0 else mu_L)
        c = deviation / mu if iteration > 1 else np.ones(K)
        weights.append(c / np.sum(c))
        keep = 0.0 if iteration == 0 else 1 - 1 / (iteration + 1) if decay is None else decay
        moved = keep * mu + (1 - keep) * ratio
        S = S + (ratio - mu) * (ratio - moved)
        mu = moved
        deviation = np.sqrt(S / (iteration + 1) + 1e-8)
        mu_L = keep * mu_L + (1 - keep) * row
    return np.array(weights)


def test_ratio_and_loss_are_two_methods():
    one, other = used(CoVWeighting(), HAND), used(CoVWeighting(observed="loss"), HAND)
    assert np.max(np.abs(one - other)) > 0.01


@limits(max_examples=25)
@given(runs())
def test_the_official_code_is_previous_with_the_floor(losses):
    method = variant(CoVWeighting(statistics="previous"), NAMED["FloorUnderRoot"])
    np.testing.assert_allclose(used(method, losses), official(losses), rtol=1e-9)


@limits(max_examples=25)
@given(runs(), st.sampled_from([0.5, 0.9]))
def test_the_official_decay_keeps_all_of_the_variance(losses, decay):
    wrong = NAMED["FloorUnderRoot"], NAMED["DecayedMeanOnly"]
    method = variant(CoVWeighting(statistics="previous", decay=decay), *wrong)
    np.testing.assert_allclose(used(method, losses), official(losses, decay), rtol=1e-9)


@pytest.mark.parametrize("defect", [d for d in DEFECTS if d.name not in BESIDE], ids=lambda defect: defect.name)
def test_every_defect_gives_other_weights(defect):
    method = CoVWeighting(decay=0.7)
    losses = (1 + 0.003 * np.array(HAND)).tolist()
    assert np.max(np.abs(used(method, losses) - used(variant(method, defect), losses))) > 1e-6


@pytest.mark.parametrize("defect", [d for d in DEFECTS if d.name not in BESIDE], ids=lambda defect: defect.name)
def test_every_defect_breaks_its_own_equation_first(defect):
    method = CoVWeighting(decay=0.7)
    pairs = zip(follow(method, HAND), follow(variant(method, defect), HAND), strict=True)
    differ = (
        tag
        for one, other in pairs
        for name, tag in method.tags.items()
        if not np.array_equal(one.terms[name], other.terms[name])
    )
    assert next(differ) == defect.equation
