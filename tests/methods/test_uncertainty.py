"""Uncertainty Weighting against 50-digit arithmetic, its invariants, and what it refuses."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st

from mtlref.defects.defect import variant
from mtlref.defects.uncertainty import DEFECTS
from mtlref.exact import uncertainty as exact
from mtlref.methods.uncertainty import (
    LIKELIHOODS,
    UncertaintyState,
    UncertaintyWeighting,
    effective_weights,
    objective_slope,
    total_objective,
)
from mtlref.notation import DomainError, NonFiniteError, ShapeError
from mtlref.optimisers import SGD, Adam
from mtlref.state import from_json, to_json

BESIDE = ("HeadsUnweighted", "HeadsMean", "NextWeightsAtOnce", "StartAtOne", "StartBelowZero")
"""What changes the heads, the start or the timing alone: tests/test_defects.py shows it."""

names = st.sampled_from(sorted(LIKELIHOODS))


@st.composite
def problems(draw, least=1):
    """Draw the settings, log-variances and losses of one step."""
    K = draw(st.integers(least, 5))

    def column(values):
        return draw(st.lists(values, min_size=K, max_size=K))

    method = UncertaintyWeighting(
        tuple(column(names)), lr=draw(st.sampled_from([0.01, 0.5])), dimensions=tuple(column(st.integers(1, 9)))
    )
    return method, np.array(column(st.floats(-8, 8))), np.array(column(st.floats(0, 50)))


def floats(values):
    """Round exact numbers once, to float64."""
    return np.array([float(value) for value in values])


def compare(method, s, L):
    """Hold a step from the log-variances `s` against the exact one."""
    K = len(s)
    kinds = (method.likelihoods,) * K if isinstance(method.likelihoods, str) else method.likelihoods
    settings = {"likelihoods": kinds, "dimensions": method.dimensions, "lr": method.lr}
    expected = exact.step(s.tolist(), np.asarray(L).tolist(), **settings)
    out = method.step(method.at(s), L)
    size = floats(expected["w"]) * L + 10 * (1 + np.abs(s))
    np.testing.assert_allclose(out.weights, floats(expected["w"]), rtol=1e-14)
    assert np.all(np.abs(out.terms["ds"] - floats(expected["ds"])) <= 1e-15 * 4 * size)
    assert np.all(np.abs(out.terms["s_next"] - floats(expected["s_next"])) <= 1e-15 * 4 * size)
    assert abs(out.terms["objective"] - float(expected["objective"])) <= 1e-15 * 4 * K * np.sum(size)
    return out


# AGREEMENT


@limits(max_examples=60)
@given(problems())
def test_agrees_with_the_exact_step_from_any_state(problem):
    method, s, L = problem
    out = compare(method, s, L)
    np.testing.assert_array_equal(out.head_weights, out.weights)
    np.testing.assert_array_equal(out.state.weights, method.at(out.state.log_variances).weights)


@pytest.mark.parametrize("K", [1, 40])
def test_agrees_for_one_task_and_for_forty(K):
    rng = np.random.default_rng(4)
    for likelihood in LIKELIHOODS:
        method, s = UncertaintyWeighting(likelihood, lr=0.1), rng.normal(0, 3, K)
        for _ in range(5):
            s = compare(method, s, rng.lognormal(0, 2, K)).terms["s_next"]


# INVARIANTS


def minimiser(method, K, L):
    """Return the log-variances at which UW-3 vanishes, by bisection of each task's slope."""
    low, high = np.full(K, -60.0), np.full(K, 60.0)
    for _ in range(75):
        middle = (low + high) / 2
        slope = method.objective_gradient(L, method.at(middle))
        low, high = np.where(slope < 0, middle, low), np.where(slope < 0, high, middle)
    return (low + high) / 2


@limits(max_examples=20)
@given(st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=4), st.integers(1, 5))
def test_the_minimum_in_closed_form(losses, D):
    """e^s = L/D gaussian, 2L/D softmax, (L/D)² laplace; the weight there is D/2L, D/2L, D/L."""
    L, K = np.array(losses), len(losses)
    for name, best, weight in (
        ("gaussian", np.log(L / D), D / (2 * L)),
        ("softmax", np.log(2 * L / D), D / (2 * L)),
        ("laplace", 2 * np.log(L / D), D / L),
    ):
        method = UncertaintyWeighting(name, dimensions=D)
        np.testing.assert_allclose(minimiser(method, K, L), best, atol=1e-12)
        np.testing.assert_allclose(method.at(best).weights, weight, rtol=1e-12)


@limits(max_examples=40)
@given(st.floats(1e-3, 1e3), names)
def test_the_minimal_value(loss, name):
    """½ + ½ log L gaussian, ½ + ½ log 2L softmax, 1 + log L laplace."""
    method = UncertaintyWeighting(name)
    value = method.objective([loss], method.at(minimiser(method, 1, [loss])))
    expected = {
        "gaussian": (1 + math.log(loss)) / 2,
        "softmax": (1 + math.log(2 * loss)) / 2,
        "laplace": 1 + math.log(loss),
    }
    assert math.isclose(value, expected[name], rel_tol=1e-12, abs_tol=1e-12)


@limits(max_examples=40)
@given(problems(), st.lists(st.integers(-20, 20), min_size=5, max_size=5))
def test_scale_equivariance(problem, exponents):
    """L → cL with s → s + (log c)/b: the data term and the slope stay, the objective gains (D/2b) log c."""
    method, s, L = problem
    c = 2.0 ** np.array(exponents[: len(s)])
    b = np.array([LIKELIHOODS[name][1] for name in method.likelihoods])
    moved = method.at(s + np.log(c) / b)
    size = method.at(s).weights * L + 20
    difference = method.objective_gradient(c * L, moved) - method.objective_gradient(L, method.at(s))
    assert np.all(np.abs(difference) <= 1e-13 * size)
    gained = float(np.sum(np.array(method.dimensions) / (2 * b) * np.log(c)))
    change = method.objective(c * L, moved) - method.objective(L, method.at(s))
    assert abs(change - gained) <= 1e-12 * np.sum(size)


@limits(max_examples=40)
@given(problems())
def test_the_slope_is_the_objective_s(problem):
    """UW-3 by the complex step of UW-2 through UW-1: no difference, no cancellation."""
    method, s, L = problem
    a, b = np.array([LIKELIHOODS[name] for name in method.likelihoods]).T
    D, h = np.array(method.dimensions), 1e-30
    slope = np.imag(a * np.exp(-b * (s + 1j * h)) * L + D / 2 * (s + 1j * h)) / h
    np.testing.assert_allclose(method.objective_gradient(L, method.at(s)), slope, rtol=1e-12, atol=1e-12)


@limits(max_examples=40)
@given(problems(), st.floats(0, 1))
def test_convex_in_the_log_variances(problem, share):
    method, s, L = problem
    other = s[::-1] * 0.5 + 1

    def at(point):
        return method.objective(L, method.at(point))

    chord = share * at(s) + (1 - share) * at(other)
    assert at(share * s + (1 - share) * other) <= chord + 1e-12 * (abs(chord) + np.sum(np.exp(8) * L) + 100)


def test_not_convex_in_the_deviation():
    """L/(2σ²) + log σ: its second derivative 3L/σ⁴ − 1/σ² is negative from σ² = 3L on."""
    method = UncertaintyWeighting()

    def value(sigma):
        return method.objective([1.0], method.at([2 * math.log(sigma)]))

    assert value(3.0) > (value(2.0) + value(4.0)) / 2


@limits(max_examples=40)
@given(problems(least=2))
def test_permutation_and_separability(problem):
    method, s, L = problem
    other = UncertaintyWeighting(method.likelihoods[::-1], lr=method.lr, dimensions=method.dimensions[::-1])
    one, two = method.step(method.at(s), L), other.step(other.at(s[::-1]), L[::-1])
    np.testing.assert_array_equal(one.weights[::-1], two.weights)
    np.testing.assert_array_equal(one.terms["s_next"][::-1], two.terms["s_next"])
    alone = [
        UncertaintyWeighting(name, dimensions=D).objective([x], UncertaintyWeighting(name).at([y]))
        for name, D, x, y in zip(method.likelihoods, method.dimensions, L, s, strict=True)
    ]
    assert math.isclose(sum(alone), one.terms["objective"], rel_tol=1e-12, abs_tol=1e-9)


@pytest.mark.parametrize("start", [-3.0, 3.0])
def test_descent_is_monotone_to_the_minimum(start):
    method = UncertaintyWeighting("gaussian", lr=0.03)
    state, L, seen = method.at([start]), [2.0], []
    for _ in range(2000):
        seen.append(float(state.log_variances[0]))
        state = method.step(state, L).state
    assert math.isclose(seen[-1], math.log(2), abs_tol=1e-9)
    assert np.all(np.diff(seen) * np.sign(math.log(2) - start) >= -1e-12)


def test_converged_weights_follow_the_gradient_of_the_log_losses():
    """w_i ∇L_i = (D_i/2b_i) ∇ log L_i: the same for a gaussian and a softmax, twice it for a laplace."""
    method, L = UncertaintyWeighting(("gaussian", "softmax", "laplace")), np.array([0.1, 3.0, 40.0])
    w = method.at(minimiser(method, 3, L)).weights
    np.testing.assert_allclose(w * L, [0.5, 0.5, 1.0], rtol=1e-12)


def test_what_public_code_starts_with():
    """½ e^0.5 with s = −0.5, ½ with s = 0; the twice as large form is the gaussian with twice the weight."""
    method = UncertaintyWeighting()
    np.testing.assert_allclose(method.at([-0.5]).weights, 0.8243606353500641, rtol=1e-15)
    np.testing.assert_array_equal(method.init(3).weights, np.full(3, 0.5))
    np.testing.assert_array_equal(UncertaintyWeighting("softmax").init(1).weights, [1.0])


# DEFECTS


@pytest.mark.parametrize("defect", [d for d in DEFECTS if d.name not in BESIDE], ids=lambda defect: defect.name)
def test_every_defect_gives_other_weights(defect):
    method = UncertaintyWeighting(("gaussian", "softmax", "laplace"), lr=0.1, dimensions=(1, 1, 4))
    wrong, L = variant(method, defect), [0.3, 0.2, 9.0]
    away = [0.4, -0.3, 0.2]
    first, second = method.step(method.at(away), L), wrong.step(wrong.at(away), L)
    differ = (t for name, t in method.tags.items() if not np.array_equal(first.terms[name], second.terms[name]))
    assert next(differ, "UW-4") == defect.equation
    one, other = method.init(3), wrong.init(3)
    for _ in range(5):
        one, other = method.step(one, L).state, wrong.step(other, L).state
    assert np.max(np.abs(one.weights - other.weights)) > 1e-2


def test_the_defects_slopes_are_those_of_their_objectives():
    s, L, D, h = np.array([0.3, -0.4]), np.array([2.0, 0.7]), np.array([1.0, 3.0]), 1e-6
    a, b = np.array([LIKELIHOODS["gaussian"]] * 2).T
    for defect in DEFECTS:
        weigh = defect.replaces.get("effective_weights", effective_weights)
        total = defect.replaces.get("total_objective", total_objective)
        slope = defect.replaces.get("objective_slope", objective_slope)
        if defect.name in ("Ascent", "SquaredPrecision", "Accumulated"):  # slopes of no objective
            continue

        def value(at, weigh=weigh, total=total):
            return total(L, weigh(at, a, b), at, D)

        by_hand = [(value(s + h * e) - value(s - h * e)) / (2 * h) for e in np.eye(2)]
        np.testing.assert_allclose(slope(L, weigh(s, a, b), b, D), by_hand, rtol=1e-7, err_msg=defect.name)


# EDGES


def test_the_objective_is_negative_where_the_noise_is_small():
    method = UncertaintyWeighting()
    assert method.objective([1e-3], method.at([-6.0])) < 0


def test_a_loss_of_zero_lowers_the_variance_without_end():
    method = UncertaintyWeighting(lr=1.0)
    state = method.init(1)
    for _ in range(10):
        state = method.step(state, [0.0]).state
    np.testing.assert_array_equal(state.log_variances, [-5.0])


def test_an_overflowing_weight_is_a_named_error():
    with pytest.raises(NonFiniteError, match="UW-1") as caught:
        UncertaintyWeighting().at([0.0, -710.0])
    assert (caught.value.task, caught.value.argument) == (1, "log_variances")


def test_one_name_and_one_number_hold_for_all_tasks():
    one = UncertaintyWeighting("laplace", dimensions=2, lr=0.1)
    two = UncertaintyWeighting(["laplace"] * 3, dimensions=[2, 2, 2], lr=0.1)
    L = [1.0, 2.0, 3.0]
    assert one.step(one.init(3), L).state == two.step(two.init(3), L).state
    assert two.likelihoods == ("laplace",) * 3


def test_an_optimiser_replaces_the_rate():
    method = UncertaintyWeighting(optimiser=Adam(0.1), lr=5.0)
    out = method.step(method.init(2), [3.0, 0.1])
    np.testing.assert_allclose(out.terms["s_next"], [0.1, -0.1], rtol=1e-6)
    assert UncertaintyWeighting(optimiser=SGD(0.5)).rule == SGD(0.5)


BAD = [
    ("gaussian", [1.0], ShapeError, "losses", None, 1, "UW-2"),
    ("gaussian", [1.0, -0.5], DomainError, "losses", 1, -0.5, "UW-2"),
    ("gaussian", [math.nan, 1.0], DomainError, "losses", 0, math.nan, "UW-2"),
    (("gaussian",), [1.0, 1.0], ShapeError, "likelihoods", None, 1, None),
    ("gaussian", [1.0, 1e309], DomainError, "losses", 1, math.inf, "UW-2"),
]


@pytest.mark.parametrize(("likelihoods", "losses", "error", "argument", "task", "value", "tag"), BAD)
def test_bad_inputs_are_named(likelihoods, losses, error, argument, task, value, tag):
    with pytest.raises(error) as caught:
        UncertaintyWeighting(likelihoods).step(UncertaintyWeighting().init(2), losses)
    got = caught.value
    assert (got.argument, got.task, got.equation) == (argument, task, tag)
    assert got.value == value or (value != value and got.value != got.value)


def test_a_state_of_another_kind_and_an_overflow_of_the_objective_are_named():
    method = UncertaintyWeighting()
    with pytest.raises(DomainError, match="UncertaintyState"):
        method.step(SGD(1.0).init([1.0]), [1.0])
    with pytest.raises(NonFiniteError, match="UW-2"):
        method.step(method.at([-700.0]), [1e300])
    with pytest.raises(ShapeError, match="jacobian"):
        method.step(method.init(2), [1.0, 1.0], [[1.0]])


@pytest.mark.parametrize(
    ("settings", "argument", "task"),
    [
        ({"likelihoods": "poisson"}, "likelihoods", 0),
        ({"likelihoods": ("gaussian", "normal")}, "likelihoods", 1),
        ({"dimensions": 0}, "dimensions", None),
        ({"dimensions": (1, 1.5)}, "dimensions", None),
        ({"lr": 0.0}, "lr", None),
    ],
)
def test_bad_settings_are_named(settings, argument, task):
    with pytest.raises(DomainError) as caught:
        UncertaintyWeighting(**settings)
    assert (caught.value.argument, caught.value.task) == (argument, task)


# STATE AND PURITY


@limits(max_examples=40)
@given(problems())
def test_a_state_survives_json(problem):
    method, s, L = problem
    state = method.step(method.at(s), L).state
    again = from_json(to_json(state))
    assert again == state
    assert method.step(again, L).state == method.step(state, L).state


@limits(max_examples=40)
@given(problems())
def test_resumed_finds_the_log_variances_of_the_weights(problem):
    method, s, _ = problem
    state = method.resumed(method.init(len(s)), method.at(s).weights)
    assert isinstance(state, UncertaintyState)
    np.testing.assert_allclose(state.log_variances, s, rtol=1e-12, atol=1e-12)
    with pytest.raises(DomainError, match="UW-1"):
        method.resumed(state, np.zeros(len(s)))


def test_nothing_is_written_to():
    method, L = UncertaintyWeighting(optimiser=Adam(0.1)), np.array([1.0, 2.0])
    state = method.step(method.init(2), L).state
    for array in (L, state.log_variances, state.weights, state.optimiser.first_moment):
        array.setflags(write=False)
    one, other = method.step(state, L), method.step(state, L)
    assert one.state == other.state
    assert one.weights.tobytes() == other.weights.tobytes()
