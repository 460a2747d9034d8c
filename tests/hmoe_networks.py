"""What the tests of HMoE share: a network in which all sizes differ, a pass in plain NumPy, and its gradients."""

from __future__ import annotations

from itertools import product

import numpy as np

from mtlref import HMoE
from mtlref.autograd import value_and_jacobian
from mtlref.exact import hmoe as exact
from mtlref.mixtures import joined, split, unstacked

RNG = np.random.default_rng
H = 1e-30
K, B = 3, 5
SIZES = {
    "n_inputs": 4,
    "n_experts": 2,
    "experts": (6, 3),
    "towers": ((2, 2), (7, 2, 2), (2, 2)),
    "activation": "tanh",
}
X = RNG(0).normal(size=(B, 4))
DELTA = RNG(1).normal(size=(K, B, 2))

OPTIONS = [
    dict(zip(("share_gate", "share_w", "mix", "constrained", "mode"), values, strict=True))
    for values in product((False, True), (False, True), ("logit", "prob", "hidden"), (True, False), ("end_to_end",))
] + [{"mix": mix, "mode": "stacked", "share_w": share} for mix, share in product(("logit", "prob"), (False, True))]


def named(options):
    return "-".join(str(value) for value in options.values())


def network(**options):
    return HMoE(**SIZES, **options)


def filled(net, seed=0):
    """Parameters without a zero: normal numbers in the layout of `init`."""
    rng = RNG(seed)
    at = net.init(rng)
    return at.rebuilt([rng.normal(size=array.shape) for array in at.flat])


def softmax(z):
    e = np.exp(z)
    return e / e.sum(axis=1, keepdims=True)


def reference(net, p, x, held=None):
    """The forward pass in plain NumPy, expert by expert, for complex parameters too; S and out of each scenario.

    `held`: the scores as constants, which scenario k sees in the place of those that the mask stops.
    """
    phi = np.tanh if net.activation == "tanh" else lambda z: z * (z.real > 0)
    shared, heads = list(p.shared), [list(head) for head in p.heads]
    gates = [shared.pop(0)] * len(heads) if net.share_gate else [head.pop(0) for head in heads]
    relations = [shared.pop(0)] * len(heads) if net.share_w else [head.pop(0) for head in heads]
    E = []
    for i in range(net.n_experts):
        h = x
        for W, b in zip(shared[::2], shared[1::2], strict=True):
            h = phi(h @ W[i] + b[i])
        E.append(h)
    S, z = [], []
    for V, tower in zip(gates, heads, strict=True):
        g = softmax(x @ V)
        h = sum(g[:, [i]] * E_i for i, E_i in enumerate(E))
        for W, b in zip(tower[:-2:2], tower[1:-2:2], strict=True):
            h = phi(h @ W + b)
        z.append(h @ tower[-2] + tower[-1])
        S.append(h if net.mix == "hidden" else z[-1] if net.mix == "logit" else 1 / (1 + np.exp(-z[-1])))
    out = []
    for k, R in enumerate(relations):
        a = softmax(x @ R)
        stops = [net.mode == "stacked" or (net.constrained and j != k) for j in range(len(S))]
        seen = [
            S_j if held is None or not stop else held[j] for j, (S_j, stop) in enumerate(zip(S, stops, strict=True))
        ]
        mixed = sum(a[:, [j]] * S_j for j, S_j in enumerate(seen))
        out.append(mixed @ heads[k][-2] + heads[k][-1] if net.mix == "hidden" else mixed)
    return S, out


def gradients(net, p, x=X, delta=DELTA):
    """The Jacobian of L_k = Σ δ_k out_k, laid out as the parameters: each block (K, *shape)."""
    J = value_and_jacobian(
        lambda f: [(o * d).sum() for o, d in zip(net.forward(p.rebuilt(f), x), delta, strict=True)], p.flat
    )[1]
    return J.matrix, p.rebuilt(J.blocks)


def values(tensors):
    return np.array([tensor.value for tensor in tensors])


def relations_of(net, blocks):
    """The relation matrices' blocks, or matrices: one, or one a scenario."""
    ((_, relations), _, _) = split(blocks, (net.share_gate, net.share_w))
    return relations[:1] if net.share_w else relations


def with_relations(net, p, relations):
    (gates, _), experts, towers = split(p, (net.share_gate, net.share_w))
    return joined((gates, relations), experts, towers, (net.share_gate, net.share_w))


def plain(net, p):
    """The parameters as the exact oracle takes them."""
    (gates, relations), experts, towers = split(p, (net.share_gate, net.share_w))
    return {
        "experts": [[array.tolist() for array in layers] for layers in unstacked(experts)],
        "gates": [V.tolist() for V in (gates[:1] if net.share_gate else gates)],
        "relations": [R.tolist() for R in (relations[:1] if net.share_w else relations)],
        "towers": [[array.tolist() for array in layers] for layers in towers],
    }


def flattened(nested):
    return [float(value) for value in exact.leaves(exact.rational(nested))]
