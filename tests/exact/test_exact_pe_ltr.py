"""The rational PE-LTR oracle: closed forms by hand, optimality conditions, singular systems, bad inputs."""

from __future__ import annotations

from fractions import Fraction as F

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mtlref.exact import UndefinedError
from mtlref.exact import pe_ltr as exact


@st.composite
def problems(draw, tasks=(1, 2, 3, 4)):
    """Whole gradients, and bounds in twelfths."""
    K, D = draw(st.sampled_from(tasks)), draw(st.integers(1, 3))
    row = st.lists(st.integers(-3, 3), min_size=D, max_size=D)
    rows = draw(st.lists(row, min_size=K, max_size=K))
    return rows, draw(st.lists(st.integers(0, 3), min_size=K, max_size=K).map(lambda c: [F(x, 12) for x in c]))


def test_the_published_steps_by_hand():
    """A = diag(1, 4), c = (1/5, 3/10): w_hat + c = (4/5, 1/5), so w_hat = (3/5, -1/10); projected to sum 1/2."""
    result = exact.step(((1, 0), (0, 2)), (F(1, 5), F(3, 10)))
    assert result == {
        "gram": ((1, 0), (0, 4)),
        "w_hat": (F(3, 5), F(-1, 10)),
        "multiplier": F(-4, 5),
        "w_tilde": (F(1, 2), 0),
        "objective": F(49, 100) + F(36, 100),
        "kkt_residual": 0,
        "w_next": (F(7, 10), F(3, 10)),
    }


def test_three_tasks_whose_published_weights_are_not_the_optimum():
    J = ((1, 0, 0), (F(9, 10), F(1, 2), 0), (2, 2, F(3, 10)))
    published, optimum = exact.step(J), exact.step(J, solver="exact")
    assert published["w_next"] == (0, 1, 0)
    assert published["objective"] == F(106, 100)
    assert optimum["w_next"] == (F(8, 13), F(5, 13), 0)
    assert optimum["objective"] == F(25, 26)
    assert optimum["kkt_residual"] == 0
    assert published["w_hat"] == optimum["w_hat"]
    assert 0 < published["objective"] - optimum["objective"] <= 2 * published["kkt_residual"]


@given(problems())
def test_the_relaxed_weights_solve_their_system_with_the_least_norm(problem):
    rows, c = problem
    A = exact.gram(rows)
    bounds, slack = exact.shares(c, len(rows))
    w_hat, multiplier = exact.relaxed(A, bounds, slack)
    assert sum(w_hat) == slack
    assert all(slope == -multiplier for slope in exact.times(A, exact.plus(w_hat, bounds)))
    system = [[*row, F(1)] for row in A] + [[F(1)] * len(rows) + [F(0)]]
    _, null = exact.solve(system, [F(0)] * (len(rows) + 1))
    assert all(exact.dot(vector[: len(rows)], w_hat) == 0 for vector in null)


@given(problems(), st.sampled_from([F(0), F(1, 2), F(2)]))
def test_the_projection_meets_its_optimality_conditions(problem, total):
    v = [F(row[0]) for row in problem[0]]
    x = exact.project(v, total)
    assert sum(x) == total
    assert min(x) >= 0
    if total > 0:
        theta = {a - b for a, b in zip(v, x, strict=True) if b > 0}
        assert len(theta) == 1
        assert all(a - b <= max(theta) for a, b in zip(v, x, strict=True))


@settings(max_examples=50)
@given(problems())
def test_the_optimum_meets_its_optimality_conditions(problem):
    rows, c = problem
    result = exact.step(rows, c, solver="exact")
    assert sum(result["w_next"]) == 1
    assert all(x >= 0 for x in result["w_tilde"])
    assert result["kkt_residual"] == 0
    published = exact.step(rows, c)
    assert -result["multiplier"] <= result["objective"] <= published["objective"]
    assert published["objective"] - result["objective"] <= 2 * published["kkt_residual"]
    if len(rows) <= 2:
        assert published["objective"] == result["objective"]
    if min(published["w_hat"]) >= 0:
        assert published["objective"] == result["objective"] == -published["multiplier"]


@settings(max_examples=50)
@given(problems(tasks=(2, 3, 4)), st.permutations(range(4)), st.sampled_from(["published", "exact"]))
def test_a_permutation_of_the_tasks_permutes_the_weights(problem, order, solver):
    rows, c = problem
    order = [i for i in order if i < len(rows)]
    one = exact.step(rows, c, solver=solver)["w_next"]
    other = exact.step([rows[i] for i in order], [c[i] for i in order], solver=solver)["w_next"]
    assert other == tuple(one[i] for i in order)


@pytest.mark.parametrize(
    ("rows", "published", "optimum"),
    [
        (((1, 2), (1, 2)), (F(1, 2), F(1, 2)), (F(1, 2), F(1, 2))),
        (((0, 0), (0, 0)), (F(1, 2), F(1, 2)), (F(1, 2), F(1, 2))),
        (((1, 0), (-1, 0)), (F(1, 2), F(1, 2)), (F(1, 2), F(1, 2))),
        (((0, 0), (1, 0), (-1, 0)), (F(1, 3),) * 3, (1, 0, 0)),
        (((0, 0), (1, 0), (0, 0)), (F(1, 2), 0, F(1, 2)), (F(1, 2), 0, F(1, 2))),
        (((1,), (-1,), (2,)), (F(2, 7), F(4, 7), F(1, 7)), (F(5, 13), F(7, 13), F(1, 13))),
    ],
)
def test_singular_systems_have_the_stated_weights(rows, published, optimum):
    assert exact.step(rows)["w_next"] == published
    assert exact.step(rows, solver="exact")["w_next"] == optimum


def test_a_float_is_the_dyadic_rational_that_it_is():
    assert exact.step(((0.1,), (0.3,)))["gram"][0][1] == F(0.1) * F(0.3)
    assert exact.step(((1.0, 0.0), (0.0, 1.0)), (0.7, 0.1 + 0.2))["w_tilde"][0] < F(1, 10**15)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"gradients": ()}, ValueError, "all of the same length"),
        ({"gradients": ((1, 2), (1,))}, ValueError, "all of the same length"),
        ({"gradients": ((1,), (2,)), "bounds": (0,)}, ValueError, "bounds has 1 tasks and gradients 2"),
        ({"gradients": ((1,), (2,)), "bounds": (-1, 0)}, UndefinedError, "no weights of sum 1"),
        ({"gradients": ((1,), (2,)), "bounds": (1, F(1, 9))}, UndefinedError, "no weights of sum 1"),
        ({"gradients": ((1,),), "solver": "qp"}, ValueError, "solver = 'qp'"),
        ({"gradients": ((1,),) * 11, "solver": "exact"}, UndefinedError, "at most 10 tasks"),
    ],
)
def test_what_has_no_value_is_an_error(arguments, error, message):
    with pytest.raises(error, match=message):
        exact.step(**arguments)
