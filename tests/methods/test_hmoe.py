"""HMoE: forward and per-task gradients against a plain NumPy pass and the exact oracle; stages, samples, training."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mtlref
from mtlref import HMoE, MMoE
from mtlref.autograd import value_and_jacobian
from mtlref.exact import hmoe as exact
from mtlref.methods.hmoe import own_rows
from mtlref.mixtures import joined, split
from mtlref.networks import binary_cross_entropy, last_shared_layer, mse
from mtlref.notation import DomainError, ShapeError
from mtlref.training import train
from tests.hmoe_networks import (
    DELTA,
    OPTIONS,
    RNG,
    SIZES,
    B,
    H,
    K,
    X,
    filled,
    flattened,
    gradients,
    named,
    network,
    plain,
    reference,
    relations_of,
    values,
)

# FORWARD AND GRADIENTS


@pytest.mark.parametrize("options", OPTIONS, ids=named)
def test_forward_by_hand(options):
    net = network(**options)
    p = filled(net)
    S, out = reference(net, p, X)
    terms = net.terms(p, X)
    np.testing.assert_allclose(values(terms["S"]), S, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(values(net.forward(p, X)), out, rtol=1e-12, atol=1e-13)
    np.testing.assert_array_equal(values(terms["seen"]), np.tile(values(terms["S"]), (K, 1, 1)))
    assert set(terms) == set(net.tags)


@pytest.mark.parametrize("options", OPTIONS, ids=named)
def test_gradients_are_those_with_the_stopped_scores_held(options):
    """A complex step of L_k with the scores that the mask stops held at their values: all parameters at once."""
    net = network(**options)
    p = filled(net)
    held, _ = reference(net, p, X)
    matrix, _ = gradients(net, p)
    for seed in range(4):
        u = [RNG(50 + seed).normal(size=array.shape) for array in p.flat]
        moved = p.rebuilt([array + 1j * H * d for array, d in zip(p.flat, u, strict=True)])
        slopes = [np.sum(o * d).imag / H for o, d in zip(reference(net, moved, X, held)[1], DELTA, strict=True)]
        np.testing.assert_allclose(matrix @ np.concatenate([d.ravel() for d in u]), slopes, rtol=1e-10)


def test_finite_differences_of_the_plain_forward_disagree_by_the_other_towers_share():
    """The derivative of L_k as it stands is the unmasked gradient; it exceeds ours by Σ_{j≠k} a_kj δ_k ∂S_j."""
    net = network()
    p = filled(net)
    masked, full = gradients(net, p)[0], gradients(replace(net, constrained=False), p)[0]
    u = [RNG(7).normal(size=array.shape) for array in p.flat]
    along = np.concatenate([d.ravel() for d in u])
    moved = p.rebuilt([array + 1j * H * d for array, d in zip(p.flat, u, strict=True)])
    S, out = reference(net, moved, X)
    a = values(net.terms(p, X)["a"])
    plain = [np.sum(o * d).imag / H for o, d in zip(out, DELTA, strict=True)]
    share = [sum(np.sum(a[k][:, [j]] * DELTA[k] * S[j].imag) / H for j in range(K) if j != k) for k in range(K)]
    np.testing.assert_allclose(full @ along, plain, rtol=1e-11)
    np.testing.assert_allclose(full @ along - masked @ along, share, rtol=1e-10)
    assert np.min(np.abs(share)) > 0.1


@settings(max_examples=25)
@given(
    sizes=st.tuples(*[st.integers(1, 3)] * 4),
    batch=st.integers(1, 3),
    tasks=st.integers(1, 4),
    options=st.sampled_from(OPTIONS),
    activation=st.sampled_from(["tanh", "relu"]),
    seed=st.integers(0, 2**20),
)
def test_it_agrees_with_the_exact_oracle(sizes, batch, tasks, options, activation, seed):
    """Every term and every gradient, in networks of all sizes, under every option."""
    n, N, m, h = sizes
    net = HMoE(n, N, (m,), ((h, 2),) * tasks, activation, **options)
    p = filled(net, seed)
    x, delta = RNG(seed).normal(size=(batch, n)), RNG(seed + 1).normal(size=(tasks, batch, 2))
    how = exact.Settings(activation, net.mix, net.constrained, net.mode)
    wanted = exact.run(plain(net, p), x.tolist(), delta.tolist(), how)
    terms = net.terms(p, x)
    for name in ("g", "f", "z", "a", "S", "out"):
        np.testing.assert_allclose(values(terms[name]), np.array(wanted[name], dtype=float), rtol=1e-11, atol=1e-12)
    _, blocks = gradients(net, p, x, delta)
    for k in range(tasks):
        rows = plain(net, p.rebuilt([block[k] for block in blocks.flat]))
        for kind, row in rows.items():
            got = np.array(list(exact.leaves(exact.rational(row))), dtype=float)
            np.testing.assert_allclose(got, np.array(wanted[f"d_{kind}"][k], dtype=float), rtol=1e-10, atol=1e-11)


# STACKED, SAMPLES, TRAINING


@pytest.mark.parametrize("share_w", [False, True])
def test_stacked_trains_the_relation_weights_alone(share_w):
    """Every gradient but the relation weights' is an exact zero, and theirs is that of the end-to-end mode."""
    net = network(mode="stacked", share_w=share_w)
    p = filled(net)
    ours, ends = gradients(net, p), gradients(network(share_w=share_w), p)
    for got, wanted in zip(relations_of(net, ours[1]), relations_of(net, ends[1]), strict=True):
        np.testing.assert_array_equal(got, wanted)
    (gates, _), experts, towers = split(ours[1], (False, share_w))
    assert not any(block.any() for block in (*gates, *experts, *(block for tower in towers for block in tower)))
    np.testing.assert_array_equal(values(net.forward(p, X)), values(network(share_w=share_w).forward(p, X)))


def test_the_two_stages_of_stacking():
    """First the towers by their own scores, which leaves R as it is; then R alone, which leaves all else."""
    net = HMoE(4, 2, (5,), ((3, 1),) * 3, "tanh", mode="stacked")
    targets = [np.sin(X @ RNG(k).normal(size=(4, 1))) for k in range(3)]

    def first(parameters, batch):
        return [mse(z, t) for z, t in zip(net.scores(parameters, X), targets, strict=True)]

    def second(parameters, batch):
        return [mse(o, t) for o, t in zip(net.forward(parameters, X), targets, strict=True)]

    def run(losses, parameters):
        return train(losses, parameters, lambda epoch: [None], mtlref.EqualWeights(), mtlref.Adam(0.02), epochs=40)

    start = net.init(RNG(4))
    one = run(first, start)
    two = run(second, one.parameters)
    assert one.losses[-1].sum() < 0.5 * one.losses[0].sum()
    assert two.losses[-1].sum() < two.losses[0].sum()
    for before, between, after in zip(start.heads, one.parameters.heads, two.parameters.heads, strict=True):
        np.testing.assert_array_equal(before[1], between[1])
        assert not np.array_equal(between[1], after[1])
        np.testing.assert_array_equal(between[2], after[2])
    for between, after in zip(one.parameters.shared, two.parameters.shared, strict=True):
        np.testing.assert_array_equal(between, after)


def test_hmoe_5_a_loss_reads_the_samples_of_its_own_scenario():
    """L_k is the loss of the outputs k of its own rows: as on the sub-batch alone, with its gradient."""
    net = HMoE(4, 2, (5,), ((3, 1),) * 3, "tanh")
    p = filled(net)
    scenario, y = np.array([2, 0, 1, 0, 2]), np.array([[1.0], [0], [1], [1], [0]])

    def losses(flat, rows):
        out = own_rows(net.forward(p.rebuilt(flat), X[rows]), scenario[rows])
        return [binary_cross_entropy(o, y[rows][scenario[rows] == k]) for k, o in enumerate(out)]

    loss, J = value_and_jacobian(lambda flat: losses(flat, slice(None)), p.flat)
    for k in range(3):
        rows = scenario == k
        z = reference(net, p, X[rows])[1][k]
        bce = np.mean(np.log1p(np.exp(z)) - y[rows] * z)
        np.testing.assert_allclose(loss[k], bce, rtol=1e-12)
        alone = value_and_jacobian(
            lambda flat, k=k, rows=rows: [binary_cross_entropy(net.forward(p.rebuilt(flat), X[rows])[k], y[rows])],
            p.flat,
        )[1]
        np.testing.assert_allclose(J.matrix[k], alone.matrix[0], rtol=1e-11, atol=1e-15)


def one_step_by_hand(net, p, y, method):
    """One SGD step of 0.1: losses and gradients from the exact oracle, weights from the method's own step."""
    how = exact.Settings("tanh", constrained=net.constrained)
    out = np.array(exact.run(plain(net, p), X.tolist(), np.zeros((K, B, 2)).tolist(), how)["out"])
    error = out.astype(float) - y
    found = exact.run(plain(net, p), X.tolist(), (2 * error / error[0].size).tolist(), how)
    rows = {kind: np.array(found[f"d_{kind}"], dtype=float) for kind in exact.KINDS}
    state = method.init(K)
    draw = method.sample(RNG(0), K)
    L = np.mean(error**2, axis=(1, 2))
    if method.cadence == "epoch":
        w = h = np.ones(K)
    else:
        step = method.step(state, L, rows["experts"], **({} if draw is None else {"draw": draw}))
        w, h = step.weights, step.head_weights
    flat = {kind: (w if kind == "experts" else h) @ matrix for kind, matrix in rows.items()}
    return {kind: np.array(flattened(plain(net, p)[kind])) - 0.1 * flat[kind] for kind in exact.KINDS}


@pytest.mark.parametrize(
    ("stem", "constrained"), [(stem, True) for stem in mtlref.METHODS] + [("fixed", False), ("gradnorm", False)]
)
def test_any_weighting_method_composes_with_it(stem, constrained):
    """Experts descend Σ w_i ∇L_i; gates, relations and towers Σ h_i ∇L_i, of which with the mask one is not 0."""
    settings = {"fixed": {"weights": (0.5, 2.0, 1.5)}}.get(stem, {})
    method = mtlref.METHODS[stem](**settings)
    net = network(constrained=constrained)
    p = filled(net)
    y = RNG(5).normal(size=(K, B, 2))

    def losses(parameters, batch):
        return [mse(out, target) for out, target in zip(net.forward(parameters, X), y, strict=True)]

    run = train(losses, p, lambda epoch: [None], method, mtlref.SGD(0.1), epochs=1, rng=RNG(0))
    for kind, wanted in one_step_by_hand(net, p, y, method).items():
        np.testing.assert_allclose(flattened(plain(net, run.parameters)[kind]), wanted, rtol=1e-9, atol=1e-11)


def test_initial_parameters():
    """Relation matrices of zeros: at the start every output is the mean of the scores. The rest is MMoE's."""
    for share_gate, share_w in product((False, True), repeat=2):
        net = network(share_gate=share_gate, share_w=share_w)
        p = net.init(RNG(5))
        (gates, relations), experts, towers = split(p, (share_gate, share_w))
        assert not any(R.any() for R in relations) and all(R.shape == (4, K) for R in relations)
        implicit = MMoE(**SIZES, share_gate=share_gate).init(RNG(5))
        for got, wanted in zip(joined((gates,), experts, towers, (share_gate,)).flat, implicit.flat, strict=True):
            np.testing.assert_array_equal(got, wanted)
        terms = net.terms(p, X)
        np.testing.assert_allclose(values(terms["out"])[1], values(terms["S"]).mean(axis=0), rtol=1e-12, atol=1e-14)
        W, _ = p.shared[last_shared_layer(p.shared)]
        assert W.shape == (2, 6, 3)


# ERRORS


@pytest.mark.parametrize(
    ("call", "error", "argument"),
    [
        (lambda: network(mix="score"), DomainError, "mix"),
        (lambda: network(mode="two_stage"), DomainError, "mode"),
        (lambda: network(constrained="yes"), DomainError, "constrained"),
        (lambda: network(share_w=None), DomainError, "share_w"),
        (lambda: network(share_gate=0), DomainError, "share_gate"),
        (lambda: network(mode="stacked", constrained=False), DomainError, "constrained"),
        (lambda: network(mode="stacked", mix="hidden"), DomainError, "mix"),
        (lambda: HMoE(1, 1, (1,), (1, 2)), DomainError, "towers"),
        (lambda: HMoE(1, 1, (1,), (1, 1), mix="hidden"), DomainError, "towers"),
        (lambda: HMoE(1, 1, (1,), ((2, 1), (3, 1)), mix="hidden"), DomainError, "towers"),
        (lambda: HMoE(1, 0, (1,), (1, 1)), DomainError, "n_experts"),
        (lambda: network().forward(filled(network()), X[:, 1:]), ShapeError, "x"),
        (lambda: network().forward(filled(network()), X[0]), ShapeError, "x"),
        (lambda: network().forward(filled(network()), np.full((1, 4), np.inf)), DomainError, "x"),
        (lambda: own_rows(network().forward(filled(network()), X), [0, 1, 2]), ShapeError, "scenario"),
        (lambda: own_rows(network().forward(filled(network()), X), [0, 1, 2, 3, 0]), DomainError, "scenario"),
        (lambda: own_rows(network().forward(filled(network()), X), [0, 1, 2, -1, 0]), DomainError, "scenario[3]"),
        (lambda: own_rows(network().forward(filled(network()), X), [0, 1, 1, 1, 0]), DomainError, "scenario"),
    ],
)
def test_what_does_not_fit_is_a_named_error(call, error, argument):
    with pytest.raises(error) as raised:
        call()
    assert raised.value.argument == argument


def test_an_empty_scenario_names_the_task_and_the_equation():
    out = network().forward(filled(network()), X)
    with pytest.raises(DomainError, match="HMOE-5 has no sample of scenario 2") as raised:
        own_rows(out, [0, 1, 1, 1, 0])
    assert raised.value.task == 2 and raised.value.equation == "HMOE-5"
