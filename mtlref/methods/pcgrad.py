"""PCGrad: where two task gradients conflict, each gives up its component against the other.

Yu, Kumar, Gupta, Levine, Hausman and Finn, "Gradient Surgery for Multi-Task Learning", NeurIPS 2020,
arXiv 2001.06782. Algorithm 1.

The cosines of the task gradients (PCG-1) are all that is needed. Each gradient meets the others in an order of its
own; at each meeting the overlap of what it has become with the other's original gradient is measured (PCG-2), and
a negative overlap is projected away (PCG-3). So each projected gradient is a combination of the original ones
(PCG-4), and their sum weights the originals (PCG-5). The heads keep their own gradients (PCG-6). No step reads what
the one before left (PCG-7).

The orders are an argument, `draw`; `PCGrad.sample` makes one. All tasks are projected at once: the only loop is over
the K − 1 positions of the order. Derivation: derivations/pcgrad.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mtlref.contract import Cadence, Method, Reads, Step, inner_products, same_tasks
from mtlref.notation import Array, DomainError, ShapeError, count, equation, not_finite, real, vector
from mtlref.state import State

Order = NDArray[np.intp]
"""Task indices: one a task, or a row of them a task."""


@dataclass(frozen=True, eq=False)
class PCGradState(State):
    """`weights` (K,): those of the last step, ones before the first. Nothing else is kept, and no step reads them."""

    weights: Array


@dataclass(frozen=True)
class PCGrad(Method):
    """PCGrad (PCG-1 … PCG-7). It has no hyper-parameter and no memory; its randomness is the argument `draw`.

    `include_self` (PCG-C1): False, a task meets the others, as in Algorithm 1; True, itself too, as in some code.
    `reduction` (PCG-C2): "sum" of the projected gradients, as in Algorithm 1, or their "mean".
    Errors: DomainError for an option that is not one of these.
    """

    include_self: bool = False
    reduction: Literal["sum", "mean"] = "sum"

    stem: ClassVar[str] = "pcgrad"
    title: ClassVar[str] = "PCGrad"
    source: ClassVar[str] = "Yu et al., NeurIPS 2020, arXiv 2001.06782, Algorithm 1"
    reads: ClassVar[Reads] = "gram"
    cadence: ClassVar[Cadence] = "step"
    tags: ClassVar[dict[str, str]] = {
        "cosines": "PCG-1",
        "overlaps": "PCG-2",
        "projected": "PCG-3",
        "coefficients": "PCG-4",
        "w": "PCG-5",
    }
    start: ClassVar[str] = "PCG-7"
    heads: ClassVar[str] = "PCG-6"

    def __post_init__(self) -> None:
        if self.include_self not in (True, False):
            message = f"include_self = {self.include_self!r} must be True or False (PCG-C1)"
            raise DomainError(message, argument="include_self", value=self.include_self, equation="PCG-2")
        if self.reduction not in ("sum", "mean"):
            message = f"reduction = {self.reduction!r} must be 'sum' or 'mean' (PCG-C2)"
            raise DomainError(message, argument="reduction", value=self.reduction, equation="PCG-5")

    @property
    def lagged(self) -> bool:
        """False: the weights in use are made from this step's gradients."""
        return False

    def init(self, n_tasks: int) -> PCGradState:
        """Return the state before the first step."""
        return PCGradState(initial_weights(count("n_tasks", n_tasks)))

    def step(
        self, state: State, losses: ArrayLike, jacobian: ArrayLike | None = None, draw: ArrayLike | None = None
    ) -> Step:
        """Return the weights in use now and the next state, from the Jacobian (K, D) and the orders.

        `draw`: row i is the order in which task i meets the others, a permutation of them: (K, K − 1), or (K, K) with
        `include_self`. It may be left out for one or two tasks, where every order gives the same. The losses are
        checked and not read. Errors: ShapeError, DomainError, NonFiniteError.
        """
        # MEASURE
        K = len(same_tasks(state, PCGradState)[1])
        G, exponents = self._inputs(losses, jacobian, K)
        order = checked_orders(draw, K, self.include_self)
        n = lengths(G, exponents)
        C = cosines(G, n)

        # PROJECT
        B = np.diag((n > 0).astype(np.float64))
        overlaps = np.zeros(order.shape)
        for position, other in enumerate(order.T):
            p = overlap(B, C, other)
            B = project(B, p, other)
            overlaps[:, position] = p

        # COMBINE
        coefficients = combination(B, n)
        w = weights_in_use(coefficients, self.reduction)
        return Step(
            weights=w,
            head_weights=head_weights(K),
            state=PCGradState(w),
            terms=dict(zip(self.tags, (C, overlaps, B, coefficients, w), strict=True)),
        )

    def sample(self, rng: np.random.Generator, n_tasks: int) -> NDArray[Any]:
        """Return the orders of one step, as `draw`: a fresh uniform permutation for every task."""
        return rng.permuted(partners(count("n_tasks", n_tasks), self.include_self), axis=1)

    def _inputs(self, losses: ArrayLike, jacobian: ArrayLike | None, K: int) -> tuple[Array, Array]:
        """Return the inner products of the gradients, each over a power of two, and the exponents of these."""
        vector("losses", losses, K)
        if jacobian is None:
            raise DomainError("PCG-1 needs the Jacobian; jacobian is None", argument="jacobian", equation="PCG-1")
        return inner_products(jacobian, K, "PCG-1")


def partners(K: int, include_self: bool) -> Order:
    """Return the tasks that each task meets, in the order of their indices, a row a task."""
    everyone = np.tile(np.arange(K), (K, 1))
    return everyone if include_self else everyone[~np.eye(K, dtype=bool)].reshape(K, K - 1)


def checked_orders(draw: ArrayLike | None, K: int, include_self: bool) -> Order:
    """Return `draw` as an array of task indices, a row a task. Errors: ShapeError, DomainError."""
    if draw is None:
        if K <= 2:
            return partners(K, include_self)
        message = f"PCG-2 needs the orders of {K} tasks; draw is None, and sample(rng, {K}) makes one"
        raise DomainError(message, argument="draw", equation="PCG-2")
    given = real("draw", draw, 2, "PCG-2")
    tasks, wanted = np.arange(K), (K, K if include_self else K - 1)
    if given.shape != wanted:
        message = f"draw must have one order a task, {wanted}; its shape is {given.shape}"
        raise ShapeError(message, argument="draw", value=given.shape, equation="PCG-2")
    wrong = np.sort(given if include_self else np.column_stack([given, tasks]), axis=1) != tasks
    if wrong.any():
        task = int(np.argmax(wrong.any(axis=1)))
        order, met = given[task].tolist(), partners(K, include_self)[task].tolist()
        message = f"draw[{task}] = {order} must be an order of the tasks {met}"
        raise DomainError(message, argument="draw", task=task, value=order, equation="PCG-2")
    return given.astype(np.intp)


def lengths(G: Array, exponents: Array) -> Array:
    """Return n_i = ‖g_i‖, (K,), from the inner products (K, K) of the gradients over 2^exponent, (K,).

    Errors: NonFiniteError if a norm exceeds the largest float64.
    """
    with np.errstate(over="ignore", under="ignore"):
        n: Array = np.ldexp(np.sqrt(np.diag(G)), exponents)
    if not np.isfinite(n).all():
        raise not_finite("PCG-1", n, {"norms": n})
    return n


@equation
def cosines(G: Array, n: Array) -> Array:
    """PCG-1: c_ij = g_i·g_j / (‖g_i‖ ‖g_j‖), and 0 where a gradient is zero.

    `G` (K, K): the inner products of the gradients g_i = ∇L_i, each over a power of two, which leaves their cosines;
    `n` (K,), the norms; returns (K, K), symmetric. Source: the paper's definition of a conflict.
    """
    unit = np.where(n > 0, np.sqrt(np.diag(G)), 1.0)
    return np.asarray(G / unit[:, None] / unit[None, :])


@equation
def overlap(B: Array, C: Array, other: Order) -> Array:
    """PCG-2: p_i = ĝ_i·ĝ_j = Σ_k B_ik c_kj, with j the task that task i meets, ĝ_j = g_j/‖g_j‖.

    `B` (K, K): row i is what g_i has become, as ĝ_i = Σ_k B_ik g_k/‖g_k‖, in units of ‖g_i‖; `C` (K, K), the
    cosines; `other` (K,), the j of each i; returns (K,): below 0 where they conflict. Source: Algorithm 1.
    """
    return np.asarray(np.einsum("ik,ik->i", B, C[other]))


@equation
def project(B: Array, p: Array, other: Order) -> Array:
    """PCG-3: B_ij ← B_ij − min(p_i, 0), with j the task that task i meets.

    That is g_i ← g_i − (g_i·g_j/‖g_j‖²) g_j where g_i·g_j < 0, with g_j as it was before all projections.
    `B` (K, K), `p`, `other` (K,); returns (K, K). Source: Algorithm 1.
    """
    B_next: Array = B.copy()
    B_next[np.arange(len(B)), other] -= np.minimum(p, 0.0)
    return B_next


@equation
def combination(B: Array, n: Array) -> Array:
    """PCG-4: coeff_ij = B_ij ‖g_i‖ / ‖g_j‖, so that g_i^PC = Σ_j coeff_ij g_j; 1 for a zero gradient with itself.

    `B` (K, K), `n` (K,), the norms; returns (K, K). A zero gradient is in no conflict and stays as it is.
    """
    unit = np.where(n > 0, n, 1.0)
    return np.asarray((B * n[:, None]) / unit[None, :] + np.diag((n == 0).astype(np.float64)))


@equation
def weights_in_use(coefficients: Array, reduction: Literal["sum", "mean"]) -> Array:
    """PCG-5: w_j = Σ_i coeff_ij, so that Σ_i g_i^PC = Σ_j w_j g_j; a K-th of it for the mean (PCG-C2).

    `coefficients` (K, K); returns (K,). Source: Algorithm 1.
    """
    total = np.sum(coefficients, axis=0)
    return np.asarray(total if reduction == "sum" else total / len(total))


@equation
def head_weights(K: int) -> Array:
    """PCG-6: h_i = 1: a head has one task, no gradient to conflict with, and keeps its own.

    Returns (K,). Source: the paper's experiments, with surgery on the shared parameters (PCG-C3).
    """
    return np.ones(K)


@equation
def initial_weights(K: int) -> Array:
    """PCG-7: w_i = 1 before the first step: the plain sum, in a state that no step reads.

    Returns (K,). Algorithm 1 remembers nothing.
    """
    return np.ones(K)
