"""What is proved of a minimum-norm point: QP-9 against rational optima of moved points."""

from __future__ import annotations

import math
from fractions import Fraction as F

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
    a = exact.optimum(exact.gram(rows), (F(0),) * len(rows), F(1))
    columns = zip(*(fractions(row) for row in rows), strict=True)
    return a, np.array([float(exact.dot(a, column)) for column in columns])


# QP-6 AND QP-7


def test_residuals_and_rounding_by_hand():
    """d = (1/2, 1/2): d·d = 1/2, d·b_3 = 1/4. m = 1, ν = 2⁻⁴⁰."""
    points = np.array([[1.0, 0.0], [0.0, 1.0], [0.25, 0.25]])
    a = np.array([0.5, 0.5, 0.0])
    np.testing.assert_array_equal(residuals(points, a), [0.0, 0.0, 0.25])
    expected = 2.0**-40 * np.array([2.0, 2.0, 1 + math.sqrt(0.125)])
    np.testing.assert_allclose(rounding(a, lengths_of(points), 2.0**-40), expected, rtol=1e-15)


# QP-9


def near_problem(rng, noise):
    """Points and their optimal weights, where a weight, or a height over the plane, is not far from `noise`."""
    D, k, outside = int(rng.integers(2, 6)), int(rng.integers(1, 4)), int(rng.integers(0, 3))
    k = min(k, D)
    near = noise * 10.0 ** rng.uniform(-1, 2)
    a = rng.dirichlet(np.ones(k))
    if k > 1 and rng.random() < 0.7:
        a[0] = near
        a /= a.sum()
    d = rng.standard_normal(D) * 10.0 ** rng.uniform(-2, 0.5)
    beside = rng.standard_normal((k + outside, D)) * np.exp(rng.standard_normal((k + outside, 1)))
    beside -= np.outer(beside @ d, d) / (d @ d)
    beside[k - 1] = -(a[: k - 1] @ beside[: k - 1]) / a[k - 1]
    points = d + beside
    points[k:] += np.outer(near * 10.0 ** rng.uniform(0, 2, outside), d / np.linalg.norm(d))
    return points, np.append(a, np.zeros(outside)), d


@pytest.mark.parametrize("noise", [1e-2, 1e-4, 1e-6])
def test_a_proved_support_stays_right_however_the_points_are_rounded(noise):
    """Points are moved by ν ℓ_i / 4: where the margin is above 0 the rational optimum keeps its support.

    The shortest vector is then within q / σ ≤ `STEADY` ν ℓ of Σ a_i b_i of the moved points. Where it is not,
    some supports do change.
    """
    rng = np.random.default_rng(round(1 / noise))
    proved = changed = 0
    for _ in range(200):
        points, a, d = near_problem(rng, noise)
        if len(a) == 1:
            continue
        sizes = lengths_of(points)
        margin = support_margin(points, a, sizes, noise)
        moves = rng.standard_normal(points.shape) if rng.random() < 0.5 else np.outer(rng.choice([-1, 1], len(a)), d)
        moved = points + noise / 4 * (sizes / lengths_of(moves))[:, None] * moves
        best, vector = optimum(moved)
        same = np.array_equal(np.array(best, float) > 0, a > 0)
        changed += not same
        if margin > 0:
            proved += 1
            assert same
            assert np.linalg.norm(a @ moved - vector) <= certificate.STEADY * noise * float(a @ sizes)
    assert proved >= 10
    assert changed >= 3


def terms_of_the_margin(points, a, sizes, noise):
    """The four kinds of terms of QP-9 in its own words, for up to three points in the support."""
    inside = [i for i in range(len(a)) if a[i] > 0]
    r = min(inside, key=lambda i: math.hypot(*points[i]))
    others = [i for i in inside if i != r]
    k, level = len(others), sum(a[i] * sizes[i] for i in inside)
    d = [sum(a[i] * points[i][n] for i in inside) for n in range(len(points[0]))]
    long = [sizes[i] + sizes[r] for i in others]
    e = [
        [(x - y) / at for x, y in zip(points[i], points[r], strict=True)] for i, at in zip(others, long, strict=True)
    ]
    sigma, q, terms = 1.0, 0.0, {}
    if others:
        sigma = max(least_singular_value(e) - math.sqrt(k) * noise, 0.0)
        slopes = [sum(x * y for x, y in zip(d, row, strict=True)) for row in e]
        q = sigma * noise * level + math.hypot(*slopes) + math.sqrt(k) * noise * math.hypot(*d)
        terms["weights"] = min(sigma**2 * a[i] * at - q for i, at in zip(others, long, strict=True))
        terms["origin"] = sigma**2 * (a[r] - noise) - math.sqrt(k) * q / min(long)
        terms["steady"] = 16 * sigma * noise * level - q
    for j in range(len(a)):
        if j not in inside:
            v = sum(x * x for x in d) - sum(x * y for x, y in zip(d, points[j], strict=True))
            far = level + sizes[j]
            height = -sigma * (v + noise * level * far) - q * far
            terms["outside"] = min(height, terms.get("outside", math.inf))
    return terms


def least_singular_value(rows):
    """Of one row its length; of two, from trace and determinant of E Eᵀ, and 0 if they have one entry each."""
    if len(rows) == 1:
        return math.hypot(*rows[0])
    if len(rows[0]) == 1:
        return 0.0
    one, other = (sum(x * x for x in row) for row in rows)
    both = sum(x * y for x, y in zip(*rows, strict=True))
    root = math.hypot((one - other) / 2, both)
    return math.sqrt(one * other - both**2) / math.sqrt((one + other) / 2 + root)


def test_the_margin_is_the_least_of_its_terms():
    """Each kind of term is the least somewhere; ℓ_i are larger than the points, as bounds make them."""
    rng, least = np.random.default_rng(5), list[str]()
    for noise in (0.3, 2e-2, 1e-4):
        for _ in range(300):
            points, a, _ = near_problem(rng, noise * 10.0 ** rng.uniform(-3, 0))
            if len(a) == 1:
                continue
            points = points[:, :1] if rng.random() < 0.2 else points
            sizes = lengths_of(points) * np.exp(rng.exponential(0.5, len(a)))
            terms = terms_of_the_margin(points.tolist(), a.tolist(), sizes.tolist(), noise)
            margin, scale = support_margin(points, a, sizes, noise), max(map(abs, terms.values()))
            assert margin == pytest.approx(min(terms.values()), rel=1e-9, abs=1e-12 * scale)
            least.append(min(terms, key=lambda kind: terms[kind]))
    assert min(map(least.count, ("weights", "origin", "steady", "outside"))) >= 20


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
