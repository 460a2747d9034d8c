"""PCGrad against Algorithm 1 in rational arithmetic, its invariants, and what it refuses."""

from __future__ import annotations

import math
from fractions import Fraction as F
from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st

from mtlref.contract import compress
from mtlref.defects.defect import variant
from mtlref.defects.pcgrad import DEFECTS
from mtlref.exact import pcgrad as exact
from mtlref.methods.pcgrad import PCGrad, PCGradState, partners
from mtlref.notation import DomainError, NonFiniteError, ShapeError
from mtlref.state import from_json, to_json

BESIDE = ("HeadsUnweighted", "HeadsMean", "NextWeightsAtOnce", "StartAtOne", "StartBelowZero")
"""What changes the heads, the start or the timing alone: tests/test_defects.py shows it."""

HAND = np.array([[1.0, 0.0], [-1.0, 1.0], [-1.0, -2.0]])
FIRST, SECOND = [[1, 2], [0, 2], [0, 1]], [[2, 1], [2, 0], [1, 0]]
SELF = np.array([[1.0, 0.0], [-math.sqrt(3) / 2, 0.5], [-math.sqrt(3) / 2, -0.5]])
"""Unit vectors at 0°, 150° and 210°."""


@st.composite
def problems(draw, least=1, most=5, include_self=False):
    """Draw integer gradients, with zeros, duplicates and parallels among them, and orders."""
    K, D = draw(st.integers(least, most)), draw(st.integers(1, 4))
    rows = st.lists(st.integers(-4, 4), min_size=D, max_size=D)
    J = draw(st.lists(rows, min_size=K, max_size=K))
    orders = [draw(st.permutations([j for j in range(K) if include_self or j != i])) for i in range(K)]
    return np.array(J, dtype=float), np.array(orders, dtype=int).reshape(K, -1)


def take(J, draw=None, method=None):
    """Return a step from the start."""
    method = PCGrad() if method is None else method
    return method.step(method.init(len(J)), np.ones(len(J)), J, draw=draw)


def projected(out, J):
    """Return the projected gradients, a row a task."""
    return out.terms["coefficients"] @ J


def floats(rows):
    """Round exact numbers once, to float64."""
    return np.array([[float(x) for x in row] for row in rows])


def agree(J, orders, method=None, within=1e-13):
    """Hold a step against the exact one: every row to `within` of its gradient's length."""
    out, expected = take(J, orders, method), exact.step(J.tolist(), np.asarray(orders).tolist())
    size = np.linalg.norm(J, axis=1)
    error = np.linalg.norm(projected(out, J) - floats(expected["projected"]), axis=1)
    assert np.all(error <= within * size)
    unit = np.where(size > 0, size, 1.0)
    coefficients = (out.terms["coefficients"] - floats(expected["coefficients"])) * unit / unit[:, None]
    assert np.max(np.abs(coefficients)) <= within
    return out, expected


# AGREEMENT


@limits(max_examples=60)
@given(problems())
def test_agrees_with_algorithm_1(problem):
    agree(*problem)


@limits(max_examples=40)
@given(problems(include_self=True))
def test_agrees_with_algorithm_1_and_oneself(problem):
    agree(*problem, method=PCGrad(include_self=True))


@pytest.mark.parametrize("J", [HAND, SELF, np.round(8 * np.random.default_rng(1).standard_normal((4, 3)))])
def test_agrees_for_every_order(J):
    K = len(J)
    for position in permutations(range(K - 1)):
        agree(J, partners(K, False)[:, list(position)])
    if K == 3:
        every = [list(exact.outcomes(J.tolist(), task)) for task in range(K)]
        for orders in product(*every):
            agree(J, orders)


@pytest.mark.parametrize("K", [1, 40])
def test_agrees_for_one_task_and_for_forty(K):
    rng = np.random.default_rng(5)
    J = np.round(16 * rng.standard_normal((K, 6)))
    agree(J, PCGrad().sample(rng, K), within=1e-11)


@limits(max_examples=40)
@given(problems(least=2), st.lists(st.integers(-498, 498), min_size=5, max_size=5))
def test_agrees_across_scales(problem, exponents):
    """Rows from 1e-150 to 1e150; powers of two, so that the gradients are exact."""
    J, orders = problem
    factors = 2.0 ** np.array(exponents[: len(J)])[:, None]
    one, other = take(J, orders), take(J * factors, orders)
    np.testing.assert_allclose(one.terms["projected"], other.terms["projected"], atol=1e-14)
    expected = projected(one, J)
    np.testing.assert_allclose(projected(other, J * factors) / factors, expected, atol=1e-13 * np.max(np.abs(J) + 1))


def test_by_hand():
    first, second = exact.step(HAND.tolist(), FIRST), exact.step(HAND.tolist(), SECOND)
    assert first["w"] == (3, F(5, 2), F(17, 10))
    assert first["d"] == (F(-6, 5), F(-9, 10))
    assert second["w"] == (F(37, 10), F(21, 10), F(7, 5))
    assert second["d"] == (F(1, 5), F(-7, 10))
    agree(HAND, FIRST)
    agree(HAND, SECOND)


def test_the_state_does_not_matter():
    method = PCGrad()
    one = method.step(PCGradState(np.array([3.0, -1.0, 0.0])), np.ones(3), HAND, draw=FIRST)
    np.testing.assert_array_equal(one.weights, take(HAND, FIRST).weights)
    np.testing.assert_array_equal(one.state.weights, one.weights)


# INVARIANTS


@limits(max_examples=40)
@given(problems())
def test_without_conflict_it_is_the_sum(problem):
    J, orders = np.abs(problem[0]), problem[1]
    np.testing.assert_array_equal(take(J, orders).weights, np.ones(len(J)))


@limits(max_examples=60)
@given(problems(least=2, most=2))
def test_two_tasks_in_closed_form(problem):
    """On conflict w = (1 − G12/G11, 1 − G12/G22), d·g_i = ‖g_i‖² sin²φ, ‖d‖ = sin φ ‖g_1 − g_2‖."""
    J, orders = problem
    G, out = J @ J.T, take(J, orders)
    d = out.weights @ J
    if G[0, 1] >= 0:
        np.testing.assert_array_equal(out.weights, [1, 1])
        return
    np.testing.assert_allclose(out.weights, [1 - G[0, 1] / G[0, 0], 1 - G[0, 1] / G[1, 1]], rtol=1e-14)
    sine2 = 1 - G[0, 1] ** 2 / (G[0, 0] * G[1, 1])
    np.testing.assert_allclose(J @ d, sine2 * np.diag(G), atol=1e-12)
    np.testing.assert_allclose(d @ d, sine2 * np.sum((J[0] - J[1]) ** 2), atol=1e-11)
    np.testing.assert_allclose(np.sum(projected(out, J) * J[::-1], axis=1), 0, atol=1e-12)


@limits(max_examples=40)
@given(problems(least=2, most=2, include_self=True))
def test_two_tasks_need_no_order_and_no_self(problem):
    J, orders = problem
    expected = take(J).weights
    np.testing.assert_array_equal(take(J, [[1], [0]]).weights, expected)
    np.testing.assert_allclose(take(J, orders, PCGrad(include_self=True)).weights, expected, atol=1e-14)


def test_orthogonal_gradients_are_in_no_conflict_to_the_last_bit():
    J = np.array([[1.0, 2.0, 3.0], [3.0, 0.0, -1.0], [7.0, -5.0, 1.0], [1e300, -5e299, 0.0]])
    np.testing.assert_array_equal(take(J[:2]).weights, np.ones(2))
    np.testing.assert_array_equal(take(J[[0, 2]]).weights, np.ones(2))
    assert take(J[[0, 3]]).terms["cosines"][0, 1] == 0


def test_antiparallel_gradients_cancel():
    J = np.array([[3.0, -1.0, 2.0], [-6.0, 2.0, -4.0]])
    np.testing.assert_allclose(take(J).weights @ J, 0, atol=1e-14)


@limits(max_examples=60)
@given(problems())
def test_a_projection_never_lengthens_and_respects_the_last_met(problem):
    J, orders = problem
    rows = projected(take(J, orders), J)
    assert np.all(np.linalg.norm(rows, axis=1) <= np.linalg.norm(J, axis=1) * (1 + 1e-14))
    if len(J) > 1:
        assert np.all(np.sum(rows * J[orders[:, -1]], axis=1) >= -1e-12)


@limits(max_examples=40)
@given(problems(), st.lists(st.integers(1, 64), min_size=5, max_size=5))
def test_linear_under_positive_row_scaling(problem, factors):
    """d(diag(c) J) = Σ c_i g_i^PC(J)."""
    J, orders = problem
    c = np.array(factors[: len(J)]) / 8
    scaled = J * c[:, None]
    direction = take(scaled, orders).weights @ scaled
    np.testing.assert_allclose(direction, c @ projected(take(J, orders), J), atol=1e-11)


@limits(max_examples=40)
@given(problems(least=2), st.randoms())
def test_permutation(problem, random):
    """Tasks and orders permuted together: the projected gradients are, and their sum stays."""
    J, orders = problem
    renamed = list(range(len(J)))
    random.shuffle(renamed)
    inverse = np.argsort(renamed)
    one, other = take(J, orders), take(J[renamed], inverse[orders[renamed]])
    np.testing.assert_allclose(projected(other, J[renamed]), projected(one, J)[renamed], atol=1e-12)
    np.testing.assert_allclose(other.weights, one.weights[renamed], atol=1e-12)


@limits(max_examples=40)
@given(problems())
def test_rotation_and_compression(problem):
    J, orders = problem
    Q = np.linalg.qr(np.random.default_rng(2).standard_normal((J.shape[1],) * 2))[0]
    expected = take(J, orders).terms
    for same in (J @ Q, compress(J)):
        got = take(same, orders).terms
        np.testing.assert_allclose(got["projected"], expected["projected"], atol=1e-13)
        np.testing.assert_allclose(got["w"], expected["w"], atol=1e-12)


@limits(max_examples=40)
@given(problems())
def test_the_mean_over_all_orders_is_permutation_invariant(problem):
    """In rational arithmetic: relabelling the tasks relabels every task's set of outcomes."""
    J = problem[0][:4]
    K = len(J)
    reverse = [K - 1 - i for i in range(K)]
    for task in range(K):
        one = exact.outcomes(J.tolist(), task)
        other = exact.outcomes(J[::-1].tolist(), reverse[task])
        assert sorted(vector for vector, _ in one.values()) == sorted(vector for vector, _ in other.values())


def test_duplicated_tasks_do_not_change_each_other():
    J = np.array([[1.0, 2.0], [1.0, 2.0], [-3.0, 1.0]])
    coefficients = take(J, [[1, 2], [0, 2], [0, 1]]).terms["coefficients"]
    assert coefficients[0, 1] == coefficients[1, 0] == 0


@limits(max_examples=40)
@given(problems())
def test_the_mean_is_a_Kth_of_the_sum(problem):
    J, orders = problem
    mean = take(J, orders, PCGrad(reduction="mean")).weights
    np.testing.assert_allclose(mean * len(J), take(J, orders).weights, rtol=1e-15)


@limits(max_examples=40)
@given(problems())
def test_the_heads_keep_their_gradients(problem):
    np.testing.assert_array_equal(take(*problem).head_weights, np.ones(len(problem[0])))


def test_a_small_overlap_makes_a_small_change():
    """The projection is continuous: no jump where an overlap changes its sign."""
    for angle in (1e-3, 1e-6, 1e-12):
        J = np.array([[1.0, 0.0], [-math.sin(angle), math.cos(angle)]])
        assert np.max(np.abs(take(J).weights - 1)) <= 1.01 * angle


def test_self_projection_takes_three_tasks():
    """At 0°, 150°, 210°: gradient 0 ends with a negative overlap with itself, and the choice then matters."""
    orders, with_self = [[1, 2], [0, 2], [0, 1]], [[1, 2, 0], [0, 2, 1], [0, 1, 2]]
    out = take(SELF, orders)
    assert projected(out, SELF)[0] @ SELF[0] < -0.1
    other = take(SELF, with_self, PCGrad(include_self=True))
    assert np.max(np.abs(other.weights - out.weights)) > 0.1


# DEFECTS


@pytest.mark.parametrize("defect", [d for d in DEFECTS if d.name not in BESIDE], ids=lambda defect: defect.name)
def test_every_defect_gives_other_weights(defect):
    rng = np.random.default_rng(7)
    apart = []
    for _ in range(20):
        J = np.vstack([1e-3 * rng.standard_normal((4, 2)), np.zeros((1, 2))])
        draw = PCGrad().sample(rng, 5)
        wrong = variant(PCGrad(), defect)
        if defect.name == "ZeroGradientNaN":
            with pytest.raises(NonFiniteError):
                take(J, draw, wrong)
            return
        apart.append(np.max(np.abs(take(J, draw, wrong).weights - take(J, draw).weights)))
    assert max(apart) > 1e-2


@pytest.mark.parametrize(
    "defect", [d for d in DEFECTS if d.name not in (*BESIDE, "ZeroGradientNaN")], ids=lambda defect: defect.name
)
def test_every_defect_breaks_its_own_equation_first(defect):
    """After one meeting for PCG-3, since a wrong projection is seen in the overlap of the next."""
    J = 1e-3 * SELF[:2] if defect.equation == "PCG-3" else np.diag([1.0, 2.0, 3.0]) @ SELF
    J, draw = (np.abs(J), FIRST) if defect.name == "AlwaysProject" else (J, [[1, 2], [2, 0], [1, 0]])
    draw = [[1], [0]] if len(J) == 2 else draw
    out, wrong = take(J, draw), take(J, draw, variant(PCGrad(), defect))
    tags = PCGrad.tags.items()
    differ = (tag for name, tag in tags if not np.array_equal(out.terms[name], wrong.terms[name]))
    assert next(differ) == defect.equation


# EDGES


def test_a_zero_gradient_is_in_no_conflict():
    J = np.array([[1.0, 0.0], [0.0, 0.0], [-1.0, 1.0]])
    out = take(J, FIRST)
    np.testing.assert_array_equal(out.terms["coefficients"][1], [0, 1, 0])
    np.testing.assert_array_equal(out.terms["coefficients"][:, 1], [0, 1, 0])
    assert out.weights[1] == 1
    np.testing.assert_array_equal(take(np.zeros((3, 2)), FIRST).weights, np.ones(3))
    np.testing.assert_array_equal(take(np.zeros((2, 0))).weights, np.ones(2))


def test_norms_too_far_apart_overflow_only_on_conflict():
    apart = np.array([[1e200, 0.0], [0.0, 1e-200]])
    np.testing.assert_array_equal(take(apart).weights, np.ones(2))
    with pytest.raises(NonFiniteError, match="PCG-4"):
        take(np.array([[1e200, 0.0], [-1e-200, 1e-200]]))


def test_one_task_needs_no_order():
    np.testing.assert_array_equal(take(np.array([[2.0, -1.0]])).weights, [1.0])


BAD = [
    ({"losses": [1.0, 2.0]}, ShapeError, "losses", None, 2, None),
    ({"losses": [1.0, math.nan, 2.0]}, DomainError, "losses", 1, math.nan, None),
    ({"jacobian": None}, DomainError, "jacobian", None, None, "PCG-1"),
    ({"jacobian": HAND[:2]}, ShapeError, "jacobian", None, (2, 2), "PCG-1"),
    ({"jacobian": [[1.0], [math.inf], [2.0]]}, DomainError, "jacobian", 1, math.inf, "PCG-1"),
    ({"draw": None}, DomainError, "draw", None, None, "PCG-2"),
    ({"draw": [[1, 2], [0, 2]]}, ShapeError, "draw", None, (2, 2), "PCG-2"),
    ({"draw": [1, 2, 0]}, ShapeError, "draw", None, (3,), "PCG-2"),
    ({"draw": [[1, 2], [0, 2], [0, 1], [0, 1]]}, ShapeError, "draw", None, (4, 2), "PCG-2"),
    ({"draw": [[1, 2, 2], [0, 2, 2], [0, 1, 1]]}, ShapeError, "draw", None, (3, 3), "PCG-2"),
    ({"draw": [[1, 2], [0, 2], [1, 1]]}, DomainError, "draw", 2, [1.0, 1.0], "PCG-2"),
    ({"draw": [[1, 2], [1, 2], [0, 1]]}, DomainError, "draw", 1, [1.0, 2.0], "PCG-2"),
    ({"draw": [[1, 2], [0, 3], [0, 1]]}, DomainError, "draw", 1, [0.0, 3.0], "PCG-2"),
    ({"draw": [[1, 2], [0, 2], [0.5, 1]]}, DomainError, "draw", 2, [0.5, 1.0], "PCG-2"),
    ({"state": None}, DomainError, "state", None, "NoneType", None),
]


@pytest.mark.parametrize(("changes", "error", "argument", "task", "value", "tag"), BAD)
def test_bad_inputs_are_named(changes, error, argument, task, value, tag):
    method = PCGrad()
    given = {"state": method.init(3), "losses": np.ones(3), "jacobian": HAND, "draw": FIRST} | changes
    with pytest.raises(error) as caught:
        method.step(**given)
    got = caught.value
    assert (got.argument, got.task, got.equation) == (argument, task, tag)
    assert got.value == value or (value != value and got.value != got.value)


@pytest.mark.parametrize("include_self, wanted", [(False, r"\(3, 2\)"), (True, r"\(3, 3\)")])
def test_the_shape_that_the_orders_must_have_is_said(include_self, wanted):
    with pytest.raises(ShapeError, match=f"^draw must have one order a task, {wanted}; its shape is \\(2, 2\\)$"):
        take(HAND, [[1, 2], [0, 2]], PCGrad(include_self=include_self))


@pytest.mark.parametrize(("name", "value", "tag"), [("include_self", "no", "PCG-2"), ("reduction", "max", "PCG-5")])
def test_bad_settings_are_named(name, value, tag):
    with pytest.raises(DomainError) as caught:
        PCGrad(**{name: value})
    assert (caught.value.argument, caught.value.value, caught.value.equation) == (name, value, tag)


def test_a_sample_is_an_order_a_task_and_uniform():
    rng = np.random.default_rng(0)
    seen = [PCGrad().sample(rng, 3) for _ in range(600)]
    first = sum(tuple(draw[0]) == (1, 2) for draw in seen)
    assert 240 < first < 360
    assert any(draw[0, 0] == 1 and draw[1, 0] == 2 for draw in seen)
    assert PCGrad().sample(rng, 1).shape == (1, 0)
    assert PCGrad(include_self=True).sample(rng, 4).shape == (4, 4)


# STATE AND PURITY


def test_a_state_survives_json():
    state = take(HAND, FIRST).state
    assert from_json(to_json(state)) == state
    assert from_json(to_json(PCGrad().init(2))) == PCGrad().init(2)


def test_nothing_is_written_to():
    J, draw, losses, state = HAND.copy(), np.array(FIRST), np.ones(3), PCGrad().init(3)
    for array in (J, draw, losses, state.weights):
        array.setflags(write=False)
    one, other = (PCGrad().step(state, losses, J, draw=draw) for _ in range(2))
    assert one.weights.tobytes() == other.weights.tobytes()
    assert one.state == other.state


def test_one_pass_and_scaled_rows_give_the_same_bits(monkeypatch):
    """Dividing rows by powers of two rounds nothing, so the quick way and the safe one differ in no bit."""
    rng = np.random.default_rng(3)
    J = rng.normal(size=(6, 40)) * np.exp2(rng.integers(-100, 100, size=(6, 1)))
    draw = PCGrad().sample(rng, 6)
    quick = take(J, draw)
    monkeypatch.setattr("mtlref.contract.MID_RANGE", (np.inf, 0.0))
    safe = take(J, draw)
    for name, value in quick.terms.items():
        np.testing.assert_array_equal(value, safe.terms[name], err_msg=name)


@pytest.mark.parametrize("exponent", [-1000, -460, -440, 440, 490, 505, 1000])
def test_gradients_at_both_ends_of_float64_are_measured_to_rounding(exponent):
    """On both sides of where the rows begin to be scaled; HAND's entries are small whole numbers."""
    J = np.ldexp(HAND, exponent)
    out, plain = take(J, FIRST), take(HAND, FIRST)
    for name in ("cosines", "overlaps", "projected"):
        np.testing.assert_allclose(out.terms[name], plain.terms[name], rtol=1e-14, atol=1e-15, err_msg=name)
    np.testing.assert_allclose(out.weights, plain.weights, rtol=1e-14)
