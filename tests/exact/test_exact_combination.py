"""The exact combination: by hand, against logarithms in 50 digits, its algebra without rounding, bad inputs."""

from __future__ import annotations

from decimal import Decimal, localcontext
from fractions import Fraction as F

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtlref.exact import UndefinedError
from mtlref.exact import combination as exact

WHOLE = st.integers(1, 12)


def several(count):
    """So many vectors of whole weights of one number of tasks."""
    return st.integers(1, 4).flatmap(
        lambda K: st.lists(st.lists(WHOLE, min_size=K, max_size=K), min_size=count, max_size=count)
    )


def test_by_hand():
    """(2/5, 3/5)² and (3, 1)^-1: 4/25 · 1/3 against 9/25 · 1, that is 4 : 27."""
    rows = ((F(2, 5), F(3, 5)), (3, 1))
    assert exact.scaled(rows[0]) == (F(4, 5), F(6, 5))
    assert exact.combined(rows, (1, 1)) == (F(4, 3), F(2, 3))
    assert exact.combined(rows, (2, -1)) == (F(8, 31), F(54, 31))
    assert exact.factors(rows, (2, -1)) == (F(16, 25) * F(2, 3), F(36, 25) * 2)
    assert exact.combined(rows, (0, 0)) == (1, 1)
    assert exact.epoch_mean((F(5), F(1)), (1, 2), 2) == (2, 1)


def test_an_exponent_of_a_half_is_rational_where_the_roots_are():
    assert exact.combined(((9, 4, 1),), (F(1, 2),)) == (F(3, 2), 1, F(1, 2))
    assert all(isinstance(value, Decimal) for value in exact.combined(((2, 1),), (F(1, 2),)))


@given(several(2), st.floats(-3, 3), st.floats(-3, 3))
def test_fractional_exponents_against_logarithms(rows, beta, gamma):
    """K exp(Σ β log w) over its sum, in 60 digits."""
    with localcontext() as context:
        context.prec = 60
        logs = [
            sum((Decimal(b) * Decimal(w).ln() for b, w in zip((beta, gamma), column, strict=True)), Decimal(0))
            for column in zip(*rows, strict=True)
        ]
        powers = [log.exp() for log in logs]
        expected = [len(powers) * power / sum(powers) for power in powers]
        found = exact.combined(rows, (beta, gamma))
        for got, wanted in zip(found, expected, strict=True):
            got = Decimal(got.numerator) / Decimal(got.denominator) if isinstance(got, F) else got
            assert abs(got / wanted - 1) < Decimal("1e-45")


@given(several(3))
def test_the_algebra_holds_exactly(abc):
    a, b, c = abc
    ones = (1,) * len(a)
    one = (1, 1)
    assert exact.combined((a, b), one) == exact.combined((b, a), one)
    assert exact.combined((exact.combined((a, b), one), c), one) == exact.combined((a, b, c), (1, 1, 1))
    assert exact.combined((a, ones), one) == exact.scaled(a) == exact.scaled(exact.scaled(a))
    assert exact.combined((a, exact.inverse(a)), one) == ones
    assert exact.scaled(exact.factors((a, b), (2, -1))) == exact.combined((a, b), (2, -1))


@given(several(1))
def test_surgery_on_weighted_gradients_is_weighted_surgery(lam):
    """Without any rounding: the coefficients of the unweighted gradients are Σ_i λ_i coeff_ij."""
    (lam,) = lam
    rows = [[(3 * i + 2 * d + i * d) % 7 - 3 for d in range(2)] for i in range(len(lam))]
    orders = [[j for j in reversed(range(len(lam))) if j != i] for i in range(len(lam))]
    c = exact.surgery(lam, rows, orders)
    coefficients = exact.pcgrad.step(rows, orders)["coefficients"]
    expected = tuple(sum(lam[i] * coefficients[i][j] for i in range(len(lam))) for j in range(len(lam)))
    assert exact.on_unweighted(c, lam) == expected


def test_balance_turns_weights_round():
    """Orthogonal unit gradients, λ = (2, 1): ω = (1/5, 4/5), so w = 2 (2/5, 4/5)."""
    omega = exact.balance((2, 1), ((1, 0), (0, 1)))
    assert omega == (F(1, 5), F(4, 5))
    assert exact.on_unweighted(omega, (2, 1), 2) == (F(4, 5), F(8, 5))


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: exact.scaled((0, 0)),
        lambda: exact.scaled((1, -1)),
        lambda: exact.inverse((1, 0)),
        lambda: exact.combined(((1, 0), (0, 1)), (1, 1)),
        lambda: exact.combined(((1, 0),), (-1,)),
    ],
)
def test_what_has_no_value_is_refused(wrong):
    with pytest.raises(UndefinedError):
        wrong()
