"""Right and different: combinations from their equations, in loops of their own."""

from __future__ import annotations

import math

import numpy as np

from mtlref.conformance import Implementation

SURGERY = {
    "stages": ({"method": "dwa", "temperature": 0.5}, {"method": "gradnorm", "strength": 0.5}, "pcgrad"),
    "epoch_steps": 3,
}
NOISE = {"stages": ("uncertainty", {"method": "cov", "statistics": "previous", "strength": 2.0}, "pcgrad")}
EPOCHS = {"stages": ({"method": "dwa", "strength": 0.5}, {"method": "fixed", "weights": (3.0, 0.5, 1.0)})}
BALANCE = {"stages": ({"method": "gradnorm", "alpha": 0.5, "lr": 0.05}, {"method": "pe_ltr", "timing": "same"})}
"""What they declare."""


def softmax(x):
    """e^x over its sum."""
    e = np.exp(x - np.max(x))
    return e / e.sum()


def mixed(rows, strengths):
    """K softmax(Σ β log w): the product and its renormalisation in logarithms, the last stage first."""
    logs = [b * np.log(w) for w, b in zip(rows[::-1], strengths[::-1], strict=True)]
    return len(rows[0]) * softmax(np.sum(logs, axis=0))


def surgery(gradients, draw):
    """PCGrad on vectors, the last task first; one (K, D) of what the gradients have become."""
    out = [g.copy() for g in gradients]
    for i in reversed(range(len(out))):
        for j in draw[i]:
            overlap, square = out[i] @ gradients[j], gradients[j] @ gradients[j]
            if overlap < 0 < square:
                out[i] = out[i] - overlap / square * gradients[j]
    return np.array(out)


def balanced(w, n, pace, alpha, lr):
    """GradNorm's next weights from the norms n and the losses over their start."""
    G = w * n
    u = w - lr * np.sign(G - G.mean() * (pace / pace.mean()) ** alpha) * n
    return len(w) * u / u.sum()


def nearest(J):
    """PE-LTR's printed system on the rows of J, and the projection by sorting."""
    K, J = len(J), J / np.linalg.norm(J, axis=1).max()
    M = np.block([[J @ J.T, np.ones((K, 1))], [np.ones((1, K)), np.zeros((1, 1))]])
    v = np.linalg.solve(M, np.append(np.zeros(K), 1.0))[:K]
    u = np.sort(v)[::-1]
    return np.maximum(v - max((u[: k + 1].sum() - 1) / (k + 1) for k in range(K)), 0)


class Loop:
    """A trainer's loop: DWA on the means of its epochs, GradNorm at every step, PCGrad on the weighted gradients."""

    def __init__(self, K, epoch, strength, temperature):
        self.epoch, self.strength, self.temperature = epoch, strength, temperature
        self.slow, self.quick, self.start, self.means, self.batch = np.ones(K), np.ones(K), None, [], []

    def step(self, L, J, draw):
        loss_weights = mixed([self.slow, self.quick], [1.0, self.strength])
        self.start = L if self.start is None else self.start
        self.quick = balanced(self.quick, np.linalg.norm(J, axis=1), L / self.start, 1.5, 0.025)
        self.batch.append(L)
        if len(self.batch) == self.epoch:
            self.means.append(np.sum(self.batch, axis=0))
            self.batch = []
            if len(self.means) > 1:
                self.slow = len(L) * softmax(self.means[-1] / self.means[-2] / self.temperature)
        return loss_weights, surgery(loss_weights[:, None] * J, draw).sum(axis=0)


def looped(run):
    loop = Loop(run.n_tasks, 3, 0.5, 0.5)
    rows = [loop.step(p.losses, p.jacobian, p.draw) for p in run]
    heads, directions = zip(*rows, strict=True)
    return {"head_weights": heads, "direction": directions}


def held(problem, state):
    """From the weights that the stages' states hold, each brought to K first, in plain Python."""
    K = problem.n_tasks
    slow, quick = (stage.weights for stage in state.stages[:2])
    p = [(K * a / math.fsum(slow)) * math.sqrt(K * b / math.fsum(quick)) for a, b in zip(slow, quick, strict=True)]
    loss_weights = np.array([K * x / math.fsum(reversed(p)) for x in p])
    d = sum(loss_weights[:, None] * surgery(problem.jacobian, problem.draw))  # weights last: the same for PCGrad
    return {"product": p, "loss_weights": loss_weights, "head_weights": loss_weights, "direction": d}


def single(problem, state):
    """The same in single precision, without what comes before the direction."""
    f = np.float32
    rows = [state.stages[0].weights.astype(f), state.stages[1].weights.astype(f)]
    loss_weights = mixed(rows, [f(1), f(0.5)]).astype(f)
    return {"direction": surgery(loss_weights[:, None] * problem.jacobian.astype(f), problem.draw).sum(axis=0)}


def noisy(problem, state):
    """Precisions and shares as they come, no sum of K on the way: the last division takes care of it."""
    log_variances, alpha = state.stages[0].log_variances, state.stages[1].weights
    p = np.exp(-log_variances) * alpha**2
    loss_weights = problem.n_tasks * p / p.sum()
    found = surgery(loss_weights[:, None] * problem.jacobian, problem.draw)
    return {"loss_weights": loss_weights, "head_weights": loss_weights, "direction": found.sum(axis=0)}


def drawing(generator):
    """One that draws PCGrad's orders itself."""

    def step(problem, state):
        K = problem.n_tasks
        orders = [generator.permutation([j for j in range(K) if j != i]) for i in range(K)]
        return noisy(type(problem)(problem.method, problem.losses, problem.jacobian, orders), state)

    return step


def slowly(run):
    """DWA's square root and priorities, once an epoch, from a list of the epochs' means."""
    means, heads, priorities = [], [], np.array([3.0, 0.5, 1.0])
    for problem in run:
        ratio = means[-1] / means[-2] if len(means) > 1 else np.ones(3)
        heads.append(mixed([softmax(ratio / 2.0), priorities], [0.5, 1.0]))
        means.append(problem.batches.mean(axis=0))
    directions = [h @ problem.jacobian for h, problem in zip(heads, run, strict=True)]
    return {"weights": heads, "head_weights": heads, "direction": directions}


def shortest(run):
    """GradNorm, then PE-LTR on the weighted gradients of the same step; the heads keep GradNorm's weights."""
    w, start, heads, weights = np.ones(run.n_tasks), run.steps[0].losses, [], []
    for problem in run:
        J = problem.jacobian
        heads.append(w)
        weights.append(run.n_tasks * nearest(w[:, None] * J) * w)
        w = balanced(w, np.linalg.norm(J, axis=1), problem.losses / start, 0.5, 0.05)
    directions = [u @ problem.jacobian for u, problem in zip(weights, run, strict=True)]
    return {"weights": weights, "head_weights": heads, "direction": directions}


def combination(name, choices, dtype="float64", **doors):
    """An implementation of the combination."""
    return Implementation("combination", name=name, choices=choices, dtype=dtype, **doors)


RIGHT = [
    combination("a trainer's loop", SURGERY, run=looped),
    combination("plain Python, weights last", SURGERY, step=held),
    combination("single precision", SURGERY, "float32", step=single),
    combination("renormalised once", NOISE, step=noisy),
    combination("own orders", {**NOISE, "order": "own"}, step=drawing(np.random.default_rng(5))),
    combination("epochs", EPOCHS, run=slowly),
    combination("balance", BALANCE, run=shortest),
]
"""Every one of them passes every check."""
