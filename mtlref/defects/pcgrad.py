"""Wrong variants of PCGrad. Each function takes what the function it replaces takes.

Surgery on trunk and heads as one vector is no other equation but another Jacobian, and is not listed. A fixed
order, one order for all tasks and a meeting with oneself are each a wrong reading of the orders given.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from mtlref.defects.defect import Defect
from mtlref.methods.pcgrad import Order, checked_orders, combination, cosines, overlap, partners, project
from mtlref.notation import Array


def fixed_orders(draw: ArrayLike | None, K: int, include_self: bool) -> Order:
    """Every task meets the others in the order of their indices, whatever was drawn."""
    return partners(K, include_self)


def one_order(draw: ArrayLike | None, K: int, include_self: bool) -> Order:
    """Every task meets the others in the order drawn for task 0, with task 0 itself in front of it."""
    first = checked_orders(draw, K, include_self)[0].tolist()
    everyone = first if include_self else [0, *first]
    rows = [[j for j in everyone if include_self or j != i] for i in range(K)]
    return np.array(rows, dtype=np.intp).reshape(K, -1)


def self_included(draw: ArrayLike | None, K: int, include_self: bool) -> Order:
    """Every task meets its own original gradient too, after the others."""
    orders = checked_orders(draw, K, include_self)
    return orders if include_self else np.column_stack([orders, np.arange(K)])


def first_length(G: Array, n: Array) -> Array:
    """c_ij = g_i·g_j / ‖g_i‖²: one length for both."""
    square = np.where(n > 0, np.diag(G), 1.0)
    return np.asarray(G / square[:, None])


def shares(K: int) -> Array:
    """h_i = 1/K: the heads descend the mean of the losses."""
    return np.full(K, 1 / K)


def raw_overlap(B: Array, C: Array, other: Order) -> Array:
    """p_i = g_i·g_j of the original gradients, whatever has been projected away before."""
    return np.asarray(C[np.arange(len(C)), other])


def always_project(B: Array, p: Array, other: Order) -> Array:
    """B_ij ← B_ij − p_i, whatever its sign: agreeing gradients lose what they share."""
    return _subtract(B, p, other)


def reflect(B: Array, p: Array, other: Order) -> Array:
    """B_ij ← B_ij − 2 min(p_i, 0): the gradient is mirrored, not projected."""
    return project(B, 2 * p, other)


def wrong_sign(B: Array, p: Array, other: Order) -> Array:
    """B_ij ← B_ij + min(p_i, 0): the conflict is doubled, not removed."""
    return _subtract(B, -np.minimum(p, 0.0), other)


class Laden(np.ndarray[Any, np.dtype[np.float64]]):
    """An array that carries a factor of each gradient along, for the projection to use."""

    factor: Array


def shrunk_cosines(G: Array, n: Array) -> Array:
    """The cosines, with ‖g_j‖²/(‖g_j‖² + 1e-8) of each gradient on board."""
    with np.errstate(over="ignore"):
        small = 1e-8 / np.maximum(n, 1e-150) ** 2
    return laden(cosines(G, n), 1 / (1 + small))


def cosines_with_squares(G: Array, n: Array) -> Array:
    """The cosines, with ‖g_j‖² of each gradient on board."""
    with np.errstate(over="ignore"):
        return laden(cosines(G, n), n * n)


def cosines_with_lengths(G: Array, n: Array) -> Array:
    """The cosines, with ‖g_j‖ of each gradient on board."""
    return laden(cosines(G, n), n)


def laden(x: Array, factor: Array) -> Array:
    """Return x with a factor on board."""
    found = x.view(Laden)
    found.factor = factor
    return found


def laden_overlap(B: Array, C: Array, other: Order) -> Array:
    """The overlaps, with the factors of those that are met on board."""
    p = overlap(B, np.asarray(C), other)
    return laden(p, C.factor[other]) if isinstance(C, Laden) else p


def laden_projection(B: Array, p: Array, other: Order) -> Array:
    """B_ij ← B_ij − min(p_i, 0) factor_j: of the projection, what another denominator leaves."""
    return project(B, np.asarray(p) * p.factor if isinstance(p, Laden) else p, other)


class Told(np.ndarray[Any, np.dtype[np.float64]]):
    """An array that carries the cosines along, or the orders so far."""

    cosines: Array
    orders: tuple[Order, ...]


def telling_overlap(B: Array, C: Array, other: Order) -> Array:
    """The overlaps, with the cosines on board."""
    p = overlap(np.asarray(B), C, other).view(Told)
    p.cosines = C
    return p


def altered_projection(B: Array, p: Array, other: Order) -> Array:
    """B_i ← B_i − min(B_i·B_j, 0)/‖B_j‖² B_j, tasks one after the other, with what task j has become by then.

    Where that is nothing but rounding (in a plane it often is), so is what follows: no two computations agree there.
    """
    if not isinstance(p, Told):
        return project(B, p, other)
    orders = (*(B.orders if isinstance(B, Told) else ()), other)
    C = p.cosines
    changed: Array = np.diag((np.diag(C) > 0).astype(np.float64))
    for i in range(len(C)):
        for j in (int(meets[i]) for meets in orders):
            inner, square = changed[i] @ C @ changed[j], changed[j] @ C @ changed[j]
            if inner < 0 < square:
                changed[i] -= inner / square * changed[j]
    found = changed.view(Told)
    found.orders = orders
    return found


def unguarded_cosines(G: Array, n: Array) -> Array:
    """c_ij = g_i·g_j / (‖g_i‖ ‖g_j‖) also for a zero gradient: 0/0."""
    length = np.sqrt(np.diag(G))
    with np.errstate(invalid="ignore"):
        return np.asarray(G / np.outer(length, length))


def cosine_coefficients(B: Array, n: Array) -> Array:
    """coeff_ij = B_ij: the cosine for g_i·g_j/‖g_j‖²."""
    return combination(B, np.ones(len(n)))


def unit_coefficients(B: Array, n: Array) -> Array:
    """coeff_ij = B_ij / ‖g_j‖: gradients of length 1 are projected and added."""
    return np.asarray(B / np.where(n > 0, n, 1.0)[None, :] + np.diag((n == 0).astype(np.float64)))


def row_sums(coefficients: Array, reduction: str) -> Array:
    """w_i = Σ_j coeff_ij: rows for columns."""
    total = np.sum(coefficients, axis=1)
    return np.asarray(total if reduction == "sum" else total / len(total))


def mean_always(coefficients: Array, reduction: str) -> Array:
    """w_j = (1/K) Σ_i coeff_ij, whatever the reduction."""
    return np.asarray(np.mean(coefficients, axis=0))


def _subtract(B: Array, p: Array, other: Order) -> Array:
    """Return B with p_i taken from B_ij."""
    B_next: Array = B.copy()
    B_next[np.arange(len(B)), other] -= p
    return B_next


DEFECTS = (
    Defect(
        "RawDot",
        "PCG-2",
        "the overlap of the original gradients at every meeting, not of what they have become",
        {"overlap": raw_overlap},
        "a question thread of the official repository",
    ),
    Defect(
        "SelfIncluded",
        "PCG-2",
        "meetings of a task with its own gradient, after the others",
        {"checked_orders": self_included},
        "LibMTL, Pytorch-PCGrad, nash-mtl, the official code",
    ),
    Defect(
        "FixedOrder",
        "PCG-2",
        "meetings in the order of the tasks' indices, not in the order drawn",
        {"checked_orders": fixed_orders},
        "the official code",
    ),
    Defect("OneOrder", "PCG-2", "one order for all tasks, that drawn for task 0", {"checked_orders": one_order}),
    Defect(
        "MeanAlways",
        "PCG-5",
        "the mean of the projected gradients for their sum",
        {"weights_in_use": mean_always},
        "Pytorch-PCGrad",
    ),
    Defect(
        "EpsInDenominator",
        "PCG-3",
        "‖g_j‖² + 1e-8 for ‖g_j‖²: a small gradient is hardly projected on",
        {"cosines": shrunk_cosines, "overlap": laden_overlap, "project": laden_projection},
        "LibMTL",
    ),
    Defect(
        "ZeroGradientNaN",
        "PCG-1",
        "0/0 where a task's gradient is zero",
        {"cosines": unguarded_cosines},
        "the official code",
    ),
    Defect("AlwaysProject", "PCG-3", "a projection where gradients agree as well", {"project": always_project}),
    Defect("Reflection", "PCG-3", "twice the component, which mirrors the gradient", {"project": reflect}),
    Defect("WrongSign", "PCG-3", "the component added, not taken away", {"project": wrong_sign}),
    Defect(
        "CosineForFactor",
        "PCG-4",
        "the cosine for g_i·g_j/‖g_j‖²: the ratio of the norms is missing",
        {"combination": cosine_coefficients},
    ),
    Defect(
        "PartnerAltered",
        "PCG-3",
        "projections on what the other gradient has become, in place, task by task",
        {"overlap": telling_overlap, "project": altered_projection},
    ),
    Defect(
        "MissingNormalisation",
        "PCG-3",
        "(g_i·g_j) g_j taken away, without 1/‖g_j‖²",
        {"cosines": cosines_with_squares, "overlap": laden_overlap, "project": laden_projection},
    ),
    Defect(
        "NormForSquare",
        "PCG-3",
        "‖g_j‖ for ‖g_j‖² under the inner product",
        {"cosines": cosines_with_lengths, "overlap": laden_overlap, "project": laden_projection},
    ),
    Defect(
        "UnitGradients",
        "PCG-4",
        "the projections of gradients of length 1",
        {"combination": unit_coefficients},
    ),
    Defect(
        "RowSums",
        "PCG-5",
        "the sums of the coefficients' rows for those of their columns",
        {"weights_in_use": row_sums},
    ),
    Defect("OneLength", "PCG-1", "g_i·g_j over ‖g_i‖² for the cosine", {"cosines": first_length}),
    Defect("HeadsMean", "PCG-6", "weights of 1/K for the heads", {"head_weights": shares}),
)
"""Known wrong variants of PCGrad, those met in public code first."""
