"""Implementations of the combination that are wrong in other ways than the listed defects. Each must fail."""

from __future__ import annotations

import numpy as np

from mtlref.conformance import Implementation
from tests.conformance.right_combination import NOISE, SURGERY, Loop, combination, mixed, surgery


def looped(loop):
    """An implementation that is a loop of its own, with DWA, GradNorm and PCGrad."""

    def run(run):
        mine = loop(run.n_tasks, 3, 0.5, 0.5)
        heads, directions = zip(*(mine.step(p.losses, p.jacobian, p.draw) for p in run), strict=True)
        return {"head_weights": heads, "direction": directions}

    return combination(loop.__name__, SURGERY, run=run)


class EpochsOneStepLate(Loop):
    """The epoch ends when the next one's first batch is there."""

    def __init__(self, K, epoch, strength, temperature):
        super().__init__(K, epoch + 1, strength, temperature)


class NormsOfTheProduct(Loop):
    """GradNorm moves the product, not its own weights."""

    def step(self, L, J, draw):
        self.quick = mixed([self.slow, self.quick], [1.0, 1.0])
        return super().step(L, J, draw)


class StartForgotten(Loop):
    """GradNorm's L(0) is that of the epoch."""

    def step(self, L, J, draw):
        self.start = None if not self.batch else self.start
        return super().step(L, J, draw)


class Clipped(Loop):
    """No weight below 0.75."""

    def step(self, L, J, draw):
        found = np.maximum(super().step(L, J, draw)[0], 0.75)
        return found, surgery(found[:, None] * J, draw).sum(axis=0)


class NormsAfterSurgery(Loop):
    """GradNorm reads the gradients that PCGrad has left."""

    def step(self, L, J, draw):
        weights = mixed([self.slow, self.quick], [1.0, self.strength])
        return weights, super().step(L, surgery(J, draw), draw)[1]


class WeightsOfTheNextStep(Loop):
    """The direction has the weights that this step makes."""

    def step(self, L, J, draw):
        before, _ = super().step(L, J, draw)
        weights = mixed([self.slow, self.quick], [1.0, self.strength])
        return before, surgery(weights[:, None] * J, draw).sum(axis=0)


def stepped(change, name):
    """Uncertainty Weighting, CoV-Weighting and PCGrad, changed."""

    def step(problem, state):
        s, alpha = state.stages[0].log_variances, state.stages[1].weights
        p = np.exp(-s) * alpha**2
        weights, heads, J = change(problem.n_tasks * p / p.sum(), problem)
        return {"head_weights": heads, "direction": surgery(weights[:, None] * J, problem.draw).sum(axis=0)}

    return combination(name, NOISE, step=step)


def spec(change, name):
    """What the specification answers, whatever the stages are, changed."""

    def step(problem, state):
        out = problem.step(state)
        found = {
            "weights": out.weights,
            "head_weights": out.head_weights,
            "direction": out.weights @ problem.jacobian,
        }
        return change(found, problem, state)

    return Implementation("combination", name=name, step=step)


def normalised(found, problem, state):
    """The direction brought to the length of the plain sum."""
    length = np.linalg.norm(problem.jacobian.sum(axis=0))
    return {**found, "direction": found["direction"] * length / np.linalg.norm(found["direction"])}


def signs(found, problem, state):
    """Lengths in the sum of absolute values."""
    J = problem.jacobian
    size = np.sum(np.abs(J), axis=1) / np.maximum(np.linalg.norm(J, axis=1), 1e-300)
    out = problem.method.step(state, problem.losses, size[:, None] * J, draw=problem.draw)
    w = out.weights
    scale = w[:, None] * J + 0.01 * np.sign(J)
    return {"head_weights": out.head_weights * size, "direction": scale.sum(axis=0)}


def first_task_first(found, problem, state):
    """The first task counts twice."""
    twice = np.ones(problem.n_tasks)
    twice[0] = 2.0
    heads = found["head_weights"] * twice
    heads = problem.n_tasks * heads / heads.sum()
    return {"head_weights": heads, "direction": found["direction"]}


def reports_others(found, problem, state):
    """The weights that are reported are the heads'."""
    return {**found, "weights": found["head_weights"]}


WRONG = [
    *map(looped, (EpochsOneStepLate, NormsOfTheProduct, StartForgotten, Clipped, NormsAfterSurgery)),
    looped(WeightsOfTheNextStep),
    stepped(lambda w, p: (w, w / len(w), p.jacobian), "heads of sum one"),
    stepped(lambda w, p: (w / w.max(), w, p.jacobian), "the largest weight is one"),
    stepped(lambda w, p: (w, w, p.jacobian / np.linalg.norm(p.jacobian, axis=1)[:, None]), "unit gradients"),
    stepped(lambda w, p: (w / len(w), w, p.jacobian), "a mean for the sum"),
    stepped(lambda w, p: (np.sqrt(w), w, p.jacobian), "the root of the weights on shared parameters"),
    stepped(lambda w, p: (w, w * p.losses, p.jacobian), "heads of weighted losses' logarithms"),
    spec(normalised, "the plain sum's length"),
    spec(signs, "lengths of another norm"),
    spec(first_task_first, "the first task counts twice"),
    spec(reports_others, "reports others"),
]
"""Every one of them fails."""
