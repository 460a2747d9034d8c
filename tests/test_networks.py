"""Networks and losses: closed forms, complex steps, initialisation, and the errors."""

import numpy as np
import pytest

from mtlref import autograd as ad
from mtlref import networks as nn
from mtlref.autograd import constant, jacobian, parameter, value_and_jacobian
from mtlref.networks import Parameters, SharedTrunk, last_shared_layer
from mtlref.notation import DomainError, ShapeError

RNG = np.random.default_rng
H = 1e-30
NETWORK = SharedTrunk(n_inputs=5, trunk=(7, 4), heads=(3, (6, 2), 1), activation="tanh")
X = RNG(0).normal(size=(8, 5))


def losses(flat, network=NETWORK, x=X):
    rng = RNG(1)
    a, b, c = network.forward(network.init(RNG(2)).rebuilt(flat), x)
    return (
        nn.cross_entropy(a, rng.integers(0, 3, 8)),
        nn.gaussian_nll(b, rng.normal(size=(8, 2)), rng.normal(size=2)),
        nn.binary_cross_entropy(c, rng.integers(0, 2, (8, 1))) + nn.mse(c, rng.normal(size=(8, 1))),
    )


# NETWORKS


def test_nn_4_nn_5_forward_by_hand():
    p = NETWORK.init(RNG(2))
    (W1, b1, W2, b2), (A, a), (B1, c1, B2, c2), (C, c) = p.shared, *p.heads
    h = np.tanh(np.tanh(X @ W1 + b1) @ W2 + b2)
    expected = h @ A + a, np.tanh(h @ B1 + c1) @ B2 + c2, h @ C + c
    for got, wanted in zip(NETWORK.forward(p, X), expected, strict=True):
        np.testing.assert_allclose(got.value, wanted, rtol=1e-13)


ALIKE = SharedTrunk(n_inputs=5, trunk=(7, 4), heads=((6, 2),) * 3)
TARGETS = RNG(7).uniform(size=(3, 8, 2))
LABELS = RNG(8).integers(0, 2, (3, 8))


@pytest.mark.parametrize(
    "loss, y",
    [
        (nn.mse, TARGETS),
        (nn.absolute_error, TARGETS),
        (nn.cross_entropy, LABELS),
        (nn.binary_cross_entropy, TARGETS),
        (lambda z, y, **each: nn.gaussian_nll(z, y, np.array([0.3, -0.2]), **each), TARGETS),
    ],
)
def test_heads_of_one_shape_in_one_go(loss, y):
    """NN-5 to NN-10 of K tasks at once are those of each, and so are their gradients."""
    p = ALIKE.init(RNG(2))
    values, J = value_and_jacobian(lambda flat: loss(ALIKE.stacked(p.rebuilt(flat), X), y, each=True), p.flat)
    expected, by_head = value_and_jacobian(
        lambda flat: [loss(z, y_k) for z, y_k in zip(ALIKE.forward(p.rebuilt(flat), X), y, strict=True)], p.flat
    )
    np.testing.assert_allclose(values, expected, rtol=1e-13)
    np.testing.assert_allclose(J.matrix, by_head.matrix, rtol=1e-12, atol=1e-15)


def test_the_relu_network_is_linear_where_no_unit_switches():
    network = SharedTrunk(2, (3,), (1,), activation="relu")
    p = Parameters((np.ones((2, 3)), np.array([0.0, 9.0, -9.0])), ((np.ones((3, 1)), np.zeros(1)),))
    (y,) = network.forward(p, [[1.0, 2.0], [-1.0, -3.0]])
    np.testing.assert_array_equal(y.value, [[3 + 12], [5]])


def test_the_whole_jacobian_by_complex_step():
    flat = NETWORK.init(RNG(2)).flat
    values, J = value_and_jacobian(losses, flat)
    u = [RNG(3 + i).normal(size=x.shape) for i, x in enumerate(flat)]
    moved = losses([constant(x + 1j * H * d) for x, d in zip(flat, u, strict=True)])
    np.testing.assert_allclose(J.matrix @ np.concatenate([d.ravel() for d in u]), [z.value.imag / H for z in moved])
    np.testing.assert_allclose(values, [z.value.real for z in moved])


def test_heads_only_learn_from_their_own_task():
    p = NETWORK.init(RNG(2))
    blocks = iter(value_and_jacobian(losses, p.flat)[1].blocks[len(p.shared) :])
    for task, head in enumerate(p.heads):
        for _ in head:
            block = next(blocks)
            assert block[task].any() and not np.delete(block, task, axis=0).any()


def test_flat_and_rebuilt_are_inverse():
    p = NETWORK.init(RNG(2))
    assert [x.shape for x in p.flat[:4]] == [(5, 7), (7,), (7, 4), (4,)] and len(p.flat) == 4 + 2 + 4 + 2
    back = p.rebuilt(p.flat)
    assert back.shared == p.shared and back.heads == p.heads
    with pytest.raises(ShapeError, match="flat must hold 12 values; it holds 11"):
        p.rebuilt(p.flat[1:])


def test_the_last_shared_layer_is_its_weights_and_bias():
    p = NETWORK.init(RNG(2))
    W, b = p.shared[last_shared_layer(p.shared)]
    assert W is p.shared[2] and b is p.shared[3]


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_nn_2_nn_3_initialisation(activation):
    """The moments of He's normal and Glorot's uniform law, zero biases, and nothing but the generator."""
    network = SharedTrunk(300, (200,), ((100, 50),), activation)
    p = network.init(RNG(5))
    (W, b), (V, c, U, d) = p.shared, p.heads[0]
    assert not b.any() and not c.any() and not d.any()
    for array, n, m in ((W, 300, 200), (V, 200, 100), (U, 100, 50)):
        he = activation == "relu" and array is not U
        np.testing.assert_allclose(array.var(), 2 / n if he else 2 / (n + m), rtol=0.05)
        assert abs(array.mean()) < 5 * array.std() / np.sqrt(n * m)
        assert (np.abs(array).max() <= np.sqrt(6 / (n + m))) == (not he)
    for once, again in zip(p.flat, network.init(RNG(5)).flat, strict=True):
        np.testing.assert_array_equal(once, again)


# LOSSES


def test_the_worked_example_of_the_derivation():
    z = parameter([[0.0, np.log(3.0)]])
    loss = nn.cross_entropy(z, [0])
    np.testing.assert_allclose(loss.value, np.log(4), rtol=1e-15)
    np.testing.assert_allclose(jacobian([loss], [z]).blocks[0][0], [[-0.75, 0.75]], rtol=1e-15)


def test_losses_are_means_over_examples_and_outputs():
    p, y = RNG(0).normal(size=(5, 3)), RNG(1).normal(size=(5, 3))
    t = RNG(2).uniform(size=(5, 3))
    s = 1 / (1 + np.exp(-p))
    labels = np.array([0, 2, 1, 2, 0])
    v = np.array([0.5, 2.0, 1.0])
    softmax = np.exp(p) / np.exp(p).sum(axis=1, keepdims=True)
    for got, expected in (
        (nn.mse(p, y), np.sum((p - y) ** 2) / 15),
        (nn.absolute_error(p, y), np.sum(np.abs(p - y)) / 15),
        (nn.cross_entropy(p, labels), -np.log(softmax[np.arange(5), labels]).sum() / 5),
        (nn.binary_cross_entropy(p, t), -np.sum(t * np.log(s) + (1 - t) * np.log(1 - s)) / 15),
        (nn.gaussian_nll(p, y, np.log(v)), 0.5 * np.sum(np.log(v) + (p - y) ** 2 / v) / 15),
        (nn.gaussian_nll(p, y, 0.0), np.sum((p - y) ** 2) / 30),
    ):
        assert got.shape == ()
        np.testing.assert_allclose(got.value, expected, rtol=1e-13)


def test_a_duplicated_batch_changes_no_loss():
    twice = np.concatenate([X, X])
    for network_output in (nn.mse, nn.absolute_error):
        once = network_output(X, X + RNG(4).normal(size=X.shape))
        again = network_output(twice, np.concatenate([X, X]) + np.tile(RNG(4).normal(size=X.shape), (2, 1)))
        np.testing.assert_allclose(again.value, once.value, rtol=1e-13)


def test_nn_10_the_variance_learns_the_mean_square():
    """∂L/∂s = 0 exactly where σ² is the mean squared error."""
    p, y = RNG(0).normal(size=(6, 1)), RNG(1).normal(size=(6, 1))
    s = parameter(np.log(np.mean((p - y) ** 2)))
    np.testing.assert_allclose(jacobian([nn.gaussian_nll(p, y, s)], [s]).matrix, [[0]], atol=1e-15)


def test_logits_far_out_stay_exact():
    z = parameter([[1000.0], [-1000.0], [40.0]])
    loss = nn.binary_cross_entropy(z, [[1.0], [0.0], [1.0]])
    np.testing.assert_allclose(loss.value, np.exp(-40) / 3, rtol=1e-12)
    np.testing.assert_allclose(jacobian([loss], [z]).matrix, [[0, 0, -np.exp(-40) / 3]], rtol=1e-12, atol=0)
    far = parameter([[1000.0, 0.0]])
    assert nn.cross_entropy(far, [1]).value == 1000 and nn.cross_entropy(far, [0]).value == 0


# ERRORS


@pytest.mark.parametrize(
    "call, error, argument",
    [
        (lambda: nn.mse(np.zeros((3, 1)), np.zeros(3)), ShapeError, "target"),
        (lambda: nn.mse(np.zeros(3), [0, 0, np.nan]), DomainError, "target"),
        (lambda: nn.absolute_error(np.zeros(3), np.zeros((3, 1))), ShapeError, "target"),
        (lambda: nn.cross_entropy(np.zeros((2, 3)), [0, 3]), DomainError, "labels"),
        (lambda: nn.cross_entropy(np.zeros((2, 3)), [0, -1]), DomainError, "labels[1]"),
        (lambda: nn.cross_entropy(np.zeros((2, 3)), [0.0, 1.0]), DomainError, "labels[0]"),
        (lambda: nn.cross_entropy(np.zeros((2, 3)), [[0], [1]]), ShapeError, "labels"),
        (lambda: nn.cross_entropy(np.zeros(3), [0]), ShapeError, "labels"),
        (lambda: nn.binary_cross_entropy([0.0], [1.5]), DomainError, "targets"),
        (lambda: nn.binary_cross_entropy([0.0], [[1.0]]), ShapeError, "targets"),
        (lambda: nn.gaussian_nll([0.0], [1.0], np.zeros((2, 1))), ShapeError, "log_variance"),
        (lambda: nn.gaussian_nll([0.0], 1.0, 0.0), ShapeError, "target"),
        (lambda: nn.cross_entropy(np.zeros((2, 1, 3)), [[0], [-1]], each=True), DomainError, "labels[1, 0]"),
        (lambda: nn.cross_entropy(np.zeros((2, 3)), [0, 1], each=True), ShapeError, "labels"),
        (lambda: NETWORK.stacked(NETWORK.init(RNG(0)), X), ShapeError, "heads"),
        (lambda: ALIKE.stacked(ALIKE.init(RNG(0)), X[0]), ShapeError, "x"),
        (lambda: nn.mlp((), X, "tanh"), ShapeError, "layers"),
        (lambda: nn.mlp((np.eye(5), np.zeros(5)), X, "gelu"), DomainError, "activation"),
        (lambda: SharedTrunk(0, (1,), (1,)), DomainError, "n_inputs"),
        (lambda: SharedTrunk(1, (), (1,)), DomainError, "the number of trunk layers"),
        (lambda: SharedTrunk(1, (1,), ()), DomainError, "the number of heads"),
        (lambda: SharedTrunk(1, (0,), (1,)), DomainError, "a width of trunk"),
        (lambda: SharedTrunk(1, (1,), (1, ())), DomainError, "the number of layers of heads"),
        (lambda: SharedTrunk(1, (1,), (1,), "gelu"), DomainError, "activation"),
        (lambda: NETWORK.forward(NETWORK.init(RNG(0)), X[:, 1:]), ShapeError, "x"),
        (lambda: NETWORK.forward(NETWORK.init(RNG(0)), X[0]), ShapeError, "x"),
    ],
)
def test_what_does_not_fit_is_a_named_error(call, error, argument):
    with pytest.raises(error) as raised:
        call()
    assert raised.value.argument == argument


def test_a_mixture_of_experts_has_its_rules():
    """Stacked experts, softmax gates: the primitives carry what a mixture needs."""
    experts, gate = parameter(RNG(0).normal(size=(3, 5, 2))), parameter(RNG(1).normal(size=(5, 3)))

    def mixture(E, g):
        return (ad.softmax(X @ g).T.reshape((3, 8, 1)) * ad.tanh(X @ E)).sum(axis=0)

    loss = mixture(experts, gate).mean()
    u, v = RNG(2).normal(size=(3, 5, 2)), RNG(3).normal(size=(5, 3))
    moved = mixture(constant(experts.value + 1j * H * u), constant(gate.value + 1j * H * v)).mean()
    J = jacobian([loss], [experts, gate])
    np.testing.assert_allclose(J.matrix @ np.concatenate([u.ravel(), v.ravel()]), [moved.value.imag / H])
