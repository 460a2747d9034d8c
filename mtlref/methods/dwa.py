"""Dynamic Weight Average: a task whose loss falls slowly from one epoch to the next gets a larger weight.

Liu, Johns and Davison, "End-to-End Multi-Task Learning with Attention", CVPR 2019, arXiv 1803.10704, section 3.2.

Once an epoch the ratio of the last two epochs' mean losses is formed (DWA-1), and its softmax at temperature T,
times K, gives the weights of the next epoch (DWA-2), for the trunk and the heads (DWA-3). No gradient is read.

Derivation: derivations/dwa.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike

from mtlref.contract import Cadence, Method, Reads, Step, same_tasks
from mtlref.notation import Array, count, equation, matrix, positive, require, vector
from mtlref.state import State


@dataclass(frozen=True, eq=False)
class DWAState(State):
    """What DWA remembers.

    `weights` (K,): λ(t), in use during the epoch that comes; `losses_prev` (K,): the mean losses of the epoch
    before it, None before the first epoch has ended.
    """

    weights: Array
    losses_prev: Array | None


@dataclass(frozen=True)
class DWA(Method):
    """Dynamic Weight Average (DWA-1 … DWA-3).

    `temperature` > 0: T, the softness of the weighting; 2 in the paper. Errors: DomainError if it is not positive.
    """

    temperature: float = 2.0

    stem: ClassVar[str] = "dwa"
    title: ClassVar[str] = "Dynamic Weight Average"
    source: ClassVar[str] = "Liu, Johns and Davison, CVPR 2019, arXiv 1803.10704, section 3.2"
    reads: ClassVar[Reads] = "losses"
    cadence: ClassVar[Cadence] = "epoch"
    tags: ClassVar[dict[str, str]] = {"ratio": "DWA-1", "w_next": "DWA-2"}
    start: ClassVar[str] = "DWA-2"
    heads: ClassVar[str] = "DWA-3"

    def __post_init__(self) -> None:
        positive("temperature", self.temperature, "DWA-2")

    def init(self, n_tasks: int) -> DWAState:
        """Return the state before the first epoch: λ_k = 1, no losses yet."""
        return DWAState(np.ones(count("n_tasks", n_tasks)), None)

    def step(self, state: State, losses: ArrayLike, jacobian: ArrayLike | None = None) -> Step:
        """Return λ(t), in use during this epoch, and the state with λ(t+1), from this epoch's mean losses (K,).

        Errors: ShapeError, DomainError (a negative loss, a loss of 0 in the epoch before), NonFiniteError.
        """
        # MEASURE
        known, w = same_tasks(state, DWAState)
        L = vector("losses", losses, len(w), "DWA-1")
        if jacobian is not None:
            matrix("jacobian", jacobian, len(w))
        require(L >= 0, "losses", L, "DWA-1", "compares losses of at least 0, not")
        L_prev = known.losses_prev
        ratio = descending_rate(L, L_prev if L_prev is None else vector("state.losses_prev", L_prev, len(w)))

        # WEIGHTS
        w_next = softmax_weights(ratio, self.temperature)
        return Step(
            weights=w,
            head_weights=head_weights(w),
            state=DWAState(w_next, L),
            terms={"ratio": ratio, "w_next": w_next},
        )


@equation
def descending_rate(L: Array, L_prev: Array | None) -> Array:
    """DWA-1: w_k(t) = L_k(t) / L_k(t−1), and 1 in the first epoch, which has none before it.

    `L`, `L_prev` (K,), mean losses of this epoch and of the one before, at least 0; returns (K,): larger for a task
    that descends more slowly. Errors: DomainError if an L_k(t−1) is not positive. Source: equation 7.
    """
    if L_prev is None:
        return np.ones(len(L))
    require(L_prev > 0, "losses_prev", L_prev, "DWA-1", "divides by")
    return L / L_prev


@equation
def softmax_weights(ratio: Array, T: float) -> Array:
    """DWA-2: λ_k(t+1) = K exp(w_k(t)/T) / Σ_i exp(w_i(t)/T).

    `ratio` (K,), `T` > 0; returns (K,), with sum K. A common shift of the exponents cancels: the largest is taken
    to 0, and nothing overflows. Source: equation 7.
    """
    exponential = np.exp((ratio - np.max(ratio)) / T)
    share: Array = exponential / np.sum(exponential)
    return len(ratio) * share


@equation
def head_weights(w: Array) -> Array:
    """DWA-3: h_k = λ_k: head k descends ∇(λ_k L_k), the total Σ_k λ_k L_k being one loss.

    `w` (K,); returns (K,). Source: equation 6.
    """
    return w
