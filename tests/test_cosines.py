"""QP-10: the weights from inner products, against rational optima, and where they are refused."""

from __future__ import annotations

from fractions import Fraction as F

import numpy as np
import pytest

from mtlref import cosines, qp
from mtlref.certificate import EPS
from mtlref.cosines import FARTHEST, gram_error, well_apart
from mtlref.exact import fractions
from mtlref.exact import pe_ltr as exact
from mtlref.qp import minimum_norm


def problem(rng):
    """Gradients of lengths 1e±8 with some correlation: mostly well apart, often with tasks of no weight."""
    K, D = int(rng.integers(1, 6)), int(rng.integers(5, 9))
    return (rng.standard_normal((K, D)) + rng.choice([0.0, 0.5])) * 10.0 ** rng.uniform(-8, 8, (K, 1))


def test_the_weights_are_those_of_the_rational_optimum():
    """QP-10: ‖d‖² misses the minimum by at most 2 (‖δC‖ ‖C⁻¹‖)² of itself, at most 2⁻⁴¹."""
    rng = np.random.default_rng(0)
    taken = shed = 0
    for _ in range(200):
        J = problem(rng)
        quick = well_apart(J)
        if quick is None:
            continue
        found, square, exponent = quick
        A = exact.gram(J.tolist())
        best = exact.form(A, exact.optimum(A, (F(0),) * len(J), F(1)))
        above = exact.form(A, fractions(found.a.tolist())) / best - 1
        unit = np.linalg.norm(J, axis=1)
        C = J @ J.T / unit / unit[:, None]
        error = gram_error(np.linalg.inv(C), 4 * sum(J.shape) * EPS)
        assert error <= FARTHEST
        assert above <= 2 * error**2 + 8 * len(J) * EPS
        assert np.ldexp(square, 2 * exponent) == pytest.approx(float(best), rel=1e-9)
        np.testing.assert_array_equal(minimum_norm(J).weights, found.a)
        taken, shed = taken + 1, shed + bool(np.any(found.a == 0))
    assert taken > 150 and shed > 50


@pytest.mark.parametrize(
    "J",
    [
        [[1.0, 0.0], [1.0, 1e-8]],
        [[1.0, 0.0], [-1.0, 1e-8]],
        [[1.0, 2.0], [1.0, 2.0]],
        [[1.0, 0.0], [0.0, 0.0]],
        [[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]],
        [[2.0**-501, 0.0], [0.0, 1.0]],
    ],
)
def test_what_is_not_well_apart_is_left_to_the_longer_way(J):
    """Nearly parallel or opposite, equal, zero, dependent, or too far apart in length."""
    assert well_apart(np.array(J)) is None
    assert minimum_norm(J).residual <= minimum_norm(J).rounding


def test_the_bound_grows_with_the_inverse():
    """Two gradients at an angle θ: ‖C⁻¹‖_F is √2 √(1 + cos²) / sin², and the bound K ν times that."""
    c = np.cos(1e-2)
    inverse = np.linalg.inv(np.array([[1.0, c], [c, 1.0]]))
    assert gram_error(inverse, 2.0**-40) == pytest.approx(
        2.0**-39 * np.sqrt(2 + 2 * c * c) / np.sin(1e-2) ** 2, rel=1e-9
    )


def test_tasks_leave_and_join_in_numbers(monkeypatch):
    """200 gradients, of which the longer way finds the same; supports that are not found soon are left to it too."""
    rng = np.random.default_rng(0)
    J = rng.standard_normal((200, 2000)) + 0.3
    quick = minimum_norm(J)
    assert 0 < np.count_nonzero(quick.weights) < 200
    monkeypatch.setattr(cosines, "EXCHANGES", 1)
    assert well_apart(J) is None
    monkeypatch.setattr(qp, "well_apart", lambda J: None)
    general = minimum_norm(J)
    np.testing.assert_array_equal(quick.weights > 0, general.weights > 0)
    np.testing.assert_allclose(quick.weights, general.weights, atol=1e-13)
    assert quick.objective == pytest.approx(general.objective, rel=1e-12)
    assert 0 <= quick.residual <= quick.rounding


@pytest.mark.parametrize("seed", range(20))
def test_who_has_left_stays_out_so_that_few_exchanges_are_enough(seed):
    """Beside a direction that all share, long gradients have no weight."""
    rng = np.random.default_rng(seed)
    J = (rng.standard_normal((30, 300)) + 0.5) * np.exp(rng.standard_normal((30, 1)))
    found, _, _ = well_apart(J)
    assert 0 < np.count_nonzero(found.a) < 30


def test_weights_that_miss_their_certificate_are_left_to_the_longer_way(monkeypatch):
    """A solver's answer that is off by a thousandth, with the right signs, is not handed out."""
    J = np.array([[1.0, 0.1, 0.0], [0.0, 1.0, 0.2], [0.3, 0.0, 1.0]])
    right, inverse = minimum_norm(J), np.linalg.inv
    assert well_apart(J) is not None
    monkeypatch.setattr(cosines.np.linalg, "inv", lambda C: inverse(C) * np.array([1.001, 1.0, 1.0]))
    assert well_apart(J) is None
    np.testing.assert_allclose(minimum_norm(J).weights, right.weights, rtol=1e-12)


def test_a_power_of_two_changes_no_bit():
    J = problem(np.random.default_rng(3))
    for exponent in (-900, -500, 500, 900):
        scaled = np.ldexp(J, exponent)
        found, square, top = well_apart(J)
        other, square_there, top_there = well_apart(scaled)
        np.testing.assert_array_equal(found.a, other.a)
        assert F(square_there) * F(4) ** top_there == F(square) * F(4) ** (top + exponent)


def test_cosines_whose_inverse_is_beyond_float64_are_left_to_the_longer_way():
    """By hand: w_2 = 0, for d·g_2 = 1e80 > ‖d‖² = 1; w_3 = 1e-160, for g_3 is 1e80 times as long as g_1, at 90°."""
    J = np.array([[-1.0, 1e-160], [-1e80, -1e-160], [-1e-200, 1e80]])
    assert well_apart(J) is None
    found = minimum_norm(J)
    np.testing.assert_allclose(found.weights, [1.0, 0.0, 1e-160], rtol=0, atol=1e-15)
    assert found.objective == 1.0
