"""What is proved of a minimum-norm point: QP-9 against rational optima of moved points."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mtlref import certificate, qp, rationals
from mtlref.certificate import lengths_of, residuals, rounding, support_margin
from mtlref.exact import fractions
from mtlref.exact import pe_ltr as exact
from mtlref.experiments import pe_ltr_gap


def optimum(points):
    """The rational optimum over the unit simplex, and the shortest vector as float64."""
    rows = points.tolist()
    a = exact.optimum(exact.gram(rows), (exact.fraction(0),) * len(rows), exact.fraction(1))
    columns = zip(*(fractions(row) for row in rows), strict=True)
    return a, np.array([float(exact.dot(a, column)) for column in columns])


def shortest(points):
    """Weights of the shortest vector, by the float64 path alone."""
    return qp.minimum_norm(points).weights


# QP-6 AND QP-7


def test_residuals_and_rounding_by_hand():
    """d = (1/2, 1/2): d·d = 1/2, d·b_3 = 1/4. m = 1, ν = 2⁻⁴⁰."""
    points = np.array([[1.0, 0.0], [0.0, 1.0], [0.25, 0.25]])
    a = np.array([0.5, 0.5, 0.0])
    np.testing.assert_array_equal(residuals(points, a), [0.0, 0.0, 0.25])
    expected = 2.0**-40 * np.array([2.0, 2.0, 1 + math.sqrt(0.125)])
    np.testing.assert_allclose(rounding(a, lengths_of(points), 2.0**-40), expected, rtol=1e-15)


# QP-9


@pytest.mark.parametrize("noise", [1e-2, 1e-3, 1e-4, 1e-6])
def test_a_proved_support_stays_right_however_the_points_are_rounded(noise):
    """Points are moved by noise ℓ_i / 4: where the margin is above 0 the rational optimum keeps its support.

    Its shortest vector is within q / σ ≤ `STEADY` ν ℓ of Σ a_i b_i of the moved points.
    """
    rng = np.random.default_rng(round(1 / noise))
    proved = changed = 0
    for _ in range(150):
        K, D = int(rng.integers(2, 5)), int(rng.integers(2, 6))
        points = rng.standard_normal((K, D)) * np.exp(rng.standard_normal((K, 1)))
        a = shortest(points)
        sizes = lengths_of(points) * (1 + rng.random(K) * (rng.random() < 0.5))
        margin = support_margin(points, a, sizes, noise)
        moves = rng.standard_normal((K, D))
        moved = points + noise / 4 * (sizes / lengths_of(moves))[:, None] * moves
        best, vector = optimum(moved)
        same = np.array_equal(np.array(best, float) > 0, a > 0)
        if margin > 0:
            proved += 1
            assert same
            assert np.linalg.norm(a @ moved - vector) <= certificate.STEADY * noise * float(a @ sizes)
        changed += not same
    assert proved > 0
    assert changed > 0 or noise < 1e-3


def test_a_point_on_the_plane_leaves_doubt():
    """b_3 at a height h over the plane through b_1 and b_2: proved from some h on, in doubt below, wrong at h < 0."""
    points = np.array([[1.0, 1.0], [-1.0, 1.0], [0.5, 1.0]])
    a = np.array([0.5, 0.5, 0.0])
    noise, sizes = 1e-6, lengths_of(points)
    heights = [1e-2, 1e-4, 1e-7, 0.0, -1e-2]
    margins = []
    for h in heights:
        points[2, 1] = 1 + h
        margins.append(support_margin(points, a, sizes, noise))
    assert [margin > 0 for margin in margins] == [True, True, False, False, False]
    assert margins == sorted(margins, reverse=True)


def test_dependent_points_and_small_weights_leave_doubt():
    """Equal points, three on a line, and a weight as small as the rounding: no support is proved."""
    noise = 1e-10
    for points, a in (
        ([[1.0, 1.0], [1.0, 1.0]], [0.5, 0.5]),
        ([[1.0, 1.0], [0.0, 1.0], [-1.0, 1.0]], [0.25, 0.5, 0.25]),
        ([[1e-12, 1.0], [1.0, 1.0]], [1.0 - 1e-12, 1e-12]),
    ):
        points = np.array(points)
        assert support_margin(points, np.array(a), lengths_of(points), noise) <= 0
    apart = np.array([[1.0, 1.0], [-1.0, 1.0]])
    assert support_margin(apart, np.array([0.5, 0.5]), lengths_of(apart), noise) > 0


def test_hard_supports_that_are_proved_are_the_rational_ones():
    """With bounds: QP-9 proves most supports; each is that of the rational optimum of the unrounded points."""
    rng = np.random.default_rng(11)
    proved = doubtful = 0
    for _ in range(150):
        J, c = pe_ltr_gap.hard_problem(rng, "always")
        slack = 1 - math.fsum(c)
        points = qp.shifted_points(J, c, slack)
        first, _ = qp.equal_rows(J)
        if len(first) == 1:
            continue
        sizes = slack * lengths_of(J) + c @ lengths_of(J)
        a = qp.refine(
            qp.Hull(points[first], lengths_of(points[first]), np.ones(len(first), int), 1e-14),
            qp.cone_weights(points[first], lengths_of(points[first])),
        ).a
        if support_margin(points[first], a, sizes[first], 4 * sum(J.shape) * certificate.EPS) <= 0:
            doubtful += 1
            continue
        proved += 1
        best = rationals.exact_optimum(rationals.exact_points(J, c)[first])
        np.testing.assert_array_equal(best > 0, a > 0)
    assert proved > 2 * doubtful > 0
