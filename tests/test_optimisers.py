"""The optimisers against 50-digit arithmetic, closed forms, and their own promises."""

from decimal import Decimal, localcontext

import numpy as np
import pytest

from mtlref.notation import DomainError, NonFiniteError, ShapeError
from mtlref.optimisers import SGD, Adam, AdamState, Momentum, MomentumState, Optimiser, SGDState
from mtlref.state import State

W = np.array([[1.0, -2.0, 0.5], [3.0, 0.0, 1e-3]])
G = np.random.default_rng(0).normal(size=(7, 2, 3)) * [[[1.0, 1e-6, 1e3]]]
ALL = [SGD(0.025), Momentum(0.1, beta=0.7), Adam(0.025), Adam(0.1, beta1=0.5, beta2=0.75, eps=1e-3)]


def walk(optimiser: Optimiser, w, gradients):
    state = optimiser.init(w)
    for g in gradients:
        w, state = optimiser.step(state, w, g)
    return w, state


def exact_adam(optimiser, w, gradients):
    """Adam on one number, in 50 digits."""
    with localcontext() as context:
        context.prec = 50
        lr, beta1, beta2, eps = map(Decimal, (optimiser.lr, optimiser.beta1, optimiser.beta2, optimiser.eps))
        w, m, v = Decimal(w), Decimal(0), Decimal(0)
        for t, g in enumerate(map(Decimal, gradients), 1):
            m = m * beta1 + g * (1 - beta1)
            v = v * beta2 + g * g * (1 - beta2)
            w -= lr * (m / (1 - beta1**t)) / ((v / (1 - beta2**t)).sqrt() + eps)
        return float(w)


def test_opt_1_sgd():
    w, state = SGD(0.5).step(SGDState(), [1.0, 2.0], [4.0, -2.0])
    np.testing.assert_array_equal(w, [-1, 3])
    assert state == SGDState()


def test_opt_2_opt_3_momentum_is_the_discounted_sum():
    """v_n = Σ_s beta^(n−s) g_s, and w moves by −lr Σ_n v_n."""
    w, state = walk(Momentum(0.1, beta=0.7), W, G)
    velocities = [sum(0.7 ** (n - s) * G[s] for s in range(n + 1)) for n in range(len(G))]
    np.testing.assert_allclose(state.velocity, velocities[-1], rtol=1e-13)
    np.testing.assert_allclose(w, W - 0.1 * sum(velocities), rtol=1e-12)


def test_momentum_without_a_discount_is_sgd():
    np.testing.assert_array_equal(walk(Momentum(0.1, beta=0), W, G)[0], walk(SGD(0.1), W, G)[0])


@pytest.mark.parametrize("optimiser", ALL[2:], ids=str)
def test_opt_4_to_opt_8_adam_in_fifty_digits(optimiser):
    w, state = walk(optimiser, W, G)
    for at in np.ndindex(W.shape):
        expected = exact_adam(optimiser, W[at].item(), [g[at].item() for g in G])
        np.testing.assert_allclose(w[at], expected, rtol=1e-13, atol=1e-15)
    assert state.step == len(G)


def test_the_worked_example_of_the_derivation():
    """OPT-C1: the first step is lr g / (|g| + eps), whatever the size of the gradient."""
    optimiser = Adam(lr=0.1, eps=0.5)
    w, state = optimiser.step(optimiser.init([1.0]), [1.0], [2.0])
    np.testing.assert_allclose(w, 1 - 0.1 * 2 / 2.5, rtol=1e-15)
    np.testing.assert_allclose([state.first_moment, state.second_moment], [[0.2], [0.004]], rtol=1e-13)
    for g in (1e-3, -5.0, 1e6):
        w, _ = Adam(0.1).step(AdamState(0, np.zeros(1), np.zeros(1)), [0.0], [g])
        np.testing.assert_allclose(w, -0.1 * g / (abs(g) + 1e-8), rtol=1e-13)


def test_opt_c2_the_velocity_does_not_know_the_learning_rate():
    state = walk(Momentum(0.1), W, G)[1]
    np.testing.assert_array_equal(walk(Momentum(0.9), W, G)[1].velocity, state.velocity)


@pytest.mark.parametrize("optimiser", ALL, ids=str)
@pytest.mark.parametrize("shape", [(), (4,), (2, 3), (2, 1, 2)])
def test_any_shape_pure_and_repeatable(optimiser, shape):
    rng = np.random.default_rng(1)
    w, g = rng.normal(size=shape), rng.normal(size=shape)
    kept = w.copy(), g.copy()
    state = walk(optimiser, w, [g])[1]
    before = state.to_json()
    first, second = (optimiser.step(state, w, g) for _ in range(2))
    assert np.shape(first[0]) == shape and first[1] == second[1]
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(kept, (w, g))
    assert state.to_json() == before and State.from_json(first[1].to_json()) == first[1]


@pytest.mark.parametrize("optimiser", ALL, ids=str)
def test_a_run_goes_on_from_json(optimiser):
    w, state = walk(optimiser, W, G[:3])
    resumed = State.from_json(state.to_json())
    for g in G[3:]:
        w, resumed = optimiser.step(resumed, w, g)
    np.testing.assert_array_equal(w, walk(optimiser, W, G)[0])


@pytest.mark.parametrize(
    "make, argument",
    [
        (lambda: SGD(0), "lr"),
        (lambda: Momentum(-1), "lr"),
        (lambda: Momentum(1, beta=1), "beta"),
        (lambda: Adam(0.1, beta1=-0.1), "beta1"),
        (lambda: Adam(0.1, beta2=1.0), "beta2"),
        (lambda: Adam(0.1, eps=-1e-8), "eps"),
        (lambda: SGD(float("nan")), "lr"),
    ],
)
def test_hyper_parameters_are_checked(make, argument):
    with pytest.raises(DomainError) as error:
        make()
    assert error.value.argument == argument


def test_shapes_and_states_are_checked():
    with pytest.raises(ShapeError, match=r"g must have the shape of w, \(2,\); its shape is \(1,\)"):
        SGD(1).step(SGDState(), [1.0, 2.0], [1.0])
    with pytest.raises(ShapeError, match="velocity must have the shape of w"):
        Momentum(1).step(MomentumState(np.zeros(1)), [1.0, 2.0], [1.0, 2.0])
    with pytest.raises(DomainError, match="state must be of kind AdamState; it is of kind SGDState"):
        Adam(1).step(SGDState(), [1.0], [1.0])
    with pytest.raises(DomainError, match=r"g\[1\] = inf is not finite"):
        SGD(1).step(SGDState(), [1.0, 2.0], [1.0, np.inf])


def test_overflow_and_zero_over_zero_are_errors():
    with pytest.raises(NonFiniteError, match="OPT-1"):
        SGD(1e300).step(SGDState(), [0.0], [1e300])
    with pytest.raises(NonFiniteError, match="OPT-5"):
        Adam(1).step(Adam(1).init([0.0]), [0.0], [1e200])
    with pytest.raises(NonFiniteError, match="OPT-8"):
        Adam(1, eps=0).step(Adam(1).init([0.0]), [0.0], [0.0])
