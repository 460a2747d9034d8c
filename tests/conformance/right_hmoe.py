"""Right and different: HMoE sample by sample, with gradients by hand."""

from __future__ import annotations

import numpy as np

from mtlref.conformance import Implementation


class Wide:
    """What a wrong variant may change; here nothing is wrong."""

    dtype = np.float64

    def shares(self, logits):
        e = np.exp(logits - logits.max())
        return e / e.sum()

    def score(self, z):
        """What is mixed, and its slope."""
        return z, np.ones_like(z)

    def reaches(self, k, j):
        return j == k

    def relation_slopes(self, k, a, d):
        """From d_j = δ·S_j: the slopes of the relation logits."""
        return a * (d - a @ d)

    def output(self, a, S, k):
        return a @ S

    def gate(self, gates, k):
        return gates[k % len(gates)]


def forward(layers, x, phi, last):
    """The values of every layer, the input first."""
    values = [x]
    for at in range(0, len(layers), 2):
        z = values[-1] @ layers[at] + layers[at + 1]
        values.append(phi(z) if last or at + 2 < len(layers) else z)
    return values


def backward(layers, values, d, slope, last):
    """The gradients of the layers in order, and of the input."""
    found = []
    for at in reversed(range(0, len(layers), 2)):
        after = values[at // 2 + 1]
        d = d * slope(after) if last or at + 2 < len(layers) else d
        found = [np.outer(values[at // 2], d), d, *found]
        d = layers[at] @ d
    return found, d


def passed(given, how):
    """Every observable, from one sample at a time."""
    t = how.dtype
    relu = given.method.activation == "relu"
    phi = (lambda z: np.maximum(z, 0)) if relu else np.tanh
    slope = (lambda h: (h > 0).astype(t)) if relu else (lambda h: 1 - h * h)
    cast = lambda layers: [array.astype(t) for array in layers]  # noqa: E731
    experts, towers = [cast(e) for e in given.experts], [cast(f) for f in given.towers]
    gates, relations = cast(given.gates), cast(given.relations)
    K, B = len(towers), len(given.x)
    grad = {
        "experts": [[[np.zeros_like(p) for p in e] for e in experts] for _ in range(K)],
        "towers": [[[np.zeros_like(p) for p in f] for f in towers] for _ in range(K)],
        "gates": [[np.zeros_like(V) for V in gates] for _ in range(K)],
        "relations": [[np.zeros_like(R) for R in relations] for _ in range(K)],
    }
    out, scores, weights = [np.zeros((K, B, m)).astype(t) for m in (given.delta[0].shape[1],) * 2 + (K,)]
    for b in range(B):
        x = given.x[b].astype(t)
        E = [forward(e, x, phi, True) for e in experts]
        top = np.array([values[-1] for values in E])
        g = [how.shares(x @ how.gate(gates, k)) for k in range(K)]
        z = [forward(towers[k], g[k] @ top, phi, False) for k in range(K)]
        S, dS = map(np.array, zip(*(how.score(values[-1]) for values in z), strict=True))
        for k in range(K):
            a = how.shares(x @ relations[k % len(relations)])
            delta = given.delta[k][b].astype(t)
            out[k, b], weights[k, b], scores[k, b] = how.output(a, S, k), a, S[k]
            grad["relations"][k][k % len(relations)] += np.outer(x, how.relation_slopes(k, a, S @ delta))
            for j in range(K):
                if not how.reaches(k, j):
                    continue
                layers, d = backward(towers[j], z[j], a[j] * delta * dS[j], slope, False)
                for into, part in zip(grad["towers"][k][j], layers, strict=True):
                    into += part
                inner = top @ d
                grad["gates"][k][j % len(gates)] += np.outer(x, g[j] * (inner - g[j] @ inner))
                for i, values in enumerate(E):
                    layers, _ = backward(experts[i], values, g[j][i] * d, slope, True)
                    for into, part in zip(grad["experts"][k][i], layers, strict=True):
                        into += part
    flat = {f"d_{kind}": [flattened(row) for row in rows] for kind, rows in grad.items()}
    return {"out": out, "S": scores, "a": weights, **flat}


def flattened(parts):
    """Arrays, however nested in lists, one after another."""
    return np.concatenate([flattened(p) if isinstance(p, list) else p.ravel() for p in parts])


def hmoe(name, how=None, choices=None, dtype="float64", keep=None):
    """An implementation of HMoE."""

    def step(given, state):
        found = passed(given, how or Wide())
        return {n: value for n, value in found.items() if keep is None or n in keep}

    return Implementation("hmoe", name=name, step=step, choices=choices or {}, dtype=dtype)


class Narrow(Wide):
    dtype = np.float32


class Probabilities(Wide):
    def score(self, z):
        p = 1 / (1 + np.exp(-z))
        return p, p * (1 - p)


class Unmasked(Wide):
    def reaches(self, k, j):
        return True


class Stacked(Wide):
    def reaches(self, k, j):
        return False


SIZES = {"n_inputs": 6, "n_experts": 4, "experts": (5,), "towers": ((3, 1),) * 3, "activation": "relu"}

RIGHT = [
    hmoe("by hand, a sample at a time"),
    hmoe("single precision", Narrow(), dtype="float32"),
    hmoe("outputs alone", keep=("out",)),
    hmoe("probabilities", Probabilities(), {"mix": "prob"}),
    hmoe("no mask, declared", Unmasked(), {"constrained": False}),
    hmoe("stacked, declared", Stacked(), {"mode": "stacked"}),
    hmoe("one gate and one relation", None, {"share_gate": True, "share_w": True}),
    hmoe("sizes of its own", None, SIZES),
]
"""Every one of them passes every check."""
