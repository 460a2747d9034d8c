"""Implementations of HMoE that are wrong in other ways than the listed defects. Each must fail."""

from __future__ import annotations

import numpy as np

from mtlref.conformance import Implementation
from tests.conformance.right_hmoe import Wide, hmoe, passed


class Shortcut(Wide):
    """The relation weights learn as if the output were not in their slope."""

    def relation_slopes(self, k, a, d):
        return a * d


class OwnSlope(Wide):
    """The relation logits of other scenarios do not learn."""

    def relation_slopes(self, k, a, d):
        slopes = super().relation_slopes(k, a, d)
        return np.where(np.arange(len(a)) == k, slopes, 0)


class Neighbours(Wide):
    """The mask lets the scenario before through as well."""

    def reaches(self, k, j):
        return j in (k, k - 1)


class FirstTower(Wide):
    """Every loss trains the first tower too."""

    def reaches(self, k, j):
        return j in (0, k)


class OwnScoreTwice(Wide):
    """The own score is added to the mixture."""

    def output(self, a, S, k):
        return a @ S + S[k]


class HardMixture(Wide):
    """The largest weight takes all."""

    def output(self, a, S, k):
        return S[np.argmax(a)]


class Temperature(Wide):
    """Shares with a temperature of 2."""

    def shares(self, logits):
        return super().shares(logits / 2)


class Guarded(Wide):
    """Shares with 1e-8 under the sum."""

    def shares(self, logits):
        e = np.exp(logits - logits.max())
        return e / (e.sum() + 1e-8)


class LastGate(Wide):
    """The last gate serves all."""

    def gate(self, gates, k):
        return gates[-1]


class ShiftedShares(Wide):
    """Each expert has the share of the one before."""

    def gate(self, gates, k):
        return np.roll(super().gate(gates, k), 1, axis=1)


class SquashedSlope(Wide):
    """Probabilities in the slope, scores in the mixture."""

    def score(self, z):
        p = 1 / (1 + np.exp(-z))
        return z, p * (1 - p)


def changed(name, change):
    """The right answer, changed."""

    def step(given, state):
        return change(passed(given, Wide()), given)

    return Implementation("hmoe", name=name, step=step)


def scaled(factor, *names):
    """A function that multiplies what has these names."""
    return lambda found, given: {
        name: np.array(value) * factor(given) if name in names else value for name, value in found.items()
    }


def leaked(found, given):
    """A trace of the loss in the other towers, far below what rounding allows."""
    return {**found, "d_towers": np.array(found["d_towers"]) + 1e-25}


def crashes(found, given):
    """Does not take a batch of one."""
    if len(given.x) == 1:
        raise ValueError("a batch of one")
    return found


GRADIENTS = ("d_towers", "d_gates", "d_experts", "d_relations")

WRONG = [
    *(
        hmoe(kind.__name__, kind())
        for kind in (Shortcut, OwnSlope, Neighbours, FirstTower, OwnScoreTwice, HardMixture)
    ),
    *(hmoe(kind.__name__, kind()) for kind in (Temperature, Guarded, LastGate, ShiftedShares, SquashedSlope)),
    changed("a mean over the batch", scaled(lambda given: 1 / len(given.x), *GRADIENTS)),
    changed("gradients over K", scaled(lambda given: 1 / given.n_tasks, *GRADIENTS)),
    changed("experts' gradients over K", scaled(lambda given: 1 / given.n_tasks, "d_experts")),
    changed("a trace in the other towers", leaked),
    changed("no batch of one", crashes),
]
"""Every one of them fails."""
