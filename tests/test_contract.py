"""The contract: states through JSON, compression, and what every registered method has in common."""

from __future__ import annotations

import dataclasses
import json
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import mtlref
from mtlref.contract import direction, products
from mtlref.notation import EQUATIONS
from tests.problems import WHOLE_RANGE, jacobians, positive

ULP = np.finfo(float).eps


# STATES


@given(st.lists(WHOLE_RANGE, min_size=6, max_size=6), st.integers(0, 10**6))
def test_a_state_goes_through_json_without_losing_a_bit(numbers, count):
    numbers = np.array(numbers)
    adam = mtlref.optimisers.AdamState(count, numbers[:3], numbers[3:])
    state = mtlref.GradNormState(numbers[:3], numbers[3:], adam)
    text = json.dumps(json.loads(state.to_json()))
    for again in (mtlref.GradNormState.from_json(text), mtlref.from_json(text), mtlref.from_json(json.loads(text))):
        assert again == state
        assert again.weights.tobytes() == state.weights.tobytes()
        assert again.optimiser.second_moment.tobytes() == adam.second_moment.tobytes()
        assert mtlref.to_json(again) == text


def test_states_differ_by_class_and_by_value():
    ones = np.ones(2)
    assert mtlref.EqualState(ones) != mtlref.DWAState(ones, None)
    assert mtlref.DWAState(ones, None) != mtlref.DWAState(ones, ones)
    assert mtlref.DWAState(ones, ones) != mtlref.DWAState(ones, 2 * ones)
    assert hash(mtlref.DWAState(ones, None)) == hash(mtlref.DWAState(ones.copy(), None))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[1]",
        "{}",
        '{"state": "os.system"}',
        '{"state": ["DWAState"]}',
        '{"state": "DWAState", "weights": [1.0]}',
        '{"state": "DWAState", "weights": [1.0], "losses_prev": null, "more": 1}',
        '{"state": "DWAState", "weights": [1.0, "x"], "losses_prev": null}',
        '{"state": "DWAState", "weights": [NaN], "losses_prev": null}',
        '{"state": "EqualState", "weights": [1.0]}',
    ],
)
def test_what_is_no_state_is_refused(text):
    with pytest.raises(mtlref.MtlrefError):
        mtlref.DWAState.from_json(text)


# COMPRESSION


@given(st.sampled_from([1, 2, 3, 5]).flatmap(jacobians))
def test_compress_keeps_inner_products(J):
    R = mtlref.compress(J)
    assert R.shape == (len(J), len(J))
    n = np.linalg.norm(J, axis=1)
    np.testing.assert_allclose(R @ R.T, J @ J.T, rtol=0, atol=32 * ULP * np.outer(n, n).max(initial=0))


@given(st.sampled_from([1, 2, 3, 5]).flatmap(jacobians))
def test_from_gram_keeps_inner_products(J):
    G = J @ J.T
    F = mtlref.from_gram(G)
    n = np.sqrt(np.diag(G))
    assert np.all(np.abs(F @ F.T - G) <= 64 * ULP * np.outer(n, n))


def test_compression_keeps_scales_of_1e150_and_zero_rows():
    J = np.array([[1e150, 1e150], [0.0, 0.0], [1e-150, -1e-150]])
    R = mtlref.compress(J)
    np.testing.assert_allclose(np.linalg.norm(R, axis=1), np.sqrt(2) * np.array([1e150, 0.0, 1e-150]), rtol=8 * ULP)
    F = mtlref.from_gram(np.diag([1e300, 0.0, 1e-300]))
    np.testing.assert_allclose(np.linalg.norm(F, axis=1), [1e150, 0.0, 1e-150], rtol=8 * ULP)


def test_compress_keeps_an_angle_that_the_gram_matrix_loses():
    """Anti-parallel but for 1e-9: |g_1 + g_2| = 1e-9, whose square vanishes beside 1 in the Gram matrix."""
    J = np.array([[1.0, 0.0, 0.0], [-1.0, 1e-9, 0.0]])
    ones = np.ones(2)
    np.testing.assert_allclose(np.linalg.norm(ones @ mtlref.compress(J)), 1e-9, rtol=1e-6)
    assert abs(np.linalg.norm(ones @ mtlref.from_gram(J @ J.T)) - 1e-9) > 1e-10


@pytest.mark.parametrize(
    "gram",
    [
        [[1.0, 2.0], [2.0, 1.0]],
        [[1e-270, 1.7e38], [1.7e38, 1e-270]],
        [[1.0, 0.5], [0.4, 1.0]],
        [[-1.0, 0.0], [0.0, 1.0]],
        [[0.0, 0.1], [0.1, 1.0]],
        [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]],
        [[np.nan, 0.0], [0.0, 1.0]],
        [],
    ],
)
def test_what_is_no_gram_matrix_is_refused(gram):
    with pytest.raises(mtlref.MtlrefError):
        mtlref.from_gram(gram)


def test_direction_is_the_weighted_sum_of_the_rows():
    np.testing.assert_array_equal(direction(np.array([2.0, -1.0]), np.array([[1.0, 2.0], [3.0, 4.0]])), [-1.0, 0.0])


@pytest.mark.parametrize("K", range(1, 10))
def test_inner_products_are_those_of_whole_numbers(K):
    rows = [[(7 * i + 3 * d) % 11 - 5 for d in range(5)] for i in range(K)]
    expected = [[sum(a * b for a, b in zip(one, other, strict=True)) for other in rows] for one in rows]
    np.testing.assert_array_equal(products(np.array(rows, dtype=float)), expected)


@pytest.mark.parametrize("K", range(1, 10))
def test_inner_products_are_symmetric_to_the_last_bit(K):
    found = products(np.random.default_rng(K).normal(size=(K, 1001)))
    np.testing.assert_array_equal(found, found.T)


@given(st.lists(WHOLE_RANGE, min_size=6, max_size=6))
def test_every_float_gives_finite_numbers_or_a_named_error(numbers):
    J = np.array(numbers).reshape(2, 3)
    with np.errstate(over="ignore", invalid="ignore"):
        gram = J @ J.T
    for function, argument in (
        (mtlref.compress, J),
        (mtlref.from_gram, J[:, :2]),
        (mtlref.from_gram, gram),
        (mtlref.notation.norms, J),
        (lambda x: direction(x[:, 0], x), J),
    ):
        try:
            result = function(argument)
        except mtlref.MtlrefError as error:
            assert error.argument is not None
            assert str(error)
            continue
        assert np.all(np.isfinite(result))


# EVERY METHOD


READ_GRADIENTS = [stem for stem, cls in mtlref.METHODS.items() if cls.reads != "losses"]


def stepped(stem, jacobian):
    """Return the first step of a method of three tasks."""
    method = example(mtlref.METHODS[stem])
    draw = method.sample(np.random.default_rng(0), 3)
    return method.step(method.init(3), np.ones(3), jacobian, **({} if draw is None else {"draw": draw}))


@pytest.mark.parametrize("stem", READ_GRADIENTS)
@pytest.mark.parametrize("shape", [(3,), (4, 5), (3, 2, 2), (0, 5)])
def test_an_array_of_another_shape_is_no_jacobian(stem, shape):
    with pytest.raises(mtlref.ShapeError, match=r"^jacobian must have") as caught:
        stepped(stem, np.ones(shape))
    assert caught.value.argument == "jacobian"


@pytest.mark.parametrize("stem", READ_GRADIENTS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_an_entry_of_an_array_that_is_not_finite_is_named(stem, value):
    jacobian = np.ones((3, 5))
    jacobian[1, 4] = value
    with pytest.raises(mtlref.DomainError, match=re.escape(f"jacobian[1, 4] = {value} is not finite")) as caught:
        stepped(stem, jacobian)
    assert caught.value.task == 1


@pytest.mark.parametrize("stem", READ_GRADIENTS)
@pytest.mark.parametrize("dtype, unit", [(np.float32, 2.0**-80), (np.int8, 2)])
def test_other_types_of_numbers_are_taken_as_float64(stem, dtype, unit):
    jacobian = ((np.arange(15).reshape(3, 5) - 4) * unit).astype(dtype)  # whose squares the type does not hold
    assert stepped(stem, jacobian).state == stepped(stem, jacobian.astype(np.float64)).state


@pytest.mark.parametrize("stem", list(mtlref.METHODS))
def test_every_method_keeps_the_contract(stem):
    cls = mtlref.METHODS[stem]
    assert cls.stem == stem
    assert cls.reads in ("losses", "norms", "gram")
    assert cls.cadence in ("step", "epoch")
    method = example(cls)
    state = method.init(3)
    rng = np.random.default_rng(0)
    losses, jacobian = np.array([3.0, 0.2, 11.0]), rng.standard_normal((3, 5))
    draw = method.sample(rng, 3)
    for _ in range(3):
        extra = {} if draw is None else {"draw": draw}
        out = method.step(state, losses, jacobian, **extra)
        assert list(out.terms) == list(method.tags)
        assert out.weights.shape == out.head_weights.shape == out.state.weights.shape == (3,)
        assert type(out.state).from_json(out.state.to_json()) == out.state
        again = method.step(state, losses, jacobian, **extra)
        assert again.state == out.state
        rotated = method.step(state, losses, mtlref.compress(jacobian), **extra)
        np.testing.assert_allclose(rotated.weights, out.weights, rtol=1e-9, atol=1e-12)
        state, losses = out.state, losses * np.array([0.9, 0.7, 1.1])
    with pytest.raises(dataclasses.FrozenInstanceError):
        state.weights = np.ones(3)
    with pytest.raises(TypeError):
        out.terms["w"] = 1.0


@pytest.mark.parametrize("stem", list(mtlref.METHODS))
def test_a_method_is_a_value(stem):
    method, twin = example(mtlref.METHODS[stem]), example(mtlref.METHODS[stem])
    assert method == twin
    assert hash(method) == hash(twin)
    for name in ("title", *(field.name for field in dataclasses.fields(method))):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(method, name, None)


@pytest.mark.parametrize("stem", list(mtlref.METHODS))
def test_every_tag_of_a_method_is_an_equation(stem):
    """Registered, and so evaluated with NumPy's warnings as errors."""
    method = example(mtlref.METHODS[stem])
    assert {*method.tags.values(), method.start, method.heads} <= set(EQUATIONS)


def test_every_tag_of_the_quadratic_programs_is_an_equation():
    assert mtlref.qp.__doc__
    assert {f"QP-{n}" for n in (1, 3, 4, 5, 6, 7, 8, 9)} <= set(EQUATIONS)


DEFAULTS = {
    "equal": {},
    "fixed": {"weights": 1.0},
    "gradnorm": {"alpha": 1.5, "lr": 0.025, "optimiser": None, "negative": "keep", "initial_losses": None},
    "pe_ltr": {"bounds": None, "solver": "published", "timing": "next"},
    "pcgrad": {"include_self": False, "reduction": "sum"},
    "uncertainty": {"likelihoods": "gaussian", "lr": 1e-3, "optimiser": None, "dimensions": None},
    "dwa": {"temperature": 2.0},
    "cov": {"statistics": "current", "decay": None, "observed": "ratio"},
}
"""The papers' values, and the choices that the derivations give as ours."""


@pytest.mark.parametrize("stem", list(DEFAULTS))
def test_the_defaults_are_the_documented_ones(stem):
    method = mtlref.METHODS[stem]()
    assert {field.name: getattr(method, field.name) for field in dataclasses.fields(method)} == DEFAULTS[stem]


@pytest.mark.parametrize("stem", ["equal", "gradnorm", "pe_ltr", "uncertainty", "dwa", "cov", "fixed"])
def test_three_hundred_tasks_are_as_many_as_any(stem):
    """More than the integers that Python keeps one object of: nothing may compare counts by identity."""
    cls, K = mtlref.METHODS[stem], 300
    method = cls((0.5,) * K) if stem == "fixed" else cls()
    rng = np.random.default_rng(0)
    state = method.init(K)
    for _ in range(2):
        out = method.step(state, np.exp(rng.standard_normal(K)), 1e-3 * rng.standard_normal((K, 2)))
        assert out.weights.shape == out.state.weights.shape == (K,)
        assert np.isfinite(out.weights).all()
        state = out.state


def example(cls):
    """A method of the class, with what it cannot be without."""
    if cls.stem == "combination":
        return cls(mtlref.CoVWeighting(), mtlref.GradNorm(lr=1e-3), mtlref.PCGrad())
    return cls((0.5, 2.0, 1.0)) if cls.stem == "fixed" else cls()


@given(positive(1e-300, 1e300))
def test_norms_are_right_at_every_scale(scale):
    n = mtlref.notation.norms(np.array([[3.0 * scale, 4.0 * scale]]))
    np.testing.assert_allclose(n, [5.0 * scale], rtol=4 * ULP)
