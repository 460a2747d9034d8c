"""Fixed weights: that they are what was given, and nothing else."""

from __future__ import annotations

import math
from fractions import Fraction as F

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st

from mtlref.defects.defect import variant
from mtlref.defects.fixed import DEFECTS
from mtlref.exact import fixed as exact
from mtlref.methods.fixed import FixedState, FixedWeights
from mtlref.notation import DomainError, ShapeError
from mtlref.optimisers import SGDState
from mtlref.state import from_json, to_json

weights_of_tasks = st.lists(st.floats(0, 1e300), min_size=1, max_size=6)


@limits(max_examples=40)
@given(weights_of_tasks, st.integers(0, 2**32))
def test_the_weights_are_those_given_at_every_step(given, seed):
    rng, K = np.random.default_rng(seed), len(given)
    method = FixedWeights(tuple(given))
    state = method.init(K)
    for _ in range(3):
        out = method.step(state, rng.normal(size=K), rng.normal(size=(K, 2)))
        state = out.state
        assert tuple(map(F, out.weights.tolist())) == exact.weights(given, K)
        np.testing.assert_array_equal(out.head_weights, out.weights)
        np.testing.assert_array_equal(state.weights, out.weights)


@pytest.mark.parametrize("K", [1, 40])
def test_one_number_is_the_weight_of_every_task(K):
    method = FixedWeights(0.25)
    np.testing.assert_array_equal(method.step(method.init(K), np.ones(K)).weights, np.full(K, 0.25))
    assert exact.weights(0.25, K) == (F(1, 4),) * K
    np.testing.assert_array_equal(FixedWeights().init(K).weights, np.ones(K))


@limits(max_examples=40)
@given(st.lists(st.integers(0, 40).map(lambda n: n / 8), min_size=1, max_size=5))
def test_the_direction_is_the_gradient_of_the_total_loss(given):
    """With linear losses L_i = J_i·x the total is (wᵀJ) x, exactly on this grid."""
    J = np.arange(1.0, 1 + len(given) * 2).reshape(-1, 2) / 4
    out = FixedWeights(tuple(given)).step(FixedWeights(tuple(given)).init(len(given)), J[:, 0], J)
    assert [F(x) for x in (out.weights @ J).tolist()] == [exact.total(given, column) for column in J.T.tolist()]


def test_a_permutation_permutes():
    one, other = FixedWeights((1.0, 2.0, 0.0)), FixedWeights((0.0, 2.0, 1.0))
    np.testing.assert_array_equal(one.init(3).weights[::-1], other.init(3).weights)


def test_a_state_of_other_weights_is_brought_back():
    method = FixedWeights((1.0, 3.0))
    np.testing.assert_array_equal(method.step(FixedState(np.array([9.0, 9.0])), [1.0, 1.0]).weights, [1, 3])


@pytest.mark.parametrize(
    ("given", "task", "value"),
    [((1.0, -2.0), 1, -2.0), ((math.nan, 1.0), 0, math.nan), (-1.0, None, -1.0), (math.inf, None, math.inf)],
)
def test_bad_weights_are_named(given, task, value):
    with pytest.raises(DomainError) as caught:
        FixedWeights(given)
    got = caught.value
    assert (got.argument, got.task, got.equation) == ("weights", task, "FIX-1")
    assert got.value == value or (value != value and got.value != got.value)


@pytest.mark.parametrize(
    ("arguments", "error", "argument", "task", "value", "tag"),
    [
        ((FixedState(np.ones(2)), [1.0]), ShapeError, "losses", None, 1, None),
        ((FixedState(np.ones(2)), [1.0, math.inf]), DomainError, "losses", 1, math.inf, None),
        ((FixedState(np.ones(2)), [1.0, 1.0], [[1.0]]), ShapeError, "jacobian", None, (1, 1), None),
        ((FixedState(np.ones(3)), [1.0, 1.0, 1.0]), ShapeError, "weights", None, 2, "FIX-1"),
        ((SGDState(), [1.0, 1.0]), DomainError, "state", None, "SGDState", None),
    ],
)
def test_bad_inputs_are_named(arguments, error, argument, task, value, tag):
    with pytest.raises(error) as caught:
        FixedWeights((1.0, 2.0)).step(*arguments)
    got = caught.value
    assert (got.argument, got.task, got.value, got.equation) == (argument, task, value, tag)


def test_no_weights_at_all_are_refused():
    with pytest.raises(ShapeError, match="weights is empty"):
        FixedWeights(())
    with pytest.raises(ValueError, match="2 weights for 3 tasks"):
        exact.weights((1, 2), 3)


@pytest.mark.parametrize("defect", DEFECTS, ids=lambda defect: defect.name)
def test_every_defect_gives_other_weights(defect):
    method = FixedWeights((1.0, 2.0, 4.0))
    one, other = (m.step(m.init(3), [1.0, 1.0, 1.0]) for m in (method, variant(method, defect)))
    apart = np.abs(one.weights - other.weights) + np.abs(one.head_weights - other.head_weights)
    assert np.max(apart) > 0.1


def test_a_state_survives_json_and_nothing_is_written_to():
    method, losses = FixedWeights([0.1, 0.7]), np.array([1.0, 2.0])
    state = method.init(2)
    for array in (losses, state.weights):
        array.setflags(write=False)
    one, other = method.step(state, losses), method.step(state, losses)
    assert from_json(to_json(one.state)) == one.state == other.state
    assert one.weights.tobytes() == other.weights.tobytes()
    assert method == FixedWeights((0.1, 0.7))
