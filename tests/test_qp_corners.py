"""Corners of the minimum-norm solver: its steps one by one, its constants, and what it does not spend time on."""

from __future__ import annotations

import dataclasses
import math
from fractions import Fraction as F

import numpy as np
import pytest

from mtlref import certificate, cosines, qp, rationals
from mtlref.certificate import EPS, Hull, candidate, lengths_of
from mtlref.cosines import well_apart
from mtlref.exact import pe_ltr as exact
from mtlref.notation import EQUATIONS, DomainError, ShapeError
from mtlref.qp import minimum_norm


def hull_of(points, noise=None):
    """The points as a hull in which each is a task's."""
    points = np.array(points, float)
    noise = 4 * sum(points.shape) * EPS if noise is None else noise
    return Hull(points, lengths_of(points), np.ones(len(points), int), noise)


def test_the_constants_are_those_of_the_derivation():
    """derivations/qp.md: 16 K ε, 2^20 and two further rounds (QP-8), 16 (QP-9), 2⁻²¹ (QP-10)."""
    assert (qp.RANK_TOLERANCE, qp.EMPHASIS, qp.ROUNDS) == (16 * 2.0**-52, 2.0**20, 3)
    assert (qp.NARROW, qp.LARGEST_RATIO, rationals.MOST_TASKS) == (32, 500, 12)
    assert (certificate.EPS, certificate.STEADY) == (2.0**-52, 16)
    assert (cosines.FARTHEST, cosines.LENGTHS_APART, cosines.EXCHANGES) == (2.0**-21, 2.0**-500, 10)


def test_every_equation_is_on_the_list():
    assert {f"QP-{i}" for i in (1, 3, 4, 5, 6, 7, 8, 9, 10)} <= set(EQUATIONS)


# WOLFE'S STEPS


def settled(points, a, support, moves=True):
    """Where `settle` leads, in rationals: towards the least norm on the support, less who reaches 0 first.

    Without `moves`, where it would lead if the weights stayed where they were.
    """
    while len(support) > 1:
        rows = rationals.rational(np.array(points)[support])
        goal = dict(zip(support, rationals.least_weights(rows @ rows.T + F(1)), strict=True))
        shares = {i: a[i] / (a[i] - goal[i]) for i in support if goal[i] <= 0}
        if not shares:
            return goal
        first = min(shares, key=lambda i: shares[i])
        if moves:
            a = {i: a[i] + shares[first] * (goal[i] - a[i]) for i in support}
        support = [i for i in support if i != first]
    return {support[0]: F(1)}


WAYS = [
    ([[4, -3, 0], [1, -1, -1], [1, 0, 1], [2, 1, 3]], [1, 2, 2, 5]),
    ([[3, -3, 3], [3, -1, 0], [2, -1, 0], [2, 0, -1]], [1, 7, 1, 1]),
    ([[4, 1, -2], [4, -1, -3], [1, -1, 1], [2, 0, -1]], [6, 1, 1, 2]),
    ([[2, 3, -3], [2, -1, -1], [3, 0, -3], [4, -3, 2]], [1, 4, 1, 4]),
    ([[2, 2, 2], [3, 1, -1], [3, -2, -3], [2, 3, 3]], [1, 1, 1, 7]),
    ([[2, -1, 0], [3, -3, 0], [1, 2, 0], [2, 2, -2]], [2, 5, 2, 1]),
    ([[3, -1, 0], [3, -2, 2], [3, -3, 2], [4, 3, -3]], [2, 1, 5, 2]),
    ([[1, -3, -3], [3, 3, 3], [4, 0, -3], [2, 0, -1]], [1, 1, 4, 4]),
    ([[2, -2, -3], [1, 0, -1], [3, 2, 2], [3, 2, -1]], [6, 1, 2, 1]),
]
"""Points and weights over 10 from which who leaves second hangs on how far the weights have come."""


@pytest.mark.parametrize(("points", "parts"), WAYS)
def test_the_weights_go_on_from_where_the_first_one_left(points, parts):
    a, support = {i: F(n, 10) for i, n in enumerate(parts)}, list(range(4))
    expected = settled(points, a, support)
    assert set(settled(points, a, support, moves=False)) != set(expected)
    found = qp.settle(hull_of(points), np.array(parts) / 10, np.ones(4, dtype=bool))
    np.testing.assert_allclose(found, [float(expected.get(i, 0)) for i in range(4)], atol=1e-12)


def test_who_reaches_0_first_leaves_first():
    """Whole points, affinely independent, and weights over 64, of which several have to go."""
    rng, gone = np.random.default_rng(0), 0
    for _ in range(150):
        K = int(rng.integers(2, 7))
        points = rng.integers(-6, 7, (K, 7)) + np.outer(rng.integers(0, 4, K), np.ones(7, int)) * 5
        if np.linalg.matrix_rank(np.column_stack([points, np.ones(K)])) < K:
            continue
        support = [i for i in range(K) if rng.random() < 0.8] or [0]
        parts = (1 + rng.multinomial(64 - K, np.ones(K) / K)) * np.isin(np.arange(K), support)
        a = {i: F(int(parts[i]), int(parts.sum())) for i in range(K)}
        expected = settled(points, a, support)
        found = qp.settle(hull_of(points), parts / parts.sum(), parts > 0)
        np.testing.assert_allclose(found, [float(expected.get(i, 0)) for i in range(K)], atol=1e-12)
        gone += len(support) - len(expected) > 1
    assert gone > 25


def test_equal_points_on_a_support_share_in_some_way():
    """The least squares have a column of zeros then, and the weights still add up to 1."""
    points = np.array([[0.0, 2.0], [0.0, 2.0], [3.0, 1.0]])
    a = qp.affine_weights(points, np.ones(3, dtype=bool), lengths_of(points))
    assert a.sum() == pytest.approx(1)
    np.testing.assert_allclose(a @ points, [0.6, 1.8], atol=1e-14)  # the foot of the perpendicular


def test_a_refinement_that_rounding_leads_in_circles_ends_with_the_best(monkeypatch):
    """No rounding is allowed for, so no certificate is ever met: the nearest to it of all candidates is returned."""
    seen, worse = list[certificate.Candidate](), 0
    monkeypatch.setattr(qp, "candidate", lambda hull, a: seen.append(candidate(hull, a)) or seen[-1])
    for K in range(4, 12):
        for offset in np.linspace(0.3, 3, 40):
            seen.clear()
            angles = 2 * np.pi * np.arange(K) / K + offset
            hull = hull_of(np.column_stack([np.cos(angles), np.sin(angles), np.full(K, 0.7)]), noise=1e-40)
            found = qp.refine(hull, np.eye(K)[0])
            np.testing.assert_allclose(found.a @ hull.points, [0, 0, 0.7], atol=1e-12)
            beyond = [np.max(np.where(one.a > 0, -np.inf, one.v / one.tau)) for one in seen]
            assert found is seen[int(np.argmin(beyond))]
            worse += beyond[-1] > min(beyond)
    assert worse > 5  # of 320: how often rounding does so hangs on the processor


@pytest.mark.parametrize(("share", "goes_on"), [(0.9, False), (1.1, True), (1.9, True)])
def test_a_point_joins_that_lies_lower_than_rounding_allows(share, goes_on):
    """b = (1), (1 − h) from weights (1, 0): v_2 = h, and τ_2 = ν (2 − h) with the ν for which v_2 is `share` τ_2."""
    h = 2.0**-10
    hull = hull_of([[1.0], [1.0 - h]], noise=h / (2 - h) / share)
    np.testing.assert_array_equal(qp.refine(hull, np.array([1.0, 0.0])).a, [0, 1] if goes_on else [1, 0])


@pytest.mark.parametrize("size", [0, -10, -300])
def test_the_refinement_reaches_the_rational_optimum_from_every_vertex(size):
    """Of short points too, whose residuals are small beside 1."""
    rng = np.random.default_rng(1)
    for _ in range(40):
        K, D = rng.integers(2, 7, 2)
        points = rng.integers(-3, 9, (K, D)).astype(float)
        if np.any(np.all(points == 0, axis=1)):
            continue
        best = exact.optimum(exact.gram(points.tolist()), (F(0),) * K, F(1))
        shortest = np.array(best, float) @ points
        hull = hull_of(np.ldexp(points, size))
        for start in np.eye(K):
            found = qp.refine(hull, start)
            assert np.all(found.v <= found.tau)
            np.testing.assert_allclose(found.a @ points, shortest, atol=1e-12 * np.abs(points).max())


def test_the_shortest_point_is_where_an_unfinished_search_goes_on(monkeypatch):
    def never(*args, **kwargs):
        raise RuntimeError("Maximum number of iterations reached.")

    monkeypatch.setattr("scipy.optimize.nnls", never)
    points = np.array([[3.0, 0.0], [0.0, 2.0], [5.0, 5.0]])
    np.testing.assert_array_equal(qp.cone_weights(points, lengths_of(points)), [0, 1, 0])
    tied, half = nearly_in_line(1e-3), np.array([0.5, 0.5, 0.0])
    np.testing.assert_array_equal(qp.shortest_terms(tied, candidate(tied, half)), half)


def test_nnls_ends_in_the_unit_simplex():
    """Orthogonal points of lengths 2 and 4 have the weights 4/5 and 1/5."""
    points = np.diag([2.0, 4.0])
    np.testing.assert_allclose(qp.cone_weights(points, lengths_of(points)), [0.8, 0.2], rtol=1e-14)


# TIES (QP-8)


def nearly_in_line(share):
    """Three points on the plane x₂ = 1, the third off the line of the others: σ_min = share · 16 K ε σ_max."""

    def ratio(height):
        columns = np.array([[-1.0, 1, 0, 1], [1, 1, 0, 1], [0, 1, height, 1]])
        values = np.linalg.svd(columns / np.linalg.norm(columns, axis=1)[:, None], compute_uv=False)
        return values[2] / values[0]

    low, high = 1e-18, 1e-10
    for _ in range(60):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if ratio(middle) < share * 48 * EPS else (low, middle)
    return hull_of([[-1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 1.0, high]])


def test_points_in_line_share_and_others_stay():
    """In line, 4 α² + β² is least over 2 α + β = 1 at α = 1/4, β = 1/2; off it (1/2, 1/2, 0) is the one answer."""
    for share in (0.9, 0.5, 1e-3):
        hull = nearly_in_line(share)
        found = candidate(hull, np.array([0.5, 0.5, 0.0]))
        np.testing.assert_allclose(qp.shortest_terms(hull, found), [0.25, 0.25, 0.5], atol=1e-9)
    for hull in (nearly_in_line(1.1), nearly_in_line(2.0), hull_of([[-1.0, 1, 0], [1.0, 1, 0], [0.0, 1, 1]])):
        found = candidate(hull, np.array([0.5, 0.5, 0.0]))
        assert qp.shortest_terms(hull, found) is found.a


def test_what_is_tied_but_off_the_plane_is_not_taken(monkeypatch):
    """2⁻³⁰ along the line makes ‖d‖² longer by its square alone, which QP-8 would allow; but QP-6 fails."""
    hull = nearly_in_line(1e-3)
    found = candidate(hull, np.array([0.5, 0.5, 0.0]))
    moved = 2.0**-30 * np.array([1.0, -1.0, 0.0])
    assert not qp.longer(hull, found.a + moved, found.a)
    monkeypatch.setattr(qp, "emphasised", lambda columns, start, penalty: start + moved)
    assert qp.shortest_terms(hull, found) is found.a


def test_points_at_0_share_equally():
    hull = hull_of([[0.0, 0.0], [1.0, 0.0], [0.0, 0.0]])
    np.testing.assert_array_equal(qp.shortest_terms(hull, candidate(hull, np.array([1.0, 0, 0]))), [0.5, 0, 0.5])


def test_ties_are_broken_alike_whatever_the_scale_and_the_axes():
    """Whole gradients over three or more tasks in two or three dimensions, rotated and scaled."""
    rng, tied = np.random.default_rng(6), 0
    for _ in range(150):
        K, D = int(rng.integers(3, 8)), int(rng.integers(2, 4))
        J = rng.integers(-2, 3, (K, D))
        best = exact.optimum(exact.gram(J.tolist()), (F(0),) * K, F(1))
        rotation = np.linalg.qr(rng.standard_normal((D, D)))[0]
        w = minimum_norm(10.0 ** rng.uniform(-6, 6) * J @ rotation).weights
        np.testing.assert_allclose(w, np.array(best, float), atol=1e-7)
        assert np.all(w >= 0)
        tied += np.count_nonzero(w) > D
    assert tied > 30


@pytest.mark.parametrize("K", [5, 24, 60])
def test_the_corners_of_a_polygon_share_equally(K):
    angles = 2 * np.pi * np.arange(K) / K
    J = np.column_stack([np.cos(angles), np.sin(angles), np.full(K, 0.5)])
    np.testing.assert_allclose(minimum_norm(J).weights, np.full(K, 1 / K), atol=1e-12)


def test_a_longer_sum_is_one_beyond_the_allowance():
    """b = 4 e_i, ν = 1/4: ‖d‖² = 8 at (1/2, 1/2), m = 4, allowed 8/4 + 1; at (x, 1 − x) it is 32 (x − 1/2)² more."""
    hull, half, edge = hull_of(4 * np.eye(2), noise=0.25), np.full(2, 0.5), math.sqrt(3 / 32)
    for beyond in (-1e-9, 1e-9):
        off = edge + beyond
        assert qp.longer(hull, half + np.array([off, -off]), half) == (beyond > 0)


# CERTIFICATE AND RANGE


@pytest.mark.parametrize("bounds", [None, [0.25, 0.125]])
def test_the_rounding_is_that_of_qp_7(bounds):
    """ν = 4 (2 + 6) ε, m = Σ a_i ‖b_i‖, with b_i = s g_i + Jᵀ c; of the task whose residual is largest."""
    J = np.zeros((2, 6))
    J[0, 1], J[1, 3] = 3.0, 4.0
    answer, c = minimum_norm(J, bounds), np.zeros(2) if bounds is None else np.array(bounds)
    slack = 1 - c.sum()
    a, b = (answer.weights - c) / slack, np.linalg.norm(slack * J + c @ J, axis=1)
    m = a @ b
    either = 4 * 8 * 2.0**-52 * m * (m + b)
    assert min(abs(answer.rounding / either - 1)) < 1e-12


def test_a_residual_is_never_below_0():
    """Σ a_i v_i = 0, so that the largest v_i is below 0 by rounding alone; then the residual is 0."""
    rng, below = np.random.default_rng(4), 0
    for _ in range(100):
        J = rng.standard_normal((3, 3)) + 0.5
        answer = minimum_norm(J, [0.01, 0.0, 0.02])
        assert 0 <= answer.residual <= answer.rounding
        below += answer.residual == 0
    assert below > 10


@pytest.mark.parametrize("c", [[0.0, 0.0, 0.0], [0.25, 0.0, 0.125]])
def test_the_shortest_point_is_brought_to_a_length_of_about_one(c):
    """To the power of two for which its largest entry is from 1 to 2; what is 0 does not count."""
    rng, c = np.random.default_rng(5), np.array(c)
    for _ in range(50):
        J = rng.standard_normal((3, 4)) * 2.0 ** rng.integers(-200, 200, (3, 1)) * (rng.random((3, 1)) < 0.8)
        points, exponent = qp.hull_points(J, c, 1 - c.sum())
        np.testing.assert_array_equal(np.ldexp(points, exponent), qp.shifted_points(J, c, 1 - c.sum()))
        sizes = np.abs(points).max(axis=1)
        assert not np.any(J) or 1 <= sizes[sizes > 0].min() < 2
    points, exponent = qp.hull_points(np.diag([2.0**300, 2.0**-400, 2.0]), np.zeros(3), 1.0)
    assert (exponent, points[0, 0], points[1, 1]) == (-200, 2.0**500, 2.0**-200)


def test_the_least_float64_is_not_lost():
    np.testing.assert_allclose(minimum_norm(np.diag([5e-324, 1e-323]), [0.125, 0.125]).weights, [0.8, 0.2])


def test_bounds_that_add_up_to_1_within_rounding_leave_nothing():
    """Σ c = 1 + 2⁻⁵² for K = 3 is 1 to within 3 ε; 1 + 4 · 2⁻⁵² is not."""
    c = [0.5, 0.25, 0.25 + 2.0**-52]
    assert math.fsum(c) == 1 + 2.0**-52
    np.testing.assert_array_equal(minimum_norm(np.diag([1.0, 2.0, 3.0]), c).weights, c)
    assert minimum_norm(np.diag([1.0, 2.0, 3.0]), c).objective == pytest.approx(0.25 + 0.25 + 0.5625)
    assert qp.shares([0.5, 0.25, 0.25 + 2.0**-50, 0.0], 4)[1] == 0
    with pytest.raises(DomainError, match="bounds add up to"):
        minimum_norm(np.eye(3), [0.5, 0.25, 0.25 + 2.0**-50])
    with pytest.raises(ShapeError, match="one entry a task, 2; it has 3"):
        minimum_norm(np.eye(2), [0.1, 0.1, 0.1])


def test_an_answer_is_what_it_was():
    with pytest.raises(dataclasses.FrozenInstanceError):
        minimum_norm([[1.0]]).objective = 0.0


def test_wide_rows_that_differ_by_little_are_not_equal():
    J = np.ones((3, 40))
    J[1, 39], J[2, 39] = 1e-30, 2e-30
    assert qp.equal_rows(J)[1].tolist() == [0, 1, 2]


@pytest.mark.parametrize(("K", "D", "factor"), [(3, 32, False), (3, 33, True), (40, 40, False), (40, 41, True)])
def test_only_what_is_wide_is_replaced_by_its_factor(K, D, factor, monkeypatch):
    seen, compress = [], qp.compress
    monkeypatch.setattr(qp, "well_apart", lambda J: None)
    monkeypatch.setattr(qp, "compress", lambda J: (seen.append(J.shape), compress(J))[1])
    minimum_norm(np.random.default_rng(2).standard_normal((K, D)))
    assert seen == [(K, D)] * factor


# SUPPORTS IN DOUBT (QP-9)


def test_the_margin_is_asked_with_the_lengths_before_they_cancel(monkeypatch):
    """ℓ_i = s ‖g_i‖ + Σ_j c_j ‖g_j‖, over a power of two, one for each distinct gradient."""
    seen, c = [], np.array([0.25, 0.0, 0.125, 0.0])
    monkeypatch.setattr(qp, "support_margin", lambda points, a, sizes, noise: (seen.append(sizes), 1.0)[1])
    J = np.array([[3.0, 0.0], [0.0, 5.0], [3.0, 0.0], [-1.0, 7.0]])
    minimum_norm(J, c)
    lengths = np.linalg.norm(J, axis=1)
    expected = 0.625 * lengths[[0, 1, 3]] + c @ lengths
    scale = seen[0] / expected
    np.testing.assert_allclose(scale, 2.0 ** round(math.log2(scale[0])), rtol=1e-14)


def test_rationals_decide_for_the_same_answer(monkeypatch):
    rng, problems = np.random.default_rng(7), []
    for _ in range(20):
        J, c = rng.standard_normal((4, 3)) * 2.0 ** rng.integers(-30, 30), rng.dirichlet(np.ones(4)) / 2
        problems.append((J, c, minimum_norm(J, c)))
    monkeypatch.setattr(qp, "support_margin", lambda points, a, sizes, noise: -1.0)
    for J, c, expected in problems:
        answer = minimum_norm(J, c)
        np.testing.assert_allclose(answer.weights, expected.weights, atol=1e-12)
        assert answer.objective == pytest.approx(expected.objective, rel=1e-9, abs=0)


@pytest.mark.parametrize(("K", "asked"), [(12, True), (13, False)])
def test_up_to_twelve_gradients_are_decided(K, asked, monkeypatch):
    seen, decided = [], qp.decided
    monkeypatch.setattr(qp, "decided", lambda *given: (seen.append(K), decided(*given))[1])
    minimum_norm(np.random.default_rng(6).standard_normal((K, 3)), np.full(K, 0.01))
    assert seen == [K] * asked


def test_a_sum_that_is_as_good_as_zero_needs_no_rationals(monkeypatch):
    """Gradients of one number and of both signs: d = 0 is reached to within K ε ℓ, and ‖d‖² is as small."""
    monkeypatch.setattr(qp, "exact_points", lambda J, c: pytest.fail("asked for rationals"))
    rng = np.random.default_rng(3)
    for _ in range(60):
        J = np.array([[1.0], [-1.0], [1.0]]) * rng.uniform(50, 200, (3, 1))
        assert minimum_norm(J, [0.01, 0.02, 0.0]).objective <= 1e-12**2


# INNER PRODUCTS (QP-10)


def at_error(share):
    """Two gradients in 6 dimensions for which K ν ‖C⁻¹‖_F, with ‖C⁻¹‖_F = √(2 + 2 c²) / s², is `share` · 2⁻²¹."""
    s = 0.0
    for _ in range(50):
        s = math.sqrt(2 * 4 * 8 * 2.0**-52 * math.sqrt(4 - 2 * s * s) * 2.0**21 / share)
    return np.array([[1.0, 0, 0, 0, 0, 0], [math.sqrt(1 - s * s), s, 0, 0, 0, 0]])


def test_inner_products_serve_up_to_their_bound():
    assert well_apart(at_error(0.99)) is not None
    assert well_apart(at_error(1.01)) is None


def test_who_has_left_may_join_again():
    """Three whole gradients: of all three on the support two leave, of which one joins again."""
    for J, expected in (
        ([[0, 8, 6, 3], [0, 0, 4, 6], [-1, 3, 5, 3]], [0, 0.3, 0.7]),
        ([[-2, 5, 3, 7], [3, 4, 1, -1], [-1, 3, 2, 4]], [0, 23 / 43, 20 / 43]),
    ):
        found, _, _ = well_apart(np.array(J, float))
        np.testing.assert_allclose(found.a, expected, atol=1e-12)
        best = exact.optimum(exact.gram(J), (F(0),) * 3, F(1))
        np.testing.assert_allclose([float(x) for x in best], expected, atol=1e-15)


def test_lengths_may_be_a_power_apart_and_no_more():
    assert well_apart(np.diag([1.5, 1.5 * 2.0**-500 * 1.01])) is not None
    assert well_apart(np.diag([1.5, 1.5 * 2.0**-500 * 0.99])) is None
