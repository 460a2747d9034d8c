"""The simplex projection and the minimum-norm point: optimality conditions, rational optima, ties, bad inputs."""

from __future__ import annotations

import os
import subprocess
import sys
import tracemalloc
from fractions import Fraction as F

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import nnls

import mtlref
from mtlref import qp
from mtlref.certificate import CertificateError, candidate, lengths_of, residuals
from mtlref.exact import pe_ltr as exact
from mtlref.experiments import pe_ltr_gap
from mtlref.qp import minimum_norm, project_simplex
from tests.problems import jacobians

ULP = np.finfo(float).eps
HARD_CASES = int(os.environ.get("MTLREF_HARD_CASES", "300"))

values = st.floats(-1e6, 1e6)
vectors = st.lists(values, min_size=1, max_size=9).map(np.array)
totals = st.sampled_from([0.0, 1e-9, 0.3, 1.0, 7.0])


@st.composite
def bounded_problems(draw, tasks=(1, 2, 3, 4, 6)):
    """A Jacobian, and bounds of which some are 0."""
    K = draw(st.sampled_from(tasks))
    share = np.array(draw(st.lists(st.floats(0, 1), min_size=K, max_size=K)))
    return draw(jacobians(K)), draw(st.sampled_from([0.0, 0.3, 0.9])) * share / max(share.sum(), 1e-3)


# PROJECTION


@given(vectors, totals)
def test_projection_is_feasible_and_optimal(v, total):
    """x = max(v − θ, 0): v_i − x_i is θ where x_i > 0 and at most θ elsewhere."""
    x = project_simplex(v, total)
    assert np.all(x >= 0)
    scale = max(1.0, np.abs(v).max(), total)
    assert abs(x.sum() - total) <= 8 * len(v) * ULP * max(total, x.max())
    gap = v - x
    if np.any(x > 0):
        theta = gap[x > 0]
        assert np.ptp(theta) <= 8 * ULP * scale
        assert np.all(gap <= theta.max() + 8 * ULP * scale)


@given(st.lists(st.integers(-8, 8), min_size=1, max_size=7), st.sampled_from([F(0), F(1, 2), F(1), F(5)]))
def test_projection_agrees_with_the_rational_one(v, total):
    expected = [float(x) for x in exact.project([F(x) for x in v], total)]
    np.testing.assert_allclose(project_simplex(np.array(v, float), float(total)), expected, atol=16 * ULP)


@given(st.lists(st.floats(-3, 3), min_size=1, max_size=7).map(np.array), st.sampled_from([0.3, 1.0, 4.0]))
def test_projection_agrees_with_scipy(v, total):
    """Posed as NNLS, with the sum as a row of weight 1e6."""
    heavy = 1e6
    expected = nnls(np.vstack([np.eye(len(v)), np.full(len(v), heavy)]), np.append(v, heavy * total))[0]
    np.testing.assert_allclose(project_simplex(v, total), expected, atol=1e-9)


@given(vectors, totals, st.floats(-1e3, 1e3))
def test_projection_ignores_a_common_shift(v, total, shift):
    size = max(np.abs(v).max(), abs(shift))
    np.testing.assert_allclose(project_simplex(v + shift, total), project_simplex(v, total), atol=16 * ULP * size)


@given(vectors, st.sampled_from([0.3, 1.0]))
def test_projection_leaves_a_point_of_the_simplex_where_it_is(v, total):
    x = project_simplex(v, total)
    np.testing.assert_allclose(project_simplex(x, total), x, atol=8 * len(v) * ULP)


def test_projection_of_entries_far_apart_keeps_its_digits():
    np.testing.assert_array_equal(project_simplex(np.array([1e300, -1e300, 1e300]), 1.0), [0.5, 0.0, 0.5])
    np.testing.assert_allclose(project_simplex(1e9 + np.array([0.25, 0.0, -9.0]), 1.0), [0.625, 0.375, 0.0])


# MINIMUM NORM: THE RATIONAL OPTIMUM


@pytest.mark.parametrize("bounds", ["never", "always"])
def test_hard_problems_meet_the_rational_optimum(bounds):
    """To within the bound that the experiment states; MTLREF_HARD_CASES=10000 runs them all."""
    assert pe_ltr_gap.hard(HARD_CASES, seed=1, bounds=bounds)["beyond"] == 0


@pytest.mark.parametrize("bounds", ["never", "always"])
def test_hard_problems_wider_than_their_factor_meet_it_too(bounds):
    """Each column again, over powers of 2, until there are more than `NARROW`: `compress` then rounds the points."""
    rng = np.random.default_rng(3)
    for _ in range(max(HARD_CASES // 6, 1)):
        J, c = pe_ltr_gap.hard_problem(rng, bounds)
        wide = np.hstack([np.ldexp(J, -i) for i in range(qp.NARROW // J.shape[1] + 1)])
        assert wide.shape[1] > qp.NARROW
        assert pe_ltr_gap.excess(wide, c) <= 1


@pytest.fixture(scope="module")
def decided_by_rounding():
    """Three hard problems with bounds, by their place in the draws of seed 1, that need the rationals."""
    rng = np.random.default_rng(1)
    problems = [pe_ltr_gap.hard_problem(rng) for _ in range(9314)]
    return [problems[case] for case in (5964, 6653, 9313)]


def test_supports_that_rounding_would_decide_are_right(decided_by_rounding, monkeypatch):
    """With the rationals they meet the bound; in float64 alone, rounding decides the support and some do not."""
    assert all(c is not None for _, c in decided_by_rounding)
    assert max(pe_ltr_gap.excess(J, c) for J, c in decided_by_rounding) <= 1
    monkeypatch.setattr(qp, "MOST_TASKS", 0)
    assert max(pe_ltr_gap.excess(J, c) for J, c in decided_by_rounding) > 1


def test_weights_of_float64_cannot_always_meet_it():
    """g = 1, -7/3 (1 + h), c = (0, 0.3): the optimum is w = (1 - c_2, c_2), and 1 - c_2 is no float64.

    The nearest float64 is returned. Its objective is off by the first power of that rounding.
    """
    c, h = 0.3, 1e-8
    J = np.array([[1.0], [-(1 - c) / c * (1 + h)]])
    w = minimum_norm(J, [0.0, c]).weights
    slack = 1 - F(c)
    np.testing.assert_array_equal(w, [float(slack), c])
    d, best = F(w[0]) + F(c) * F(J[1, 0]), slack + F(c) * F(J[1, 0])
    assert best < 0
    above, m = d * d - best * best, abs(F(J[1, 0]))
    assert above > 1000 * (F(1, 10**12) * best**2 + (F(1, 10**14) * m) ** 2)
    assert above <= 2 * F(ULP) * m * -best


@given(st.integers(1, 5), st.integers(1, 4), st.data())
def test_weights_of_whole_gradients_are_the_rational_ones(K, D, data):
    """Duplicates, zeros and stationary points abound here: QP-8 says which of many optima it is."""
    entries = st.lists(st.integers(-2, 2), min_size=D, max_size=D)
    J = data.draw(st.lists(entries, min_size=K, max_size=K))
    c = data.draw(st.sampled_from([(0.0,) * K, (0.5 / K,) * K, (0.5, *(0.0,) * (K - 1))]))
    bounds, slack = exact.shares(c, K)
    expected = exact.plus(exact.optimum(exact.gram(J), bounds, slack), bounds)
    answer = minimum_norm(np.array(J, float), c)
    np.testing.assert_allclose(answer.weights, np.array(expected, float), atol=1e-9)


@given(bounded_problems())
def test_answer_is_feasible_and_certified(problem):
    J, c = problem
    answer = minimum_norm(J, c)
    w = answer.weights
    assert np.all(w >= c)
    assert abs(w.sum() - 1) <= 4 * len(w) * ULP
    assert answer.residual <= answer.rounding
    d = w @ J
    np.testing.assert_allclose(answer.objective, d @ d, rtol=1e-9, atol=1e-24 * np.max(J * J))


@given(bounded_problems(), st.integers(0, 2**32 - 1))
def test_no_other_weights_are_better_than_the_certificate_says(problem, seed):
    J, c = problem
    answer = minimum_norm(J, c)
    others = c + (1 - c.sum()) * np.random.default_rng(seed).dirichlet(np.full(len(J), 0.3), size=50)
    least = np.min(np.sum((others @ J) ** 2, axis=1))
    assert answer.objective - least <= 2 * (answer.residual + answer.rounding)


@given(bounded_problems(), st.integers(0, 2**32 - 1))
def test_residual_bounds_the_gap_of_any_weights(problem, seed):
    """f − minimum ≤ 2ρ, and ‖d − d*‖² ≤ ρ, for any a in the simplex."""
    J, c = problem
    points = qp.shifted_points(J, c, 1 - c.sum())
    best = minimum_norm(points).weights @ points
    a = np.random.default_rng(seed).dirichlet(np.full(len(J), 0.3))
    rho = np.max(residuals(points, a))
    slack = 1e-12 * np.max(points * points)
    assert a @ points @ (a @ points) - best @ best <= 2 * rho + slack
    assert np.sum((a @ points - best) ** 2) <= rho + slack


@given(jacobians(4))
def test_nnls_alone_finds_the_support(J):
    """QP-4: its solution is proportional to the minimum-norm point, before any refinement."""
    points, _ = qp.hull_points(J, np.zeros(4), 1.0)
    length = np.linalg.norm(qp.cone_weights(points, lengths_of(points)) @ points)
    assert length <= np.linalg.norm(minimum_norm(points).weights @ points) + 1e-7 * np.abs(points).max()


@given(jacobians(5, 7))
def test_affine_weights_solve_their_least_squares(J):
    """QP-5: all slopes are equal on the support."""
    support = np.array([True, False, True, True, False])
    points, _ = qp.hull_points(J, np.zeros(5), 1.0)
    a = qp.affine_weights(points, support, lengths_of(points))
    d = a @ points
    assert a.sum() == pytest.approx(1, abs=1e-14 * np.abs(a).sum())
    assert np.all(a[~support] == 0)
    allowed = 1e-12 * np.abs(a) @ np.linalg.norm(points, axis=1) * np.linalg.norm(points[support], axis=1).max()
    assert np.ptp(points[support] @ d) <= allowed


# MINIMUM NORM: INVARIANCE, TIES, RANGE


@settings(max_examples=40)
@given(bounded_problems(), st.randoms(use_true_random=False), st.integers(0, 2**32 - 1))
def test_permutation_rotation_and_scale(problem, random, seed):
    J, c = problem
    K, D = J.shape
    order = list(range(K))
    random.shuffle(order)
    rotation = np.linalg.qr(np.random.default_rng(seed).standard_normal((D, D)))[0]
    expected = minimum_norm(J, c)
    largest = np.max(np.sum(J * J, axis=1))
    for other, weights in (
        (minimum_norm(J[order], c[order]), expected.weights[order]),
        (minimum_norm(J @ rotation, c), expected.weights),
        (minimum_norm(mtlref.compress(J), c), expected.weights),
    ):
        assert other.objective == pytest.approx(expected.objective, rel=1e-11, abs=1e-28 * largest)
        if K <= D:
            np.testing.assert_allclose(other.weights, weights, atol=1e-6)
    for exponent in (-500, 500):
        scaled = minimum_norm(np.ldexp(J, exponent), c)
        np.testing.assert_array_equal(scaled.weights, expected.weights)


@pytest.mark.parametrize(
    ("J", "c", "expected"),
    [
        ([[3.0, 4.0]], None, [1]),
        ([[0.0, 0.0], [0.0, 0.0]], None, [0.5, 0.5]),
        ([[0.0, 0.0], [1.0, 0.0], [0.0, 0.0]], None, [0.5, 0, 0.5]),
        ([[0.0, 0.0], [1.0, 0.0], [-1.0, 0.0]], None, [1, 0, 0]),
        ([[1.0, 2.0], [1.0, 2.0]], None, [0.5, 0.5]),
        ([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0]], None, [0.25, 0.25, 0.5]),
        ([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]], None, [0.25] * 4),
        ([[1.0, 0.0], [-1.0, 1e-9], [1.0, 0.0], [-1.0, -1e-9]], None, [0.25] * 4),
        ([[1.0], [-1.0], [2.0]], None, [5 / 13, 7 / 13, 1 / 13]),
        ([[1.0, 0.0], [0.0, 1.0]], [0.75, 0.25], [0.75, 0.25]),
        ([[1.0, 0.0], [-3.0, 0.0]], [0.0, 0.5], [0.5, 0.5]),
        ([[1.0, 0.0, 0.0], [0.9, 0.5, 0.0], [2.0, 2.0, 0.3]], None, [8 / 13, 5 / 13, 0]),
        ([[1e150, 0.0], [0.0, 1e-150]], None, [0, 1]),
        ([[1e-150, 0.0], [0.0, 2e-150]], None, [0.8, 0.2]),
        ([[1e300, 0.0], [-1e300, 0.0]], None, [0.5, 0.5]),
        ([[5e-324, 0.0], [0.0, 5e-324]], None, [0.5, 0.5]),
    ],
)
def test_degenerate_problems_have_the_stated_answer(J, c, expected):
    np.testing.assert_allclose(minimum_norm(J, c).weights, expected, atol=1e-14)


@pytest.mark.parametrize("h", [1e-4, 1e-6, 1e-8, 1e-10])
def test_the_factor_keeps_the_digits_that_a_gram_matrix_loses(h):
    """g_1 = (1, 0), g_2 = (−1, h): the minimum is h²/4 to within h⁴, at w = 1/2 + h²/8."""
    J = np.array([[1.0, 0.0], [-1.0, h]])
    assert minimum_norm(J).objective == pytest.approx(h**2 / (4 + h**2), rel=1e-12, abs=0)
    assert minimum_norm(mtlref.compress(J)).objective == pytest.approx(h**2 / (4 + h**2), rel=4e-16 / h, abs=1e-30)
    if h < 1e-8:
        through_gram = minimum_norm(mtlref.from_gram(J @ J.T)).objective
        assert through_gram != pytest.approx(h**2 / (4 + h**2), rel=0.1, abs=0)


@pytest.mark.parametrize(
    ("J", "c", "error", "attributes"),
    [
        ([[1.0], [2.0]], [0.5], mtlref.ShapeError, {"argument": "bounds", "value": 1}),
        ([[1.0], [2.0]], [[0.5, 0.5]], mtlref.ShapeError, {"argument": "bounds"}),
        ([[1.0], [2.0]], [0.5, -0.1], mtlref.DomainError, {"argument": "bounds", "task": 1, "value": -0.1}),
        ([[1.0], [2.0]], [1.5, 0.0], mtlref.DomainError, {"argument": "bounds", "task": 0, "value": 1.5}),
        ([[1.0], [2.0]], [0.75, 0.5], mtlref.DomainError, {"argument": "bounds", "task": None, "value": 1.25}),
        ([[1.0], [np.nan]], None, mtlref.DomainError, {"argument": "jacobian", "task": 1}),
        ([1.0, 2.0], None, mtlref.ShapeError, {"argument": "jacobian"}),
        (np.zeros((0, 3)), None, mtlref.ShapeError, {"argument": "jacobian"}),
        ([[1e200]], None, mtlref.NonFiniteError, {"argument": "jacobian", "value": np.inf}),
    ],
)
def test_bad_inputs_are_named(J, c, error, attributes):
    with pytest.raises(error) as caught:
        minimum_norm(J, c)
    assert {name: getattr(caught.value, name) for name in attributes} == attributes
    assert caught.value.equation == "QP-2"


def test_an_answer_that_misses_its_bound_is_not_handed_out(monkeypatch):
    monkeypatch.setattr(qp, "well_apart", lambda J: None)
    monkeypatch.setattr(qp, "refine", lambda hull, a: candidate(hull, np.array([1.0, 0.0, 0.0])))
    with pytest.raises(CertificateError) as caught:
        minimum_norm(np.diag([3.0, 1.0, 2.0]))
    assert (caught.value.task, caught.value.equation, caught.value.argument) == (1, "QP-6", "jacobian")
    assert caught.value.value > 0


@pytest.mark.parametrize("start", [0, 1, 2])
def test_refinement_reaches_the_optimum_from_any_vertex(start, monkeypatch):
    """So it does where SciPy's solver does not end."""
    J = np.array([[1.0, 0.0, 0.2], [0.9, 0.5, 0.0], [-1.0, 2.0, 0.3]])
    expected = minimum_norm(J).weights
    monkeypatch.setattr(qp, "well_apart", lambda J: None)
    monkeypatch.setattr(qp, "cone_weights", lambda points, lengths: np.eye(3)[start])
    np.testing.assert_allclose(minimum_norm(J).weights, expected, atol=1e-14)


def test_nnls_that_does_not_end_leaves_the_work_to_the_refinement(monkeypatch):
    def never(*args, **kwargs):
        raise RuntimeError("Maximum number of iterations reached.")

    J = np.array([[1.0, 0.0], [-0.5, 1.0], [0.2, 3.0]])
    expected = minimum_norm(J).weights
    monkeypatch.setattr(qp, "well_apart", lambda J: None)
    monkeypatch.setattr("scipy.optimize.nnls", never)
    np.testing.assert_allclose(minimum_norm(J).weights, expected, atol=1e-14)
    np.testing.assert_allclose(minimum_norm([[1.0], [1.0]]).objective, 1.0)


def test_slack_is_rounded_once():
    """1 − 0.3 − 0.6 is 0.1 + 3 · 2⁻⁵⁴ or so in floats; bounds that add up to 1 as float64 leave nothing."""
    assert qp.shares([0.3, 0.6], 2)[1] == float(1 - F(0.3) - F(0.6))
    assert qp.shares([0.9, 1e-17], 2)[1] == float(1 - F(0.9) - F(1e-17))
    assert qp.shares([1 / 3] * 3, 3)[1] == 0
    assert qp.shares([0.1] * 10, 10)[1] == 0


def test_equal_rows_are_found_once():
    """0 and −0 are one number; wide rows that begin alike are told apart by the rest."""
    first, group = qp.equal_rows(np.array([[1.0, 0.0], [2.0, 0.0], [1.0, -0.0], [2.0, 0.0], [3.0, 1.0]]))
    assert (first.tolist(), group.tolist()) == ([0, 1, 4], [0, 1, 0, 1, 2])
    wide = np.zeros((5, 100))
    wide[1, 99] = 1.0
    wide[3] = wide[1]
    wide[4, 50] = -0.0
    first, group = qp.equal_rows(wide)
    assert (first.tolist(), group.tolist()) == ([0, 1], [0, 1, 0, 1, 0])


def test_many_wide_gradients_take_no_more_memory_than_their_own():
    """K = D = 600, all in pairs: less than ten times the Jacobian, where K² D would be 600 times."""
    J = np.random.default_rng(4).standard_normal((300, 600))[np.arange(600) // 2]
    tracemalloc.start()
    answer = minimum_norm(J)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10 * J.nbytes
    np.testing.assert_array_equal(answer.weights[::2], answer.weights[1::2])


def test_the_largest_float64_is_named_not_overflowed():
    with pytest.raises(mtlref.NonFiniteError, match="beyond the largest float64"):
        minimum_norm(np.full((2, 2), 1.7e308))


def test_the_arguments_are_not_written_to():
    J, c = np.array([[1.0, 0.0], [-0.5, 1.0]]), np.array([0.1, 0.2])
    before = J.copy(), c.copy()
    minimum_norm(J, c)
    np.testing.assert_array_equal(J, before[0])
    np.testing.assert_array_equal(c, before[1])


def test_importing_the_solver_loads_no_scipy():
    code = "import sys, mtlref.qp, mtlref.methods.pe_ltr; sys.exit(any(m.startswith('scipy') for m in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
