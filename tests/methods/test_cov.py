"""CoV-Weighting against exact statistics, its invariants, and what it refuses."""

from __future__ import annotations

import math
from fractions import Fraction as F

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st

from mtlref.exact import UndefinedError
from mtlref.exact import cov as exact
from mtlref.methods.cov import CoVState, CoVWeighting, coefficient_of_variation, gain, mixture, ratio_variance
from mtlref.notation import DomainError, MtlrefError, NonFiniteError, ShapeError
from mtlref.state import from_json, to_json

HAND = [[2.0, 4.0, 1.0], [1.0, 4.5, 1.0], [1.5, 3.0, 1.0], [0.25, 5.0, 1.0], [0.5, 2.0, 1.0]]
"""Three tasks that vary in different ways; the last one does not vary at all."""

losses_of_a_task = st.integers(1, 96).map(lambda n: n / 16)
decays = st.sampled_from([None, 0.125, 0.5, 0.75, 1 - 2**-10])
settings_of = st.fixed_dictionaries({"decay": decays, "observed": st.sampled_from(["ratio", "loss"])})


@st.composite
def runs(draw, least_tasks=1, least_steps=1):
    """Draw the losses of a run, a list of steps of a list of tasks."""
    K = draw(st.integers(least_tasks, 5))
    return draw(st.lists(st.lists(losses_of_a_task, min_size=K, max_size=K), min_size=least_steps, max_size=6))


def follow(method, losses, state=None):
    """Return the steps of a run."""
    state = method.init(len(losses[0])) if state is None else state
    steps = []
    for row in losses:
        steps.append(method.step(state, row))
        state = steps[-1].state
    return steps


def used(method, losses):
    """Return the weights in use, a row a step."""
    return np.array([out.weights for out in follow(method, losses)])


def floats(values):
    """Round exact numbers once, to float64."""
    return np.array([float(value) for value in values])


# AGREEMENT


def compare(out, expected, alpha):
    """Hold a step against the exact statistics and weights."""
    second_moment = 1 + floats(expected["M"]) + floats(expected["mu_ratio"]) ** 2 + floats(expected["ratio"]) ** 2
    np.testing.assert_allclose(out.terms["ratio"], floats(expected["ratio"]), rtol=1e-14)
    np.testing.assert_allclose(out.terms["mu_L"], floats(expected["mu_L"]), rtol=1e-14)
    np.testing.assert_allclose(out.terms["mu_ratio"], floats(expected["mu_ratio"]), rtol=1e-14)
    assert np.all(np.abs(out.terms["M"] - floats(expected["M"])) <= 1e-14 * second_moment)
    np.testing.assert_allclose(out.terms["alpha"], floats(alpha), atol=1e-12)


@limits(max_examples=25)
@given(runs(), settings_of)
def test_agrees_with_the_definitions_from_the_whole_history(losses, settings):
    expected = exact.history(losses, **settings)
    for out, now in zip(follow(CoVWeighting(**settings), losses), expected, strict=True):
        compare(out, now, exact.weights(now["M"], now["mu_ratio"]))


@limits(max_examples=25)
@given(runs(), st.integers(0, 10**6), settings_of, st.booleans())
def test_agrees_with_the_printed_recursions_from_any_state(losses, t, settings, seen):
    if settings["decay"] is not None:
        t %= 12
    K = len(losses[0])
    mu_L = np.arange(3, 3 + K) / 8 if seen else None
    mu, M = np.arange(12, 12 - K, -1) / 8, np.arange(K) / 16
    state = CoVState(t, mu_L, mu, M, np.full(K, 1 / K))
    now = {"t": t, "mu_L": mu_L, "mu_ratio": mu, "M": M}
    for out, row in zip(follow(CoVWeighting(**settings), losses, state), losses, strict=True):
        now = exact.step(now["t"], now["mu_L"], now["mu_ratio"], now["M"], row, **settings)
        compare(out, now, exact.weights(now["M"], now["mu_ratio"]))
        assert out.state.step == now["t"]


@pytest.mark.parametrize("K", [1, 40])
def test_agrees_for_one_task_and_for_forty(K):
    losses = np.round(np.random.default_rng(3).lognormal(5, 1, (7, K))) / 64
    for settings in ({}, {"decay": 0.75}, {"observed": "loss"}):
        expected = exact.history(losses.tolist(), **settings)
        for out, now in zip(follow(CoVWeighting(**settings), losses), expected, strict=True):
            np.testing.assert_allclose(out.terms["M"], floats(now["M"]), rtol=1e-12)
            alpha = exact.weights(now["M"], now["mu_ratio"])
            np.testing.assert_allclose(out.terms["alpha"], floats(alpha), rtol=1e-12)


@limits(max_examples=25)
@given(runs(), settings_of)
def test_welford_is_the_batch_moment_exactly(losses, settings):
    """COV-1, COV-3 … COV-5 in rational arithmetic, no rounding: the recursions are the definitions."""
    K = len(losses[0])
    now = {"t": 0, "mu_L": None, "mu_ratio": (F(0),) * K, "M": (F(0),) * K}
    for row, expected in zip(losses, exact.history(losses, **settings), strict=True):
        now = exact.step(now["t"], now["mu_L"], now["mu_ratio"], now["M"], row, **settings)
        assert now == expected


@pytest.mark.parametrize("offset", [1e9, 1e12])
def test_welford_holds_where_the_naive_formula_fails(offset):
    """Values offset + 4, 7, 13, 16: the variance is 22.5, and E[x²] − E[x]² has no digit of it left."""
    losses = [[offset + x] for x in (4.0, 7.0, 13.0, 16.0)]
    column = np.array(losses)[:, 0]
    assert exact.history(losses, observed="loss")[-1]["M"] == (F(45, 2),)
    M = follow(CoVWeighting(observed="loss"), losses)[-1].terms["M"]
    assert abs(M[0] - 22.5) <= 1e-3 * (offset / 1e12)
    assert abs(np.mean(column**2) - np.mean(column) ** 2 - 22.5) > 1


def test_ratios_close_to_one_keep_their_variance():
    rng = np.random.default_rng(0)
    losses = (1 + 1e-9 * rng.standard_normal((12, 3))).tolist()
    out, expected = follow(CoVWeighting(), losses)[-1], exact.history(losses)[-1]
    np.testing.assert_allclose(out.terms["M"], floats(expected["M"]), rtol=1e-6)
    np.testing.assert_allclose(out.weights, floats(exact.weights(expected["M"], expected["mu_ratio"])), rtol=1e-6)


def test_weights_are_exact_where_the_deviations_are():
    """σ = (1/2, 3/2), μ = (1, 2): c = (1/2, 3/4), α = (2/5, 3/5)."""
    assert exact.weights((F(1, 4), F(9, 4)), (1, 2)) == (F(2, 5), F(3, 5))
    assert exact.weights((0, 0, 0), (1, 2, 3)) == (F(1, 3),) * 3
    with pytest.raises(UndefinedError, match=r"mu_ratio\[1\] = 0"):
        exact.weights((1, 1), (1, 0))
    with pytest.raises(UndefinedError, match="mean loss of task 1"):
        exact.history([(1, 0), (1, 1)])
    with pytest.raises(UndefinedError, match=r"mu_L\[0\] = 0"):
        exact.step(3, (0, 1), (1, 1), (1, 1), (1, 1))


# INVARIANTS


@limits(max_examples=25)
@given(runs(), settings_of)
def test_weights_sum_to_one(losses, settings):
    for out in follow(CoVWeighting(**settings), losses):
        assert np.all(out.weights >= 0)
        assert math.isclose(float(np.sum(out.weights)), 1.0, rel_tol=1e-14)
        np.testing.assert_array_equal(out.head_weights, out.weights)


@limits(max_examples=25)
@given(runs(), st.lists(st.integers(-200, 200), min_size=5, max_size=5), settings_of)
def test_task_scale(losses, exponents, settings):
    """A factor on a task's losses changes nothing; a power of two changes no bit of the ratios."""
    if settings["observed"] == "loss":
        exponents = [e // 2 for e in exponents]
    factors = 2.0 ** np.array(exponents[: len(losses[0])])
    one, other = used(CoVWeighting(**settings), losses), used(CoVWeighting(**settings), losses * factors)
    np.testing.assert_allclose(one, other, rtol=1e-15)


@limits(max_examples=25)
@given(runs(least_tasks=2), settings_of)
def test_permutation(losses, settings):
    one, other = used(CoVWeighting(**settings), losses), used(CoVWeighting(**settings), np.array(losses)[:, ::-1])
    np.testing.assert_allclose(one[:, ::-1], other, rtol=1e-14)


@limits(max_examples=25)
@given(st.lists(losses_of_a_task, min_size=1, max_size=8), st.lists(losses_of_a_task, min_size=1, max_size=5))
def test_proportional_losses_give_equal_weights(sequence, factors):
    factors = 2.0 ** np.round(np.log2(factors))
    weights = used(CoVWeighting(), np.outer(sequence, factors))
    np.testing.assert_allclose(weights, np.full(weights.shape, 1 / len(factors)), rtol=1e-14)


@limits(max_examples=25)
@given(st.lists(losses_of_a_task, min_size=2, max_size=8), losses_of_a_task, decays)
def test_a_constant_loss_gets_no_weight(sequence, constant, decay):
    """Its ratio is 1 and its variance 0, to the last bit."""
    losses = [[x, constant] for x in sequence]
    for out in follow(CoVWeighting(decay=decay), losses):
        assert out.terms["M"][1] == 0
        if out.terms["M"][0] > 0:
            np.testing.assert_array_equal(out.weights, [1, 0])


@limits(max_examples=25)
@given(st.lists(losses_of_a_task, min_size=1, max_size=5), st.integers(1, 9), decays)
def test_constant_losses_give_equal_weights(row, steps, decay):
    """0/0 by the equations: COV-C2."""
    K = len(row)
    np.testing.assert_array_equal(used(CoVWeighting(decay=decay), [row] * steps), np.full((steps, K), 1 / K))


@limits(max_examples=25)
@given(runs(least_tasks=2, least_steps=2))
def test_the_second_step_in_closed_form(losses):
    """α_i ∝ |ℓ_i − 1| / (1 + ℓ_i) with ℓ_i = L_i(2)/L_i(1)."""
    ratio = np.array(losses[1]) / losses[0]
    c = np.abs(ratio - 1) / (1 + ratio)
    if np.sum(c) > 0:
        np.testing.assert_allclose(used(CoVWeighting(), losses)[1], c / np.sum(c), rtol=1e-13, atol=1e-15)


@limits(max_examples=25)
@given(runs(), settings_of)
def test_the_coefficient_is_bounded(losses, settings):
    """Values of at least 0: c ≤ √(1/a_t − 1) without a decay, that is √(t − 1)."""
    for t, out in enumerate(follow(CoVWeighting(observed=settings["observed"]), losses), start=1):
        assert np.all(out.terms["c"] <= math.sqrt(t - 1) * (1 + 1e-14))


@limits(max_examples=25)
@given(st.lists(losses_of_a_task, min_size=1, max_size=8), settings_of, st.sampled_from(["current", "previous"]))
def test_one_task(sequence, settings, statistics):
    method = CoVWeighting(statistics=statistics, **settings)
    np.testing.assert_array_equal(used(method, [[x] for x in sequence]), np.ones((len(sequence), 1)))


@limits(max_examples=25)
@given(runs(), settings_of)
def test_previous_is_current_one_step_late(losses, settings):
    now = used(CoVWeighting(**settings), losses)
    late = used(CoVWeighting(statistics="previous", **settings), losses)
    np.testing.assert_array_equal(late[1:], now[:-1])
    np.testing.assert_array_equal(late[0], np.full(len(losses[0]), 1 / len(losses[0])))


@limits(max_examples=25)
@given(runs(least_steps=2))
def test_the_sample_variance_gives_the_same_weights(losses):
    """t/(t − 1) is common to all tasks."""
    for t, out in enumerate(follow(CoVWeighting(), losses)[1:], start=2):
        c = coefficient_of_variation(out.terms["M"] * t / (t - 1), out.terms["mu_ratio"])
        if np.sum(c) > 0:
            np.testing.assert_allclose(out.weights, c / np.sum(c), rtol=1e-13)


@limits(max_examples=25)
@given(runs(), st.floats(0.05, 0.999))
def test_decay_is_the_weighted_moment(losses, decay):
    """Mean and variance with weights β^(t−k), in float64 from the definition."""
    steps = follow(CoVWeighting(decay=decay), losses)
    ratios = np.array([out.terms["ratio"] for out in steps])
    share = decay ** np.arange(len(losses) - 1, -1, -1)
    share = share / np.sum(share)
    mean = share @ ratios
    np.testing.assert_allclose(steps[-1].terms["mu_ratio"], mean, rtol=1e-12)
    np.testing.assert_allclose(steps[-1].terms["M"], share @ (ratios - mean) ** 2, rtol=1e-9, atol=1e-13)
    assert math.isclose(share[-1], gain(len(losses), decay), rel_tol=1e-12)


def test_a_decay_towards_one_is_no_decay():
    for t in (1, 2, 10, 1000):
        assert math.isclose(gain(t, 1 - 1e-12), 1 / t, rel_tol=1e-9)
    np.testing.assert_allclose(used(CoVWeighting(decay=1 - 1e-13), HAND), used(CoVWeighting(), HAND), rtol=1e-11)


def test_a_factor_that_varies_in_time_matters():
    """Not an invariant: the same factor on all tasks at a step."""
    factors = np.array([1.0, 2.0, 0.5, 3.0, 1.0])[:, None]
    assert np.max(np.abs(used(CoVWeighting(), HAND) - used(CoVWeighting(), HAND * factors))[1:]) > 0.05


# EDGES


def test_a_loss_of_zero_counts_and_a_mean_of_zero_is_refused_at_the_next_step():
    method = CoVWeighting()
    out = method.step(method.init(2), [1.0, 0.0])
    with pytest.raises(DomainError, match=r"COV-2 divides by loss_means\[1\] = 0"):
        method.step(out.state, [1.0, 1.0])
    steps = follow(method, [[1.0, 1.0], [0.0, 1.0], [1.0, 1.0]])
    np.testing.assert_array_equal(steps[1].weights, [1, 0])


def test_a_baseline_of_ones_own_is_put_into_the_state():
    """COV-C1: with μ_L(0) = (4, 1) the first ratios are 1/2 and 3, and the means forget it at once."""
    method = CoVWeighting()
    state = CoVState(0, np.array([4.0, 1.0]), np.zeros(2), np.zeros(2), np.full(2, 0.5))
    out = method.step(state, [2.0, 3.0])
    np.testing.assert_array_equal(out.terms["ratio"], [0.5, 3.0])
    np.testing.assert_array_equal(out.terms["mu_L"], [2.0, 3.0])
    np.testing.assert_array_equal(out.terms["M"], [0.0, 0.0])
    np.testing.assert_array_equal(out.weights, [0.5, 0.5])


def test_the_mixture_loses_nothing_at_its_ends():
    mean, value = np.array([1e20, 0.1, 1e-300]), np.array([1.0, 0.1, 1e300])
    np.testing.assert_array_equal(mixture(mean, value, 1.0), value)
    for a in (1 / 3, 0.5, 0.7):
        assert mixture(mean, value, a)[1] == 0.1


def test_squares_out_of_range_are_named_errors():
    with pytest.raises(NonFiniteError, match="COV-5"):
        ratio_variance(np.zeros(1), np.array([1e200]), np.zeros(1), 0.5)
    with pytest.raises(DomainError, match="COV-5 loses the square"):
        ratio_variance(np.zeros(1), np.array([1e-170]), np.zeros(1), 0.5)


def state_of(**changes):
    """Return the state after two steps of two tasks, with changes."""
    fields = {
        "step": 2,
        "loss_means": np.array([1.0, 2.0]),
        "ratio_means": np.ones(2),
        "M": np.array([0.5, 0.25]),
        "weights": np.array([0.5, 0.5]),
    }
    return CoVState(**{**fields, **changes})


BAD = [
    (state_of(), [1.0], ShapeError, "losses", None, 1, "COV-2"),
    (state_of(), [[1.0, 2.0]], ShapeError, "losses", None, (1, 2), "COV-2"),
    (state_of(), [1.0, -2.0], DomainError, "losses", 1, -2.0, "COV-2"),
    (state_of(), [1.0, math.inf], DomainError, "losses", 1, math.inf, "COV-2"),
    (state_of(loss_means=np.array([1.0, 0.0])), [1.0, 2.0], DomainError, "loss_means", 1, 0.0, "COV-2"),
    (state_of(loss_means=np.ones(3)), [1.0, 2.0], ShapeError, "state.loss_means", None, 3, "COV-2"),
    (state_of(ratio_means=np.ones(3)), [1.0, 2.0], ShapeError, "state.ratio_means", None, 3, "COV-4"),
    (state_of(M=np.array([-0.1, 1.0])), [1.0, 2.0], DomainError, "state.M", 0, -0.1, "COV-5"),
    (state_of(M=np.array([0.1, math.nan])), [1.0, 2.0], DomainError, "state.M", 1, math.nan, "COV-5"),
    (state_of(ratio_means=np.array([1.0, -2.0])), [1.0, 2.0], DomainError, "ratio_means", 1, -1.0, "COV-6"),
    (state_of(loss_means=np.array([5e-324, 1.0])), [1e300, 1.0], NonFiniteError, "losses", 0, math.inf, "COV-2"),
    (state_of(step=-1), [1.0, 2.0], DomainError, "state.step", None, -1, None),
    (state_of().loss_means, [1.0, 2.0], DomainError, "state", None, "ndarray", None),
]


@pytest.mark.parametrize(("state", "losses", "error", "argument", "task", "value", "tag"), BAD)
def test_bad_inputs_are_named(state, losses, error, argument, task, value, tag):
    with pytest.raises(error) as caught:
        CoVWeighting().step(state, losses)
    got = caught.value
    assert (got.argument, got.task, got.equation) == (argument, task, tag)
    assert got.value == value or (value != value and got.value != got.value)


@pytest.mark.parametrize(
    ("settings", "argument", "tag"),
    [
        ({"statistics": "late"}, "statistics", "COV-8"),
        ({"observed": "losses"}, "observed", "COV-2"),
        ({"decay": 0.0}, "decay", "COV-1"),
        ({"decay": 1.0}, "decay", "COV-1"),
        ({"decay": math.nan}, "decay", "COV-1"),
    ],
)
def test_bad_settings_are_named(settings, argument, tag):
    with pytest.raises(DomainError) as caught:
        CoVWeighting(**settings)
    assert (caught.value.argument, caught.value.equation) == (argument, tag)


def test_the_jacobian_is_checked_and_not_read():
    method = CoVWeighting()
    with pytest.raises(MtlrefError, match="jacobian"):
        method.step(method.init(2), [1.0, 2.0], [[1.0, 2.0]])
    assert method.step(method.init(1), [1.0], [[7.0]]).weights == 1


# STATE AND PURITY


@limits(max_examples=25)
@given(runs(), settings_of)
def test_a_state_survives_json(losses, settings):
    method = CoVWeighting(**settings)
    for out in follow(method, losses):
        again = from_json(to_json(out.state))
        assert again == out.state
        np.testing.assert_array_equal(
            method.step(again, losses[0]).weights, method.step(out.state, losses[0]).weights
        )
    assert from_json(to_json(method.init(3))) == method.init(3)


def test_nothing_is_written_to():
    state, losses = state_of(), np.array([1.5, 2.5])
    for array in (losses, state.loss_means, state.ratio_means, state.M, state.weights):
        array.setflags(write=False)
    one, other = CoVWeighting().step(state, losses), CoVWeighting().step(state, losses)
    assert one.state == other.state
    assert one.weights.tobytes() == other.weights.tobytes()


def test_resumed_takes_the_weights_and_keeps_the_statistics():
    method = CoVWeighting(statistics="previous")
    state = method.resumed(state_of(), np.array([0.25, 0.75]))
    np.testing.assert_array_equal(method.step(state, [1.0, 2.0]).weights, [0.25, 0.75])
    assert state.step == 2
