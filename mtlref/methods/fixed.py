"""Fixed weights: chosen by hand, or the same for every task, and never changed.

The background of every weighting method: the total loss Σ_i w_i L_i with weights that are "uniform or manually
tuned". The weights are those given (FIX-1), for the trunk and for the heads (FIX-2).

Derivation: derivations/fixed.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike

from mtlref.contract import Cadence, Method, Reads, Step, same_tasks
from mtlref.notation import Array, ShapeError, count, equation, matrix, nonnegative, require, vector
from mtlref.state import State


@dataclass(frozen=True, eq=False)
class FixedState(State):
    """`weights` (K,): those given, for ever."""

    weights: Array


@dataclass(frozen=True)
class FixedWeights(Method):
    """Fixed weights (FIX-1, FIX-2).

    `weights`: a tuple with one number for each task, or one number for all tasks. Each is finite and at least 0: a
    weight of 0 leaves a task out, and a negative one would raise its loss (FIX-C1). They are used as they are given,
    whatever their sum (FIX-C2). Errors: DomainError for a weight out of range.
    """

    weights: float | tuple[float, ...] = 1.0

    stem: ClassVar[str] = "fixed"
    title: ClassVar[str] = "Fixed weights"
    source: ClassVar[str] = "uniform or manually tuned loss weights"
    reads: ClassVar[Reads] = "losses"
    cadence: ClassVar[Cadence] = "step"
    tags: ClassVar[dict[str, str]] = {"w": "FIX-1"}
    start: ClassVar[str] = "FIX-1"
    heads: ClassVar[str] = "FIX-2"

    def __post_init__(self) -> None:
        given: object = self.weights
        if isinstance(given, list):
            object.__setattr__(self, "weights", tuple(given))
        if not isinstance(self.weights, tuple):
            nonnegative("weights", self.weights, "FIX-1")
            return
        w = vector("weights", self.weights, equation="FIX-1")
        require(w >= 0, "weights", w, "FIX-1", "takes weights of at least 0, not")

    def init(self, n_tasks: int) -> FixedState:
        """Return the state of `n_tasks` tasks: their weights. Errors: ShapeError if another number was given."""
        return FixedState(fixed_weights(self._given(count("n_tasks", n_tasks))))

    def step(self, state: State, losses: ArrayLike, jacobian: ArrayLike | None = None) -> Step:
        """Return the weights given, whatever the losses (K,) and the Jacobian (K, D) are."""
        # CHECK
        K = len(same_tasks(state, FixedState)[1])
        vector("losses", losses, K)
        if jacobian is not None:
            matrix("jacobian", jacobian, K)

        # WEIGHTS
        w = fixed_weights(self._given(K))
        return Step(weights=w, head_weights=head_weights(w), state=FixedState(w), terms={"w": w})

    def _given(self, K: int) -> Array:
        """Return the given weights as (K,)."""
        if not isinstance(self.weights, tuple):
            return np.full(K, float(self.weights))
        if len(self.weights) != K:
            message = f"weights must have one entry a task, {K}; it has {len(self.weights)}"
            raise ShapeError(message, argument="weights", value=len(self.weights), equation="FIX-1")
        return np.array(self.weights, dtype=np.float64)


@equation
def fixed_weights(given: Array) -> Array:
    """FIX-1: w_i(t) = w_i, i = 1 … K.

    `given` (K,), at least 0; returns (K,), the same at every step.
    """
    return given


@equation
def head_weights(w: Array) -> Array:
    """FIX-2: h_i = w_i: head i descends ∇(w_i L_i), the total Σ_i w_i L_i being one loss.

    `w` (K,); returns (K,).
    """
    return w
