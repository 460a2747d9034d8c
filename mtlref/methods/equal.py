"""Equal weights: the sum of the task losses, the baseline every other method is held against.

One equation, EQ-1. Derivation: derivations/equal.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike

from mtlref.contract import Cadence, Method, Reads, Step, same_tasks
from mtlref.notation import Array, count, equation, matrix, vector
from mtlref.state import State


@dataclass(frozen=True, eq=False)
class EqualState(State):
    """`weights` (K,): ones, for ever."""

    weights: Array


@dataclass(frozen=True)
class EqualWeights(Method):
    """Equal weights: w_i = 1 for the shared parameters and the heads (EQ-1). It has no hyper-parameter."""

    stem: ClassVar[str] = "equal"
    title: ClassVar[str] = "Equal weights"
    source: ClassVar[str] = "the plain sum of the task losses"
    reads: ClassVar[Reads] = "losses"
    cadence: ClassVar[Cadence] = "step"
    tags: ClassVar[dict[str, str]] = {"w": "EQ-1"}
    start: ClassVar[str] = "EQ-1"
    heads: ClassVar[str] = "EQ-1"

    def init(self, n_tasks: int) -> EqualState:
        """Return the state of `n_tasks` tasks: their weights of one."""
        return EqualState(equal_weights(count("n_tasks", n_tasks)))

    def step(self, state: State, losses: ArrayLike, jacobian: ArrayLike | None = None) -> Step:
        """Return weights of one, whatever the losses (K,) and the Jacobian (K, D) are."""
        # CHECK
        known, w = same_tasks(state, EqualState)
        vector("losses", losses, len(w))
        if jacobian is not None:
            matrix("jacobian", jacobian, len(w))

        # WEIGHTS
        w = equal_weights(len(w))
        return Step(weights=w, head_weights=w, state=known, terms={"w": w})


@equation
def equal_weights(K: int) -> Array:
    """EQ-1: w_i = 1, i = 1 … K.

    Returns (K,). The sum of the weights is K: the scale on which GradNorm and DWA keep theirs.
    """
    return np.ones(K)
