"""MMoE: by hand, against the exact oracle and a complex step, what it is next to its neighbours, and the errors."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mtlref
from mtlref import MMoE
from mtlref.autograd import constant, jacobian, parameter, value_and_jacobian
from mtlref.exact import hmoe as exact
from mtlref.mixtures import split, unstacked
from mtlref.networks import Parameters, SharedTrunk, last_shared_layer, mse
from mtlref.notation import DomainError, ShapeError
from mtlref.training import train

RNG = np.random.default_rng
H = 1e-30
SIZES = {"n_inputs": 5, "n_experts": 4, "experts": (6, 3), "towers": (2, (7, 1), (2, 3))}
X = RNG(0).normal(size=(8, 5))


def filled(network, seed=0):
    """Parameters without a zero: normal numbers in the layout of `init`."""
    rng = RNG(seed)
    at = network.init(rng)
    return at.rebuilt([rng.normal(size=array.shape) for array in at.flat])


def reference(network, p, x):
    """The forward pass in plain NumPy, expert by expert; complex parameters are welcome."""
    phi = np.tanh if network.activation == "tanh" else lambda z: z * (z.real > 0)
    shared, heads = list(p.shared), [list(head) for head in p.heads]
    gates = [shared.pop(0)] * len(heads) if network.share_gate else [head.pop(0) for head in heads]
    E = []
    for i in range(network.n_experts):
        h = x
        for W, b in zip(shared[::2], shared[1::2], strict=True):
            h = phi(h @ W[i] + b[i])
        E.append(h)
    out = []
    for V, tower in zip(gates, heads, strict=True):
        e = np.exp(x @ V)
        g = e / e.sum(axis=1, keepdims=True)
        h = sum(g[:, [i]] * E_i for i, E_i in enumerate(E))
        while len(tower) > 2:
            W, b, *tower = tower
            h = phi(h @ W + b)
        out.append(h @ tower[0] + tower[1])
    return out


# FORWARD AND GRADIENTS


@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("share_gate", [False, True])
def test_mmoe_1_to_mmoe_4_forward_by_hand(activation, share_gate):
    network = MMoE(**SIZES, activation=activation, share_gate=share_gate)
    p = filled(network)
    for got, wanted in zip(network.forward(p, X), reference(network, p, X), strict=True):
        np.testing.assert_allclose(got.value, wanted, rtol=1e-12)


@pytest.mark.parametrize("share_gate", [False, True])
def test_the_whole_jacobian_by_complex_step(share_gate):
    network = MMoE(**SIZES, activation="tanh", share_gate=share_gate)
    p = filled(network)
    deltas = [RNG(k).normal(size=(8, m)) for k, m in enumerate((2, 1, 3))]

    def losses(flat):
        return [(z * d).sum() for z, d in zip(network.forward(p.rebuilt(flat), X), deltas, strict=True)]

    J = value_and_jacobian(losses, p.flat)[1].matrix
    for seed in range(5):
        u = [RNG(100 + seed).normal(size=array.shape) for array in p.flat]
        moved = p.rebuilt([array + 1j * H * d for array, d in zip(p.flat, u, strict=True)])
        slopes = [(z * d).sum().imag / H for z, d in zip(reference(network, moved, X), deltas, strict=True)]
        np.testing.assert_allclose(J @ np.concatenate([d.ravel() for d in u]), slopes, rtol=1e-11)


@settings(max_examples=15)
@given(
    sizes=st.tuples(*[st.integers(1, 3)] * 4),
    B=st.integers(1, 3),
    K=st.integers(1, 4),
    share=st.booleans(),
    seed=st.integers(0, 2**20),
)
def test_it_agrees_with_the_exact_oracle(sizes, B, K, share, seed):
    """Every term, and every gradient by its closed form, in networks of all sizes."""
    n, N, m, h = sizes
    network = MMoE(n, N, (m,), ((h, 2),) * K, "tanh", share)
    p = filled(network, seed)
    x, delta = RNG(seed).normal(size=(B, n)), RNG(seed + 1).normal(size=(K, B, 2))
    wanted = exact.run(plain(network, p), x.tolist(), delta.tolist(), exact.Settings("tanh"))
    leaves = [parameter(array) for array in p.flat]
    terms = network.terms(p.rebuilt(leaves), x)
    for name in ("g", "f", "z"):
        np.testing.assert_allclose(
            np.array([t.value for t in terms[name]]), np.array(wanted[name], dtype=float), rtol=1e-11, atol=1e-12
        )
    np.testing.assert_allclose(terms["E"][0].value, np.array(wanted["E"], dtype=float), rtol=1e-12, atol=1e-13)
    J = jacobian([(z * d).sum() for z, d in zip(terms["z"], delta, strict=True)], leaves)
    for k in range(K):
        rows = plain(network, p.rebuilt([block[k] for block in J.blocks]))
        for kind in ("experts", "gates", "towers"):
            got = np.array(list(exact.leaves(exact.rational(rows[kind]))), dtype=float)
            np.testing.assert_allclose(got, np.array(wanted[f"d_{kind}"][k], dtype=float), rtol=1e-10, atol=1e-11)


def plain(network, p):
    """The parameters as the exact oracle takes them."""
    (gates,), experts, towers = split(p, (network.share_gate,))
    return {
        "experts": [[array.tolist() for array in layers] for layers in unstacked(experts)],
        "gates": [V.tolist() for V in (gates[:1] if network.share_gate else gates)],
        "towers": [[array.tolist() for array in layers] for layers in towers],
    }


# WHAT IT IS


def test_one_expert_is_a_shared_trunk():
    """N = 1: the gate is 1, and the network a shared bottom, bit for bit."""
    network = MMoE(5, 1, (6, 3), (2, (7, 1)))
    trunk = SharedTrunk(5, (6, 3), (2, (7, 1)))
    p = filled(network)
    same = Parameters(
        tuple(array[0, 0] if i % 2 else array[0] for i, array in enumerate(p.shared)), tuple(h[1:] for h in p.heads)
    )
    for got, wanted in zip(network.forward(p, X), trunk.forward(same, X), strict=True):
        np.testing.assert_array_equal(got.value, wanted.value)


def test_one_gate_is_mmoe_with_equal_gates():
    one, many = MMoE(**SIZES, share_gate=True), MMoE(**SIZES)
    p = filled(one)
    same = Parameters(p.shared[1:], tuple((p.shared[0], *head) for head in p.heads))
    for got, wanted in zip(one.forward(p, X), many.forward(same, X), strict=True):
        np.testing.assert_array_equal(got.value, wanted.value)
    J, K = (
        value_and_jacobian(lambda flat, n=n, q=q: [z.sum() for z in n.forward(q.rebuilt(flat), X)], q.flat)[1]
        for n, q in ((one, p), (many, same))
    )
    gates = sum(block for block in K.blocks if block.shape[1:] == (5, 4))
    np.testing.assert_allclose(J.blocks[0], gates, rtol=1e-12)


def test_gates_and_towers_learn_from_their_own_task_alone():
    network = MMoE(**SIZES)
    p = filled(network)
    blocks = value_and_jacobian(lambda f: [z.sum() for z in network.forward(p.rebuilt(f), X)], p.flat)[1].blocks
    for task, head in enumerate(p.rebuilt(blocks).heads):
        for block in head:
            assert block[task].any() and not np.delete(block, task, axis=0).any()


def test_gates_are_shares_and_a_common_shift_of_their_logits_changes_nothing():
    network = MMoE(**SIZES)
    p = filled(network)
    terms = network.terms(p, X)
    for g in terms["g"]:
        np.testing.assert_allclose(g.value.sum(axis=1), 1, rtol=1e-14)
        assert (g.value > 0).all()
    shift = RNG(9).normal(size=(5, 1))
    moved = Parameters(p.shared, tuple((head[0] + shift, *head[1:]) for head in p.heads))
    for got, wanted in zip(network.forward(moved, X), terms["z"], strict=True):
        np.testing.assert_allclose(got.value, wanted.value, rtol=1e-11)


def test_relabelling_experts_changes_nothing_and_relabelling_tasks_permutes():
    network = MMoE(**SIZES)
    p = filled(network)
    out = network.forward(p, X)
    order = [2, 0, 3, 1]
    experts = Parameters(tuple(array[order] for array in p.shared), tuple((h[0][:, order], *h[1:]) for h in p.heads))
    for got, wanted in zip(network.forward(experts, X), out, strict=True):
        np.testing.assert_allclose(got.value, wanted.value, rtol=1e-12)
    turned = MMoE(5, 4, (6, 3), tuple(network.towers[k] for k in (2, 0, 1)))
    tasks = Parameters(p.shared, tuple(p.heads[k] for k in (2, 0, 1)))
    for k, got in zip((2, 0, 1), turned.forward(tasks, X), strict=True):
        np.testing.assert_array_equal(got.value, out[k].value)


def test_an_example_s_output_does_not_depend_on_the_others():
    network = MMoE(**SIZES)
    p = filled(network)
    out = network.forward(p, X)
    for b in range(8):
        for got, wanted in zip(network.forward(p, X[b : b + 1]), out, strict=True):
            assert got.shape == (1, wanted.shape[1])
            np.testing.assert_allclose(got.value, wanted.value[b : b + 1], rtol=1e-12)


def test_gates_far_out_do_not_overflow():
    """Logits of 10⁵: the softmax is a choice of one expert, exactly."""
    network = MMoE(2, 2, (3,), (1,), "tanh")
    p = filled(network)
    hard = Parameters(p.shared, ((np.array([[1e5, 0.0], [0.0, 0.0]]), *p.heads[0][1:]),))
    (z,) = network.forward(hard, [[1.0, 0.5], [-1.0, 0.5]])
    for b, (x, i) in enumerate((((1.0, 0.5), 0), ((-1.0, 0.5), 1))):
        E = np.tanh(np.array(x) @ p.shared[0][i] + p.shared[1][i, 0])
        np.testing.assert_allclose(z.value[b], E @ p.heads[0][1] + p.heads[0][2], rtol=1e-14)


def test_the_last_shared_layer_is_the_experts():
    for share in (False, True):
        p = MMoE(**SIZES, share_gate=share).init(RNG(0))
        W, b = p.shared[last_shared_layer(p.shared)]
        assert W.shape == (4, 6, 3) and b.shape == (4, 1, 3)


# INITIALISATION, TRAINING


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_initial_parameters(activation):
    """He's and Glorot's moments, experts that differ, zero biases, and nothing but the generator."""
    network = MMoE(300, 3, (200, 100), ((150, 50), 40), activation)
    p = network.init(RNG(5))
    W, b, V, c = p.shared
    assert W.shape == (3, 300, 200) and V.shape == (3, 200, 100) and p.heads[0][0].shape == (300, 3)
    for array, n, m, he in (
        *((W[i], 300, 200, activation == "relu") for i in range(3)),
        (V[1], 200, 100, activation == "relu"),
        (p.heads[0][1], 100, 150, activation == "relu"),
        (p.heads[0][3], 150, 50, False),
        (p.heads[1][1], 100, 40, False),
    ):
        np.testing.assert_allclose(array.var(), 2 / n if he else 2 / (n + m), rtol=0.06)
    for gate in (p.heads[0][0], p.heads[1][0]):
        assert np.abs(gate).max() <= np.sqrt(6 / 303)
    assert not np.array_equal(W[0], W[1]) and not np.array_equal(p.heads[0][0], p.heads[1][0])
    for bias in (b, c, p.heads[0][2], p.heads[0][4], p.heads[1][2]):
        assert not bias.any()
    for once, again in zip(p.flat, network.init(RNG(5)).flat, strict=True):
        np.testing.assert_array_equal(once, again)


def test_shared_bottom_omoe_and_mmoe_train_by_one_interface():
    x, y = RNG(1).normal(size=(32, 5)), RNG(2).normal(size=(2, 32, 1))
    for network in (
        SharedTrunk(5, (4,), ((3, 1), (3, 1))),
        MMoE(5, 3, (4,), ((3, 1), (3, 1)), share_gate=True),
        MMoE(5, 3, (4,), ((3, 1), (3, 1))),
    ):

        def losses(parameters, batch, network=network):
            return [mse(out, target) for out, target in zip(network.forward(parameters, x), y, strict=True)]

        run = train(
            losses, network.init(RNG(3)), lambda epoch: [None], mtlref.GradNorm(), mtlref.SGD(0.1), epochs=30,
            measured=slice(-2, None),
        )  # fmt: skip
        assert run.losses[-1].sum() < 0.95 * run.losses[0].sum()


# ERRORS


@pytest.mark.parametrize(
    ("call", "error", "argument"),
    [
        (lambda: MMoE(0, 1, (1,), (1,)), DomainError, "n_inputs"),
        (lambda: MMoE(1, 0, (1,), (1,)), DomainError, "n_experts"),
        (lambda: MMoE(1, 1, (), (1,)), DomainError, "the number of layers of experts"),
        (lambda: MMoE(1, 1, (2, 0), (1,)), DomainError, "a width of experts"),
        (lambda: MMoE(1, 1, (1,), ()), DomainError, "the number of towers"),
        (lambda: MMoE(1, 1, (1,), (1, ())), DomainError, "the number of layers of towers"),
        (lambda: MMoE(1, 1, (1,), (1,), "gelu"), DomainError, "activation"),
        (lambda: MMoE(1, 1, (1,), (1,), share_gate=1), DomainError, "share_gate"),
        (lambda: MMoE(**SIZES).forward(filled(MMoE(**SIZES)), X[:, 1:]), ShapeError, "x"),
        (lambda: MMoE(**SIZES).forward(filled(MMoE(**SIZES)), X[0]), ShapeError, "x"),
        (lambda: MMoE(**SIZES).forward(filled(MMoE(**SIZES)), constant(X[0])), ShapeError, "x"),
        (lambda: MMoE(**SIZES).forward(filled(MMoE(**SIZES)), np.full((2, 5), np.nan)), DomainError, "x"),
    ],
)
def test_what_does_not_fit_is_a_named_error(call, error, argument):
    with pytest.raises(error) as raised:
        call()
    assert raised.value.argument == argument
