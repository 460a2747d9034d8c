"""How exact printed numbers are, against decimal arithmetic, and which digits are seen."""

from __future__ import annotations

from decimal import Decimal

import numpy as np
import pytest

from mtlref.audit.precision import DOUBLE, ROUNDINGS, SINGLE, precision, precisions

ARITHMETIC = ROUNDINGS * SINGLE
"""What the run's own arithmetic may be off by, hidden behind the digits."""


def printed(x, form):
    return np.vectorize(lambda v: float(form % v))(x)


def half_unit(x, digits):
    """Half a unit of the last of so many significant digits, in decimal arithmetic."""
    return float(Decimal(5).scaleb(Decimal(repr(float(x))).adjusted() - int(digits)))


@pytest.mark.parametrize("digits", range(3, 9))
def test_significant_digits_are_known_to_half_a_unit_of_the_last(digits):
    x = 10 ** np.random.default_rng(digits).uniform(-3, 4, (200, 3))
    logged = printed(x, f"%.{digits}g")
    known = precision(logged, DOUBLE)
    assert known.words == f"{digits} significant digits"
    assert np.all(np.abs(logged - x) <= known.of(logged))
    halves = np.vectorize(half_unit)(logged, digits)
    beside = np.vectorize(half_unit)(logged * 10, digits)  # of one just below a power of ten
    near = logged * (1 + 10.0 ** (1 - digits)) >= 2 * halves * 10.0**digits
    allowed = np.where(near, beside, halves)
    assert known.of(logged) == pytest.approx(allowed + ARITHMETIC * logged, rel=1e-9)
    assert np.mean(near) < 0.02


def test_digits_of_weights_around_1_are_six_decimals_below_and_five_above():
    """C's and NumPy's %g: 0.927482 beside 1.03192. All end after six decimals, and half of them use the last one."""
    x = np.random.default_rng(0).uniform(0.9, 1.1, (100, 2))
    logged = printed(x, "%.6g")
    known = precision(logged, DOUBLE)
    assert known.words == "6 significant digits"
    assert np.all(np.abs(logged - x) <= known.of(logged))
    assert known.of(np.array([0.927482, 1.03192])) == pytest.approx([5e-7, 5e-6], abs=ARITHMETIC * 1.1)
    assert known.printed(np.array([0.9999999]))[0] == pytest.approx(5e-6)  # what printing may have made 1 of


def test_decimals_below_1_are_decimals():
    x = np.random.default_rng(0).uniform(0.1, 1, (100, 2)).round(4)
    known = precision(x, DOUBLE)
    assert (known.words, known.digits, known.absolute) == ("4 decimals", None, 5e-5)
    spread = precision(np.concatenate([x, x / 10]).round(4), DOUBLE)
    assert spread.of(np.array([0.0123])) == pytest.approx([5e-5], abs=1e-6)


FEW = np.array([0.5, 0.499, 0.498, 0.497] * 25).reshape(50, 2)
"""Weights that have hardly moved: what they were rounded to cannot be seen from them."""


def test_few_different_numbers_are_printed_as_the_others_are():
    losses = printed(np.random.default_rng(0).uniform(0.1, 5, (50, 2)), "%.3g")
    assert precisions({"weights": FEW}, DOUBLE)["weights"].words == "float64"
    assert precisions({"losses": losses, "weights": FEW}, DOUBLE)["weights"].words == "3 significant digits"
    decimals = precisions({"losses": losses.round(1), "norms": losses.round(3), "weights": FEW}, DOUBLE)["weights"]
    assert decimals.words == precision(losses.round(3), DOUBLE).words


@pytest.mark.parametrize("weights", [FEW + 1e-6, np.full((50, 2), 1 / 3)])
def test_numbers_with_more_digits_than_the_others_are_exact(weights):
    losses = np.random.default_rng(0).uniform(0.1, 5, (50, 2)).round(3)
    assert precisions({"losses": losses, "weights": weights}, DOUBLE)["weights"].words == "float64"


def test_exact_numbers_beside_exact_ones_stay_exact():
    losses = np.random.default_rng(0).uniform(0.1, 5, (50, 2))
    assert precisions({"losses": losses, "weights": np.ones((50, 2))}, DOUBLE)["weights"].words == "float64"


def test_numbers_that_come_often_and_use_no_digit_hide_none():
    """Losses that have converged are printed as 1, again and again."""
    x = 1 + np.exp(-np.arange(300) / 12.0)[:, None] * np.array([1.0, 2.5])
    assert precision(x.round(4), DOUBLE).words == "4 decimals"
    assert np.mean(x.round(4) == 1) > 0.5
    late = np.concatenate([x.round(4), np.ones((5000, 2))])
    assert precision(late, DOUBLE).words == "4 decimals"


def test_whole_numbers_are_exact_unless_all_have_as_many_digits():
    counts = np.random.default_rng(0).integers(1, 100, (60, 2)).astype(float)
    assert precision(counts, DOUBLE).words == "float64"
    large = printed(np.random.default_rng(0).uniform(120, 980, (60, 2)), "%.3g")
    assert precision(large, DOUBLE).words == "3 significant digits"
    assert precision(large, DOUBLE).printed(np.array([500.0])) == pytest.approx([0.5])


def test_numbers_that_are_all_0_or_beyond_what_is_asked_for_digits_are_exact():
    for values in (np.zeros((20, 2)), np.full((20, 2), 1e-300), np.full((20, 2), 1e12)):
        assert precision(values, DOUBLE).words == "float64"
