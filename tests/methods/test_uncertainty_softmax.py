"""Uncertainty Weighting: the scaled softmax against 50 digits, and the error of its approximation."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st

from mtlref.exact import uncertainty as exact
from mtlref.methods.uncertainty import log_ratio, log_ratio_slope, scaled_softmax_loss

LOGITS = np.array([2.0, -1.0, 0.5, 0.0])
logits = st.lists(st.integers(-40, 40).map(lambda n: n / 8), min_size=1, max_size=6).map(np.array)


@limits(max_examples=40)
@given(logits, st.floats(-3, 6), st.integers(0, 5))
def test_the_scaled_softmax_agrees(f, s, label):
    c = label % len(f)
    size = 1e-14 * (1 + math.exp(-s)) * (10 + np.max(np.abs(f)))
    assert abs(scaled_softmax_loss(f, c, s) - float(exact.scaled_softmax_loss(f.tolist(), c, s))) <= size
    assert abs(log_ratio(f, s) - float(exact.log_ratio(f.tolist(), s))) <= size
    cross_entropy = float(exact.scaled_softmax_loss(f.tolist(), c, 0))
    assert abs(scaled_softmax_loss(f, c, s) - math.exp(-s) * cross_entropy - log_ratio(f, s)) <= size


# THE APPROXIMATION


@limits(max_examples=40)
@given(logits)
def test_the_approximation_is_exact_at_one_and_its_slope_is_the_entropy(f):
    """At σ = 1 both are 0; dR/ds is H there and ½ in the approximation, that is 2H and 1 in σ."""
    assert log_ratio(f, 0.0) == 0
    entropy = float(exact.entropy(f.tolist()))
    assert math.isclose(log_ratio_slope(f, 0.0), entropy, rel_tol=1e-12, abs_tol=1e-13)
    h = 1e-6
    difference = (log_ratio(f, h) - log_ratio(f, -h)) / (2 * h)
    assert math.isclose(difference, entropy, rel_tol=1e-6, abs_tol=1e-8)


@limits(max_examples=40)
@given(logits, st.floats(-2, 5))
def test_the_slope_of_the_exact_price(f, s):
    h = 1e-5
    difference = (log_ratio(f, s + h) - log_ratio(f, s - h)) / (2 * h)
    assert math.isclose(log_ratio_slope(f, s), difference, rel_tol=1e-5, abs_tol=1e-5)


def test_the_approximation_s_error():
    """R(σ) against log σ for the logits (2, −1, ½, 0), to the digits that the derivation prints."""
    table = {0.5: (-1.367, -0.693), 0.8: (-0.396, -0.223), 1.0: (0.0, 0.0), 2.0: (0.932, 0.693), 4.0: (1.266, 1.386)}
    for sigma, (ratio, approximation) in table.items():
        assert round(log_ratio(LOGITS, 2 * math.log(sigma)), 3) == ratio
        assert round(math.log(sigma), 3) == approximation


def test_the_exact_price_is_bounded_where_the_approximation_is_not():
    """R → log C for σ → ∞, and R ~ (max f − log Σ e^f)/σ² for σ → 0."""
    assert math.isclose(log_ratio(LOGITS, 60.0), math.log(4), rel_tol=1e-12)
    s = -8.0
    expected = math.exp(-s) * (2.0 - math.log(np.sum(np.exp(LOGITS))))
    assert math.isclose(log_ratio(LOGITS, s), expected, rel_tol=1e-9)
