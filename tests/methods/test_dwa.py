"""DWA against its 50-digit oracle, its closed forms and limits, and what it must refuse."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import mtlref
from mtlref.exact import dwa as exact
from mtlref.methods.dwa import DWAState, softmax_weights
from tests.problems import WHOLE_RANGE, positive

ULP = np.finfo(float).eps


def losses(K, low=1e-3, high=1e3):
    """K positive losses, far from 1 and from each other."""
    return st.lists(positive(low, high), min_size=K, max_size=K).map(np.array)


@st.composite
def epochs(draw, tasks=(1, 2, 3, 5)):
    """Two epochs' mean losses, with ratios between a tenth and three."""
    K = draw(st.sampled_from(tasks))
    before = draw(losses(K))
    return before, before * np.array(draw(st.lists(st.floats(0.1, 3), min_size=K, max_size=K)))


def next_weights(before, now, T=2.0):
    """λ of the epoch after two epochs' losses."""
    state = DWAState(np.ones(len(now)), np.array(before))
    return mtlref.DWA(temperature=T).step(state, now).state.weights


# AGAINST THE ORACLE


@given(epochs(), st.sampled_from([0.1, 0.5, 1.0, 2.0, 10.0, 1e6]))
def test_agrees_with_the_exact_oracle_from_injected_states(pair, T):
    before, now = pair
    expected = np.array(exact.weights(now.tolist(), before.tolist(), temperature=T), dtype=float)
    spread = np.ptp(now / before) / T  # an exponent's rounding is relative to its size
    np.testing.assert_allclose(
        next_weights(before, now, T), expected, rtol=(8 + 4 * np.max(now / before) / T + spread) * ULP
    )


def test_agrees_with_the_exact_oracle_for_forty_tasks():
    rng = np.random.default_rng(0)
    before, now = rng.uniform(0.01, 50, (2, 40))
    now = before * rng.uniform(0.5, 1.2, 40)
    expected = np.array(exact.weights(now.tolist(), before.tolist(), temperature=2.0), dtype=float)
    np.testing.assert_allclose(next_weights(before, now), expected, rtol=8 * ULP)


@given(st.data(), st.sampled_from([1, 2, 3, 5]), st.sampled_from([0.7, 2.0]))
def test_a_run_agrees_with_the_exact_run(data, K, T):
    run = [data.draw(losses(K, 0.5, 2)) for _ in range(6)]
    expected = exact.run([epoch.tolist() for epoch in run], temperature=T)
    method = mtlref.DWA(temperature=T)
    state = method.init(K)
    for epoch, in_use in zip(run, expected, strict=True):
        np.testing.assert_allclose(state.weights, np.array(in_use, dtype=float), rtol=64 * ULP)
        out = method.step(state, epoch)
        np.testing.assert_array_equal(out.weights, state.weights)
        np.testing.assert_array_equal(out.head_weights, state.weights)
        state = out.state


def test_the_first_two_epochs_have_weights_of_one_and_the_third_uses_the_first_ratio():
    """DWA-E1."""
    method = mtlref.DWA()
    first = method.step(method.init(2), [4.0, 1.0])
    second = method.step(first.state, [2.0, 1.0])
    np.testing.assert_array_equal([first.weights, second.weights], np.ones((2, 2)))
    np.testing.assert_array_equal(second.terms["ratio"], [0.5, 1.0])
    np.testing.assert_allclose(second.state.weights, [2 / (1 + np.exp(0.25)), 2 / (1 + np.exp(-0.25))], rtol=4 * ULP)


# INVARIANTS


@given(epochs(), positive(0.05, 100))
def test_weights_sum_to_K(pair, T):
    w = next_weights(*pair, T)
    assert abs(w.sum() - len(w)) <= 2 * len(w) * ULP
    assert np.all(w >= 0)


@given(epochs(tasks=(3, 5)), st.randoms(use_true_random=False))
def test_permutation(pair, random):
    order = list(range(len(pair[0])))
    random.shuffle(order)
    permuted = next_weights(pair[0][order], pair[1][order])
    np.testing.assert_allclose(permuted, next_weights(*pair)[order], rtol=4 * ULP)


@given(epochs(), st.data())
def test_task_scale(pair, data):
    K = len(pair[0])
    c = np.exp2(np.array(data.draw(st.lists(st.integers(-60, 60), min_size=K, max_size=K)), dtype=float))
    np.testing.assert_array_equal(next_weights(c * pair[0], c * pair[1]), next_weights(*pair))


@given(st.sampled_from([1, 2, 3, 40]), positive(1e-3, 1e3), positive(0.1, 10))
def test_equal_ratios(K, ratio, T):
    before = np.exp2(np.arange(K) % 7.0)
    np.testing.assert_array_equal(next_weights(before, ratio * before, T), np.ones(K))


@given(epochs(tasks=(2, 3, 5)), positive(0.2, 20))
def test_log_ratio(pair, T):
    w, ratio = next_weights(*pair, T), pair[1] / pair[0]
    np.testing.assert_allclose(np.log(w[0] / w[1]), (ratio[0] - ratio[1]) / T, rtol=1e-12, atol=1e-14)


@given(epochs(tasks=(2, 3, 5)))
def test_temperature_limits(pair):
    ratio = pair[1] / pair[0]
    for T in (10.0, 1e3, 1e6):
        assert np.max(np.abs(next_weights(*pair, T) - 1)) <= np.expm1(np.ptp(ratio) / T) + 4 * ULP
    best = np.sort(ratio)[::-1]
    assume(best[0] - best[1] > 1e-3)
    expected = np.where(ratio == best[0], float(len(ratio)), 0.0)
    np.testing.assert_array_equal(next_weights(*pair, 1e-6), expected)


@given(epochs(tasks=(2, 3, 5)), st.floats(1.01, 3))
def test_monotone(pair, factor):
    w = next_weights(*pair)
    raised = next_weights(pair[0], pair[1] * np.array([factor] + [1.0] * (len(w) - 1)))
    assert raised[0] > w[0]
    assert np.all(raised[1:] < w[1:])


@given(epochs(tasks=(2, 3, 5)), st.integers(-3, 3), st.integers(-5, 5))
def test_only_differences_of_ratios_over_the_temperature_count(pair, shift, exponent):
    ratio = np.round(pair[1] / pair[0] * 2**20) / 2**20  # so that shift and factor are exact
    w, factor = softmax_weights(ratio, 2.0), 2.0**exponent
    np.testing.assert_allclose(softmax_weights(ratio + shift, 2.0), w, rtol=4 * ULP)
    np.testing.assert_array_equal(softmax_weights(factor * ratio, 2.0 * factor), w)


def test_one_task():
    np.testing.assert_array_equal(next_weights([3.0], [0.1]), [1.0])


@given(st.lists(st.floats(0, 2), min_size=1, max_size=9))
def test_bounds_at_the_paper_s_temperature(ratios):
    K = len(ratios)
    w = softmax_weights(np.array(ratios), 2.0)
    assert np.all(w >= K / (1 + (K - 1) * np.e) * (1 - 8 * ULP))
    assert np.all(w <= K * np.e / (np.e + K - 1) * (1 + 8 * ULP))


def test_ratios_within_a_tenth_of_one_keep_the_weights_within_about_a_twentieth():
    w = softmax_weights(np.array([0.9, 1.0, 1.1]), 2.0)
    np.testing.assert_allclose(w, [0.9504, 0.9992, 1.0504], atol=5e-5)
    np.testing.assert_allclose(w.max() / w.min(), np.exp(0.1), rtol=4 * ULP)


# WHAT COMES IN


def test_nothing_is_written_to_and_the_same_inputs_give_the_same_bits():
    L = np.array([1.0, 2.0])
    L.flags.writeable = False
    state = DWAState(np.ones(2), L)
    method = mtlref.DWA()
    assert method.step(state, L).state.to_json() == method.step(state, L).state.to_json()
    np.testing.assert_array_equal(state.losses_prev, [1.0, 2.0])


@pytest.mark.parametrize(
    ("losses_now", "losses_prev", "argument", "task", "value"),
    [
        ([1.0, -2.0], None, "losses", 1, -2.0),
        ([1.0, np.nan], None, "losses", 1, None),
        ([np.inf, 1.0], None, "losses", 0, np.inf),
        ([1.0], None, "losses", None, 1),
        ([], None, "losses", None, 0),
        ([1.0, 1.0], [1.0, 0.0], "losses_prev", 1, 0.0),
        ([1.0, 1.0], [-1.0, 1.0], "losses_prev", 0, -1.0),
        ([1.0, 1.0], [1.0], "state.losses_prev", None, 1),
        ([1e300, 1.0], [1e-300, 1.0], "losses", 0, np.inf),
    ],
)
def test_bad_input_is_refused_by_name(losses_now, losses_prev, argument, task, value):
    state = DWAState(np.ones(2), losses_prev if losses_prev is None else np.array(losses_prev))
    with pytest.raises(mtlref.MtlrefError) as caught:
        mtlref.DWA().step(state, losses_now)
    error = caught.value
    assert (error.argument, error.task) == (argument, task), str(error)
    assert value is None or error.value == value
    assert error.equation is None or error.equation == "DWA-1"


@pytest.mark.parametrize("T", [0.0, -1.0, np.nan, np.inf, "warm", None])
def test_a_temperature_is_positive(T):
    with pytest.raises(mtlref.MtlrefError) as caught:
        mtlref.DWA(temperature=T)
    assert caught.value.argument == "temperature"


@given(st.lists(WHOLE_RANGE, min_size=6, max_size=6), WHOLE_RANGE)
def test_every_float_gives_finite_numbers_or_a_named_error(numbers, T):
    numbers = np.abs(np.array(numbers))
    try:
        out = mtlref.DWA(temperature=abs(T)).step(DWAState(np.ones(3), numbers[:3]), numbers[3:])
    except mtlref.MtlrefError as error:
        assert error.argument is not None
        return
    assert all(np.all(np.isfinite(value)) for value in out.terms.values())
