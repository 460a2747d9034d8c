"""Training loops of each method, written out plainly, and logs of them: what the inference must see through."""

from __future__ import annotations

import functools
from itertools import pairwise

import numpy as np

from mtlref.audit import judge, read_log, read_run, write_log
from mtlref.audit.run import readable
from mtlref.settings import build

FORMS = {"gaussian": (0.5, 1.0), "softmax": (1.0, 1.0), "laplace": (1.0, 0.5)}


def falling(rng, steps, K, dtype=np.float64):
    """Losses that fall at rates of their own, with noise, far from 1, and norms of unequal size."""
    rates, start = rng.uniform(0.002, 0.03, K), 10 ** rng.uniform(-1, 1, K)
    losses = start * np.exp(-rates * np.arange(steps)[:, None]) * rng.uniform(0.85, 1.15, (steps, K))
    norms = 10 ** rng.uniform(-0.5, 0.5, K) * rng.uniform(0.5, 1.5, (steps, K))
    return losses.astype(dtype), norms.astype(dtype)


class Descent:
    """Plain descent, heavy-ball momentum or Adam, as a framework has them."""

    def __init__(self, lr, momentum=0.0, betas=None):
        self.lr, self.momentum, self.betas, self.t, self.m, self.v = lr, momentum, betas, 0, 0, 0

    def step(self, w, g):
        self.t += 1
        if self.betas is None:
            self.m = self.momentum * self.m + g
            return w - self.lr * self.m
        one, two = self.betas
        self.m, self.v = one * self.m + (1 - one) * g, two * self.v + (1 - two) * g * g
        return w - self.lr * (self.m / (1 - one**self.t)) / (np.sqrt(self.v / (1 - two**self.t)) + 1e-8)


def gradnorm(losses, norms, alpha, rule, clamp=False, L_0=None):
    """The weights in use at every step of GradNorm, `alpha` below 0 for a rate that is upside down."""
    dtype, K = losses.dtype, losses.shape[1]
    w, rows = np.ones(K, dtype), []
    for L, n in zip(losses, norms, strict=True):
        rows.append(w)
        G, progress = np.abs(w) * n, L / (losses[0] if L_0 is None else L_0)
        target = G.mean() * (progress / progress.mean()) ** dtype.type(alpha)
        u = rule.step(w, np.sign(G - target) * np.sign(w) * n)
        u = np.maximum(u, 0) if clamp else u
        w = (K * u / u.sum()).astype(dtype)
    return np.array(rows)


def dwa(losses, temperature):
    """The weights in use in every epoch of DWA."""
    rows = [np.ones(losses.shape[1])] * 2
    for before, now in pairwise(losses[:-1]):
        share = np.exp(now / before / temperature)
        rows.append(len(now) * share / share.sum())
    return np.array(rows).astype(losses.dtype)


def cov(losses, *, previous=False, ratio=True, decay=None):
    """The weights of CoV-Weighting from the whole history at every step: weighted moments, no recursion."""
    losses = losses.astype(np.float64)
    steps, K = losses.shape
    beta = 1.0 if decay is None else decay
    shares = [beta ** np.arange(t - 1, -1, -1.0) for t in range(1, steps + 1)]
    shares = [s / s.sum() for s in shares]
    observed = losses.copy()
    for t in range(steps):
        if ratio:
            observed[t] = losses[t] / (shares[t - 1] @ losses[:t]) if t else 1.0
    rows = []
    for t in range(steps):
        mean = shares[t] @ observed[: t + 1]
        c = np.sqrt(shares[t] @ (observed[: t + 1] - mean) ** 2) / mean
        rows.append(c / c.sum() if c.sum() > 0 else np.full(K, 1 / K))
    return np.array([np.full(K, 1 / K), *rows[:-1]] if previous else rows)


def uncertainty(losses, likelihoods, rule, dimensions=1, start=0.0):
    """The weights in use at every step of Uncertainty Weighting."""
    dtype = losses.dtype
    a, b = np.array([FORMS[name] for name in likelihoods]).T.astype(dtype)
    s, rows = np.full(len(a), start, dtype), []
    for L in losses:
        w = a * np.exp(-b * s)
        rows.append(w)
        s = rule.step(s, np.asarray(dimensions) / 2 - b * w * L).astype(dtype)
    return np.array(rows)


def pe_ltr(jacobians, bounds):
    """The weights in use at every step of PE-LTR with two tasks, by the closed form of the shortest sum."""
    rows, w = [], np.array([0.5, 0.5])
    for g, h in jacobians:
        rows.append(w)
        first = (h - g) @ h / ((g - h) @ (g - h))
        first = min(max(first, bounds[0]), 1 - bounds[1])
        w = np.array([first, 1 - first])
    return np.array(rows)


def columns(losses, weights, norms=None, gram=None, draws=None):
    """A log's columns."""
    K, found = losses.shape[1], {}
    for kind, values in (("loss", losses), ("norm", norms), ("weight", weights)):
        if values is not None:
            found |= {f"{kind}/{i}": np.asarray(values)[:, i].astype(losses.dtype) for i in range(K)}
    if gram is not None:
        found |= {f"gram/{i}/{j}": gram[:, i, j] for i in range(K) for j in range(i, K)}
    if draws is not None:
        found |= {f"draw/{i}/{j}": draws[:, i, j] for i in range(K) for j in range(draws.shape[2])}
    return found


@functools.cache
def shipped(name):
    """A run in the package and its verdict, found once for all tests."""
    run = read_run(f"example:{name}")
    return run, judge(run.method, run.log)


def logged(folder, stem, losses, weights, **more):
    """The log as the method `stem` reads it."""
    path = folder / "run.csv"
    path.unlink(missing_ok=True)
    write_log(path, columns(losses, weights, **more))
    return readable(read_log(path), build(stem, {}))
