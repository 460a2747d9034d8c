"""The rational solver against the enumeration of `mtlref.exact`, which shares no code with it; when it is used."""

from __future__ import annotations

import ast
from fractions import Fraction as F
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtlref import qp, rationals
from mtlref.exact import pe_ltr as exact
from mtlref.experiments import pe_ltr_gap
from mtlref.qp import minimum_norm


@st.composite
def whole_problems(draw):
    """Whole gradients, among which duplicates, zeros and ties abound, and bounds in sixteenths."""
    K, D = draw(st.integers(1, 5)), draw(st.integers(1, 4))
    J = draw(st.lists(st.lists(st.integers(-3, 3), min_size=D, max_size=D), min_size=K, max_size=K))
    return np.array(J, float), np.array(draw(st.lists(st.integers(0, 3), min_size=K, max_size=K))) / 16


# AGAINST THE ENUMERATION


@given(whole_problems())
def test_optimum_of_whole_gradients_is_the_enumerated_one(problem):
    """Exactly: the objectives are equal as rationals, the weights are a point of the simplex, no v_i is above 0."""
    J, c = problem
    points = rationals.exact_points(J, c)
    a = rationals.exact_optimum(points)
    assert all(isinstance(x, F) for x in a)
    assert sum(a) == 1
    assert min(a) >= 0
    assert max(rationals.exact_residuals(points, a)) == 0
    A = exact.gram(J.tolist())
    low, slack = exact.shares(c.tolist(), len(J))
    assert exact.form(A, [slack * x + b for x, b in zip(a, low, strict=True)]) == exact.form(
        A, exact.plus(exact.optimum(A, low, slack), low)
    )


@pytest.mark.parametrize("seed", range(30))
def test_optimum_of_hard_problems_is_the_enumerated_one(seed):
    J, c = pe_ltr_gap.hard_problem(np.random.default_rng(seed), "always")
    a = rationals.exact_optimum(rationals.exact_points(J, c))
    A = exact.gram(J.tolist())
    low, slack = exact.shares(c.tolist(), len(J))
    best = exact.plus(exact.optimum(A, low, slack), low)
    assert exact.form(A, [slack * x + b for x, b in zip(a, low, strict=True)]) == exact.form(A, best)


def test_points_and_squares_are_not_rounded():
    """s = 1 − 3/10 as float64 has it; 0.1 + 0.2 − 0.3 is not 0 there."""
    J, c = np.array([[0.1, 1.0], [0.2, 1e-20]]), np.array([0.3, 0.0])
    s = 1 - F(0.3)
    points = rationals.exact_points(J, c)
    assert points.tolist() == [
        [s * F(0.1) + F(0.3) * F(0.1), s + F(0.3)],
        [s * F(0.2) + F(0.3) * F(0.1), s * F(1e-20) + F(0.3)],
    ]
    cancelling = np.array([[1.0, 0.0], [-1.0, 1e-30]])
    assert rationals.exact_square(cancelling, np.array([0.5, 0.5])) == F(1e-30) ** 2 / 4
    np.testing.assert_array_equal(rationals.rounded(rationals.rational(J)), J)


# WHEN IT IS USED


@pytest.fixture
def entered(monkeypatch):
    """The numbers of distinct gradients for which the rational solver was called."""
    calls = []
    solve = rationals.exact_optimum
    monkeypatch.setattr(qp, "exact_optimum", lambda points: calls.append(len(points)) or solve(points))
    return calls


def copies(rng, distinct, K, D):
    """A Jacobian of K rows, of which `distinct` differ, and some pairs are opposite or equal to 1e-9."""
    base = rng.standard_normal((distinct, D))
    base[1] = -base[0]
    base[2] = base[0] * (1 + 1e-9)
    return base[np.arange(K) % distinct], rng.dirichlet(np.ones(K)) * 0.3


def test_many_gradients_with_bounds_are_left_to_float64(entered, monkeypatch):
    """K = 100 with duplicates, and 1000: no point is formed in rationals, and the answer has its certificate."""
    monkeypatch.setattr(qp, "exact_points", None)
    rng = np.random.default_rng(5)
    for distinct, K, D in ((60, 100, 8), (rationals.MOST_TASKS + 1, 100, 50), (700, 1000, 40)):
        J, c = copies(rng, distinct, K, D)
        answer = minimum_norm(J, c)
        assert answer.residual <= answer.rounding
        assert np.all(answer.weights >= c)
    assert entered == []


def test_duplicates_do_not_count_towards_the_most(entered):
    """100 tasks of which 4 gradients differ: the rationals see 4, and equal gradients share equally."""
    J = np.array([[3.0, 1.0], [-3.0, 1.0], [0.0, 1.0], [5.0, 5.0]])[np.arange(100) % 4]
    c = np.full(100, 0.003)
    w = minimum_norm(J, c).weights
    assert entered == [4]
    for task in range(4):
        assert np.ptp(w[task::4]) == 0
    low, slack = exact.shares([25 * F(0.003)] * 4, 4)
    expected = exact.plus(exact.optimum(exact.gram(J[:4].tolist()), low, slack), low)
    np.testing.assert_allclose(w[:4] * 25, np.array(expected, float), atol=1e-14)


def test_no_bounds_and_no_doubt_no_rationals(entered):
    rng = np.random.default_rng(2)
    for _ in range(50):
        K, D = int(rng.integers(2, 7)), int(rng.integers(8, 50))
        J = rng.standard_normal((K, D)) * np.exp(rng.standard_normal((K, 1)))
        minimum_norm(J)
        minimum_norm(J, np.zeros(K))
        minimum_norm(J, rng.dirichlet(np.ones(K)) * 0.3)
    assert entered == []


# INDEPENDENCE


def test_the_solver_and_its_oracle_import_nothing_of_one_another():
    """`mtlref.exact` is what qp, certificate and rationals are tested against: none imports the other."""
    root = Path(rationals.__file__).parent
    solver = {name: root / f"{name}.py" for name in ("qp", "certificate", "rationals")}
    oracle = sorted((root / "exact").glob("*.py"))
    assert len(oracle) > 3
    for file in [*solver.values(), *oracle]:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or "", *(f"{node.module}.{name}" for name in names)]
            for name in names:
                if file in solver.values():
                    assert not (name + ".").startswith("mtlref.exact."), (file, name)
                else:
                    assert name.split(".")[-1] not in solver, (file, name)
