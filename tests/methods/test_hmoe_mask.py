"""HMoE: what the mask does to the gradients, what the network reduces to, and what leaves it unchanged."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mtlref import HMoE, MMoE
from mtlref.autograd import jacobian, parameter, value_and_jacobian
from mtlref.mixtures import joined, split
from mtlref.networks import Parameters
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
    gradients,
    named,
    network,
    reference,
    relations_of,
    values,
    with_relations,
)

# WHAT THE MASK DOES


@pytest.mark.parametrize("mix", ["logit", "prob", "hidden"])
def test_the_forward_pass_is_the_same_with_and_without_the_mask(mix):
    net = network(mix=mix)
    p = filled(net)
    for got, wanted in zip(net.forward(p, X), replace(net, constrained=False).forward(p, X), strict=True):
        np.testing.assert_array_equal(got.value, wanted.value)


@pytest.mark.parametrize("mix", ["logit", "prob", "hidden"])
def test_other_towers_and_gates_get_an_exact_zero(mix):
    """And without the mask they do not."""
    net = network(mix=mix)
    p = filled(net)
    full = gradients(replace(net, constrained=False), p)[1]
    for task, head in enumerate(gradients(net, p)[1].heads):
        for block in head:
            assert block[task].any() and not np.delete(block, task, axis=0).any()
        gate, relation, *tower = full.heads[task]
        assert not np.delete(relation, task, axis=0).any()
        assert all(np.delete(block, task, axis=0).any() for block in (gate, tower[0]))


@pytest.mark.parametrize("mix", ["logit", "prob", "hidden"])
@pytest.mark.parametrize("share_w", [False, True])
def test_the_relation_weights_gradient_is_the_same_with_and_without_the_mask(mix, share_w):
    net = network(mix=mix, share_w=share_w)
    p = filled(net)
    ours = relations_of(net, gradients(net, p)[1])
    full = relations_of(net, gradients(replace(net, constrained=False), p)[1])
    for got, wanted in zip(ours, full, strict=True):
        np.testing.assert_array_equal(got, wanted)
        assert got.any()


def test_the_slopes_in_closed_form():
    """∂L_k/∂S_j = a_kk δ_k for j = k and 0 else; R_k gets Σ_b x_b a_kj δ_k·(S_j − out_k)."""
    net = network()
    p = filled(net)
    leaves = [parameter(array) for array in p.flat]
    terms = net.terms(p.rebuilt(leaves), X)
    losses = [(o * d).sum() for o, d in zip(terms["out"], DELTA, strict=True)]
    a, S, out = values(terms["a"]), values(terms["S"]), values(terms["out"])
    for j, block in enumerate(jacobian(losses, terms["S"]).blocks):
        for k in range(K):
            np.testing.assert_allclose(block[k], a[k][:, [k]] * DELTA[k] * (j == k), rtol=1e-14)
    for k, block in enumerate(relations_of(net, gradients(net, p)[1])):
        pull = np.array([a[k][:, j] * np.sum(DELTA[k] * (S[j] - out[k]), axis=1) for j in range(K)])
        np.testing.assert_allclose(block[k], (pull @ X).T, rtol=1e-11)


def test_the_masked_field_is_no_gradient():
    """∂/∂θ_j of the field at R_k is not 0, ∂/∂R_k of the field at tower j's θ_j is: no function has that Hessian."""
    net = network()
    p = filled(net)
    h = 1e-5

    def field(q):
        blocks = gradients(net, q)[1]
        return np.concatenate([blocks.heads[0][1][0].ravel(), blocks.heads[1][-2][0].ravel()])

    def moved(head, at, sign):
        heads = [list(layers) for layers in p.heads]
        heads[head][at] = heads[head][at] + sign * h * np.ones_like(heads[head][at])
        return Parameters(p.shared, tuple(map(tuple, heads)))

    n = p.heads[0][1].size
    along_tower = (field(moved(1, -2, 1)) - field(moved(1, -2, -1))) / (2 * h)
    along_relation = (field(moved(0, 1, 1)) - field(moved(0, 1, -1))) / (2 * h)
    assert np.abs(along_tower[:n]).max() > 0.1
    assert not along_relation[n:].any()


def test_an_embedding_learns_through_the_relation_weights_too():
    """HMOE-C8: the slope of loss k in x is that with the other scores held, and not 0 where all scores are held."""
    for options in ({}, {"mode": "stacked"}):
        net = network(**options)
        p = filled(net)
        held, _ = reference(net, p, X)
        x = parameter(X)
        losses = [(o * d).sum() for o, d in zip(net.forward(p, x), DELTA, strict=True)]
        u = RNG(8).normal(size=X.shape)
        slopes = [
            np.sum(o * d).imag / H for o, d in zip(reference(net, p, X + 1j * H * u, held)[1], DELTA, strict=True)
        ]
        np.testing.assert_allclose(jacobian(losses, [x]).matrix @ u.ravel(), slopes, rtol=1e-11)
        assert np.abs(slopes).min() > 1e-3


def test_the_own_tower_is_damped_by_its_own_relation_weight():
    """With a_kk = w for every input, the tower's gradient is w times MMoE's; as w goes to 0 it starves."""
    net, x = network(), np.concatenate([np.ones((B, 1)), X[:, 1:]], axis=1)
    p = filled(net)
    implicit = MMoE(**SIZES)
    towers = Parameters(p.shared, tuple((head[0], *head[2:]) for head in p.heads))
    J = value_and_jacobian(
        lambda f: [(z * d).sum() for z, d in zip(implicit.forward(towers.rebuilt(f), x), DELTA, strict=True)],
        towers.flat,
    )[1]
    wanted = towers.rebuilt(J.blocks)
    for w in (0.5, 1e-3, 1e-12):
        logit = np.log(w * (K - 1) / (1 - w))
        R = [np.vstack([logit * (np.arange(K) == k), np.zeros((3, K))]) for k in range(K)]
        heads = gradients(net, with_relations(net, p, R), x)[1].heads
        for k in range(K):
            np.testing.assert_allclose(heads[k][-2][k], w * wanted.heads[k][-2][k], rtol=1e-10)


# WHAT IT REDUCES TO


@pytest.mark.parametrize("share_gate", [False, True])
def test_a_one_hot_relation_is_mmoe(share_gate):
    """Relation logits of 800 on the own scenario: e^−800 is 0, and outputs and gradients are MMoE's, bit for bit."""
    net, implicit = network(share_gate=share_gate), MMoE(**SIZES, share_gate=share_gate)
    x = np.concatenate([np.ones((B, 1)), X[:, 1:]], axis=1)
    R = [np.vstack([800.0 * (np.arange(K) == k), np.zeros((3, K))]) for k in range(K)]
    p = with_relations(net, filled(net), R)
    (gates, _), experts, towers = split(p, (share_gate, False))
    q = joined((gates,), experts, towers, (share_gate,))
    for got, wanted in zip(net.forward(p, x), implicit.forward(q, x), strict=True):
        np.testing.assert_array_equal(got.value, wanted.value)
    J = value_and_jacobian(
        lambda f: [(z * d).sum() for z, d in zip(implicit.forward(q.rebuilt(f), x), DELTA, strict=True)], q.flat
    )[1]
    (gates, relations), experts, towers = split(gradients(net, p, x)[1], (share_gate, False))
    for got, wanted in zip(joined((gates,), experts, towers, (share_gate,)).flat, J.blocks, strict=True):
        np.testing.assert_array_equal(got, wanted)
    assert not any(block.any() for block in relations)


def test_one_scenario_is_a_plain_mixture_of_experts():
    """K = 1: a = 1, the mask has nothing to stop, and R learns nothing."""
    net, implicit = HMoE(4, 3, (5,), ((3, 1),), "tanh"), MMoE(4, 3, (5,), ((3, 1),), "tanh")
    p = filled(net)
    q = Parameters(p.shared, ((p.heads[0][0], *p.heads[0][2:]),))
    (got,), (wanted,) = net.forward(p, X), implicit.forward(q, X)
    np.testing.assert_array_equal(got.value, wanted.value)
    delta = DELTA[:1, :, :1]
    matrix, blocks = gradients(net, p, X, delta)
    np.testing.assert_array_equal(matrix, gradients(replace(net, constrained=False), p, X, delta)[0])
    assert not blocks.heads[0][1].any()
    J = value_and_jacobian(lambda f: [(implicit.forward(q.rebuilt(f), X)[0] * delta[0]).sum()], q.flat)[1]
    same = Parameters(blocks.shared, ((blocks.heads[0][0], *blocks.heads[0][2:]),))
    for block, other in zip(same.flat, J.blocks, strict=True):
        np.testing.assert_array_equal(block, other)


def test_one_vector_of_relation_weights_gives_every_scenario_the_same_output():
    """HMOE-C2: with share_w the outputs are equal, and scenarios differ only in which tower learns."""
    net = network(share_w=True)
    p = filled(net)
    out = net.forward(p, X)
    for other in out[1:]:
        np.testing.assert_array_equal(other.value, out[0].value)
    heads = gradients(net, p, X, np.tile(DELTA[:1], (K, 1, 1)))[1].heads
    assert all(heads[k][-1][k].any() and not np.delete(heads[k][-1], k, axis=0).any() for k in range(K))


def test_hidden_vectors_are_scores_where_the_last_layers_are_one():
    """HMOE-C3: Σ_j a_kj (h_j U + c) = (Σ_j a_kj h_j) U + c; with last layers of their own the two differ."""
    scores, hidden = network(), network(mix="hidden")
    p = filled(scores)
    same = Parameters(p.shared, tuple((*head[:-2], *p.heads[0][-2:]) for head in p.heads))
    np.testing.assert_allclose(values(scores.forward(same, X)), values(hidden.forward(same, X)), rtol=1e-12)
    assert np.abs(values(scores.forward(p, X)) - values(hidden.forward(p, X))).max() > 0.1


# INVARIANTS


@pytest.mark.parametrize("mix", ["logit", "prob"])
def test_an_output_lies_between_the_scores(mix):
    net = network(mix=mix)
    terms = net.terms(filled(net), X)
    S, out = values(terms["S"]), values(terms["out"])
    assert (S.min(axis=0) <= out + 1e-15).all() and (out <= S.max(axis=0) + 1e-15).all()
    assert mix == "logit" or ((out > 0) & (out < 1)).all()
    for a in terms["a"]:
        np.testing.assert_allclose(a.value.sum(axis=1), 1, rtol=1e-14)


def test_a_common_shift_of_the_scores_shifts_the_outputs():
    net = network()
    p = filled(net)
    moved = Parameters(p.shared, tuple((*head[:-1], head[-1] + [2.0, -3.0]) for head in p.heads))
    np.testing.assert_allclose(
        values(net.forward(moved, X)), values(net.forward(p, X)) + np.array([2.0, -3.0]), rtol=1e-12
    )


def test_a_common_shift_of_the_logits_of_gates_and_relations_changes_nothing():
    net = network()
    p = filled(net)
    u, v = RNG(3).normal(size=(2, 4, 1))
    moved = Parameters(p.shared, tuple((head[0] + u, head[1] + v, *head[2:]) for head in p.heads))
    np.testing.assert_allclose(values(net.forward(moved, X)), values(net.forward(p, X)), rtol=1e-11)


@pytest.mark.parametrize("options", [{}, {"constrained": False}, {"mix": "prob"}, {"share_gate": True}], ids=named)
def test_relabelling_scenarios_permutes_everything(options):
    """The towers in another order, and the columns of every relation matrix with them."""
    net = network(**options)
    p = filled(net)
    order = [2, 0, 1]
    turned = replace(net, towers=tuple(net.towers[k] for k in order))
    at = 0 if net.share_gate else 1
    heads = tuple((*p.heads[k][:at], p.heads[k][at][:, order], *p.heads[k][at + 1 :]) for k in order)
    q = Parameters(p.shared, heads)
    np.testing.assert_allclose(values(turned.forward(q, X)), values(net.forward(p, X))[order], rtol=1e-12)
    ours, theirs = gradients(turned, q, X, DELTA[order])[1], gradients(net, p)[1]
    for got, wanted in zip(ours.shared, theirs.shared, strict=True):
        np.testing.assert_allclose(got, wanted[order], rtol=1e-10, atol=1e-13)
    for head, k in zip(ours.heads, order, strict=True):
        for i, (got, wanted) in enumerate(zip(head, theirs.heads[k], strict=True)):
            wanted = wanted[order][..., order] if i == at else wanted[order]
            np.testing.assert_allclose(got, wanted, rtol=1e-10, atol=1e-13)


def test_relabelling_experts_changes_nothing():
    net = network()
    p = filled(net)
    turned = Parameters(tuple(array[::-1] for array in p.shared), tuple((h[0][:, ::-1], *h[1:]) for h in p.heads))
    np.testing.assert_allclose(values(net.forward(turned, X)), values(net.forward(p, X)), rtol=1e-12)


@pytest.mark.parametrize("options", OPTIONS, ids=named)
def test_a_batch_of_one_and_rows_that_do_not_depend_on_each_other(options):
    """Output b depends on x_b alone, and the batch's gradients are the sum of its rows'."""
    net = network(**options)
    p = filled(net)
    out, matrix = values(net.forward(p, X)), gradients(net, p)[0]
    rows = []
    for b in range(B):
        np.testing.assert_allclose(values(net.forward(p, X[b : b + 1])), out[:, b : b + 1], rtol=1e-11)
        rows.append(gradients(net, p, X[b : b + 1], DELTA[:, b : b + 1])[0])
    np.testing.assert_allclose(np.sum(rows, axis=0), matrix, rtol=1e-10, atol=1e-12)


def test_weights_far_out_do_not_overflow():
    net = network()
    p = filled(net)
    far = with_relations(net, p, [1e6 * R for R in relations_of(net, p)])
    out, S = values(net.forward(far, X)), values(net.terms(far, X)["S"])
    assert all(np.any(np.all(np.isclose(S[:, b], out[k, b], rtol=1e-12), axis=1)) for k in range(K) for b in range(B))
