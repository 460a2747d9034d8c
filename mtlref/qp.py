"""Two small quadratic programs over the simplex, solved to rounding, with a certificate.

- `project_simplex` (QP-1): the point of {x ≥ 0, Σ x = s} nearest to a given one, by sorting.
- `minimum_norm` (QP-2): the weights of sum 1, above given bounds, that make the weighted sum of K gradients as
  short as possible.

The bounds are taken out first (QP-3): what remains is the point of least norm in the convex hull of K points. A
non-negative least-squares problem with one row more finds its support (QP-4). On a support the weights follow
from a least-squares problem in the differences of the points (QP-5); `refine` moves from support to support
until no point lies below the optimal plane (QP-6) by more than rounding (QP-7), which certifies the answer.
Where many weights give the one shortest sum, those with the shortest terms are returned (QP-8).

The gradients enter as the Jacobian, or as the K×K factor that `compress` makes from it by QR, never as their
Gram matrix: that is the square of the problem, and for gradients within 1e-8 of opposite or parallel directions
nothing of what tells them apart is left in it.

SciPy is loaded when a problem is solved, not before. Derivation: derivations/qp.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mtlref.contract import compress
from mtlref.notation import Array, DomainError, MtlrefError, NonFiniteError, ShapeError, equation, matrix, norms, real

EPS = float(np.finfo(np.float64).eps)
"""The distance from 1 to the next float64, 2⁻⁵²."""

RANK_TOLERANCE = 16 * EPS
"""QP-8 calls points affinely dependent up to this share of the largest singular value, times their number."""

EMPHASIS = 2.0**20
"""The factor on the equations of QP-8 beside the norm that they leave to be minimised."""

ROUNDS = 3
"""How often QP-8 is solved, the equations' residual being added to their right-hand side."""

LARGEST_RATIO = 500
"""Lengths up to 2 to this power are squared. Points shorter than the longest by more count as good as 0."""


class CertificateError(MtlrefError):
    """A solver's answer misses the bound on its optimality conditions: it is not handed out."""


@dataclass(frozen=True)
class MinimumNorm:
    """The answer of `minimum_norm`.

    `weights` (K,): w; `objective`: ‖Jᵀ w‖²; `residual`: max_i (d·d − d·b_i)₊, QP-6; `rounding`: what that residual
    may be of an exact answer, QP-7, at the task where it is largest. `objective` − minimum ≤ 2 `residual`.
    """

    weights: Array
    objective: float
    residual: float
    rounding: float


# SIMPLEX PROJECTION


@equation
def project_simplex(v: Array, total: float) -> Array:
    """QP-1: x = argmin ‖x − v‖² over {x ≥ 0, Σ x = s}: x_i = max(v_i − θ, 0), with the θ that gives Σ x = s.

    `v` (K,), `total` = s ≥ 0; returns (K,). With u the entries of v in falling order, θ = (u_1 + … + u_k − s) / k for
    the last k with k u_k ≥ u_1 + … + u_k − s. The largest entry is subtracted first, which changes nothing but the
    rounding.
    """
    shifted = v - np.max(v)
    falling = -np.sort(-shifted)
    excess = np.cumsum(falling) - total
    counts = np.arange(1, len(v) + 1)
    k = int(np.flatnonzero(counts * falling >= excess)[-1])
    theta = excess[k] / counts[k]
    return np.asarray(np.maximum(shifted - theta, 0.0))


# MINIMUM NORM


def minimum_norm(jacobian: ArrayLike, bounds: ArrayLike | None = None) -> MinimumNorm:
    """QP-2: w = argmin ‖Jᵀ w‖² over Σ w = 1, w ≥ c; of many, that of QP-8.

    `jacobian` (K, D) or a factor that stands for it; `bounds` (K,): c, 0 unless given, with Σ c ≤ 1.
    Errors: ShapeError, DomainError; NonFiniteError if ‖Jᵀ w‖² is beyond float64; CertificateError if the answer
    misses its bound.
    """
    J = matrix("jacobian", jacobian, equation="QP-2")
    K = len(J)
    c, slack = shares(np.zeros(K) if bounds is None else bounds, K)
    points, unit = hull_points(compress(J) if J.shape[1] > K else J, c, slack)
    a = np.full(K, 1 / K)
    if slack > 0:
        a = shared(J, points, shortest_terms(points, refine(points, cone_weights(points))))
    v, tau = residuals(points, a), rounding(points, a)
    worst = int(np.argmax(v - tau))
    if v[worst] > tau[worst]:
        message = (
            f"QP-6: task {worst} lies below the optimal plane by {v[worst]:.3g}, beyond rounding, {tau[worst]:.3g}"
        )
        raise CertificateError(message, argument="jacobian", task=worst, value=float(v[worst]), equation="QP-6")
    d = a @ points
    values = np.array([d @ d, max(float(np.max(v)), 0.0), tau[int(np.argmax(v))]])
    with np.errstate(over="ignore", under="ignore"):
        objective, residual, allowed = (float(x) for x in values * unit * unit)
    if not math.isfinite(objective):
        message = "QP-2: ‖Jᵀ w‖² is beyond the largest float64"
        raise NonFiniteError(message, argument="jacobian", value=objective, equation="QP-2")
    return MinimumNorm(slack * a + c, objective, residual, allowed)


def shares(bounds: ArrayLike, K: int) -> tuple[Array, float]:
    """Return the checked bounds c (K,) and the slack 1 − Σ c; a sum above 1 by rounding alone counts as 1.

    Errors: ShapeError, DomainError at the first bound outside [0, 1], or if Σ c > 1.
    """
    c = real("bounds", bounds, 1, "QP-2")
    if len(c) != K:
        message = f"bounds must have one entry a task, {K}; it has {len(c)}"
        raise ShapeError(message, argument="bounds", value=len(c), equation="QP-2")
    for task, bound in enumerate(c):
        if not 0 <= bound <= 1:
            message = f"bounds[{task}] = {float(bound)!r} must lie between 0 and 1 (needed by QP-2)"
            raise DomainError(message, argument="bounds", task=task, value=float(bound), equation="QP-2")
    total = math.fsum(c)
    if total > 1 + K * EPS:
        message = f"bounds add up to {total!r}; no weights of sum 1 lie above them (needed by QP-2)"
        raise DomainError(message, argument="bounds", value=total, equation="QP-2")
    return c, max(0.0, 1 - total)


def hull_points(J: Array, c: Array, slack: float) -> tuple[Array, float]:
    """Return the points of QP-3 divided by a power of two, and that power: the shortest point has length 1 to 2.

    A power of two costs no digit. Lengths of 1e±150 then neither overflow nor vanish in d·d.
    """
    largest = float(np.max(np.abs(J), initial=0.0))
    top = math.frexp(largest)[1]
    points = shifted_points(np.ldexp(J, -top), c, slack)
    lengths = norms(points)
    present = lengths[lengths > 0]
    if len(present) == 0:
        return points, math.ldexp(1.0, top)
    low = max(math.frexp(float(np.min(present)))[1], math.frexp(float(np.max(present)))[1] - LARGEST_RATIO)
    return np.ldexp(points, 1 - low), math.ldexp(1.0, top + low - 1)


@equation
def shifted_points(J: Array, c: Array, slack: float) -> Array:
    """QP-3: b_i = s g_i + Jᵀ c, s = 1 − Σ c: then Jᵀ w = Σ a_i b_i for w = s a + c, and a lies in the unit simplex.

    `J` (K, D), `c` (K,), `slack` = s; returns (K, D).
    """
    return slack * J + c @ J


@equation
def cone_weights(points: Array) -> Array:
    """QP-4: a = y / Σ y, y = argmin ‖Σ y_i b_i‖² + σ² (Σ y_i − 1)² over y ≥ 0.

    `points` (K, D); returns (K,), in the unit simplex. σ is the least length of a point that is not 0. The columns
    (b_i, σ) are scaled to length 1. Where SciPy's solver does not end, the shortest point is the answer: `refine`
    goes on from there.
    """
    from scipy.optimize import nnls

    columns, unit = unit_columns(points)
    goal = np.zeros(len(columns))
    goal[-1] = 1.0
    try:
        y = nnls(columns, goal, maxiter=30 * len(points))[0] / unit
    except RuntimeError:
        y = np.zeros(len(points))
    if np.sum(y) <= 0:
        y[int(np.argmin(unit))] = 1.0
    result: Array = y / np.sum(y)
    return result


@equation
def affine_weights(points: Array, support: NDArray[np.bool_]) -> Array:
    """QP-5: a = argmin ‖Σ a_i b_i‖² over Σ a = 1, a_i = 0 outside the support: a_r = 1 − Σ a_i, the others from
    the least squares of b_r + Σ_{i≠r} a_i (b_i − b_r).

    `points` (K, D), `support` (K,); returns (K,), of either sign. b_r is the shortest point, so that no difference
    loses a shorter one's digits, and the differences are scaled to length 1.
    """
    inside = np.flatnonzero(support)
    origin = inside[np.argmin(lengths_of(points[inside]))]
    others = inside[inside != origin]
    differences = points[others] - points[origin]
    unit = lengths_of(differences)
    unit[unit == 0] = 1.0
    solution = np.linalg.lstsq((differences / unit[:, None]).T, -points[origin], rcond=None)[0]
    a = np.zeros(len(points))
    a[others] = solution / unit
    a[origin] = 1.0 - math.fsum(a)
    return a


def refine(points: Array, a: Array) -> Array:
    """Return the optimum on the unit simplex, from weights `a` in it (Wolfe's algorithm, started where QP-4 ended).

    On the support, the weights move to QP-5, or towards it until one of them is 0 and leaves. Then the point that
    lies farthest below the optimal plane (QP-6), beside its rounding (QP-7), joins, until none does by more than
    that. Each round lowers the objective, so no support is met twice; if one is, by rounding, the weights nearest to
    their certificate are the answer.
    """
    support, seen = a > 0, set[bytes]()
    best, least = a, math.inf
    while support.tobytes() not in seen:
        seen.add(support.tobytes())
        a = settle(points, a, support)
        v, tau = residuals(points, a), rounding(points, a)
        below = np.where(a > 0, -math.inf, v / np.where(tau > 0, tau, 1.0))
        worst = int(np.argmax(below))
        if below[worst] < least:
            best, least = a, float(below[worst])
        if below[worst] <= 1:
            return a
        support = a > 0
        support[worst] = True
    return best


def settle(points: Array, a: Array, support: NDArray[np.bool_]) -> Array:
    """Return the weights of QP-5 on `support`, less the tasks whose weight reaches 0 on the way there from `a`."""
    support = support.copy()
    while np.count_nonzero(support) > 1:
        goal = affine_weights(points, support)
        if np.all(goal[support] > 0):
            return goal
        leaving = support & (goal <= 0)
        share = np.full(len(a), math.inf)
        share[leaving] = a[leaving] / np.maximum(a[leaving] - goal[leaving], np.finfo(np.float64).tiny)
        first = int(np.argmin(share))
        a = np.where(support, a + min(float(share[first]), 1.0) * (goal - a), 0.0)
        support[first] = False
        a = np.where(support, np.maximum(a, 0.0), 0.0)
    return support / np.count_nonzero(support)


def lengths_of(points: Array) -> Array:
    """Return ‖b_i‖ (K,); the lengths are at most about 2^`LARGEST_RATIO`, so that their squares are finite."""
    with np.errstate(under="ignore"):
        return np.asarray(np.sqrt(np.einsum("kd,kd->k", points, points)))


# CERTIFICATE


@equation
def residuals(points: Array, a: Array) -> Array:
    """QP-6: v_i = d·d − d·b_i, d = Σ a_i b_i: a is optimal exactly if no v_i is above 0.

    `points` (K, D), `a` (K,) in the unit simplex; returns (K,). ‖d‖² − minimum ≤ 2 max_i v_i.
    """
    d = a @ points
    return np.asarray(d @ d - points @ d)


@equation
def rounding(points: Array, a: Array) -> Array:
    """QP-7: τ_i = 4 (K + D) ε m (m + ‖b_i‖), m = Σ_j a_j ‖b_j‖: up to here v_i may be rounding alone.

    `points` (K, D) with D ≤ K, `a` (K,); returns (K,). ε = 2⁻⁵². Half of it is the rounding of d and of its inner
    products, half that of the least squares which gave a.
    """
    lengths = lengths_of(points)
    m = float(a @ lengths)
    return np.asarray(4 * sum(points.shape) * EPS * m * (m + lengths))


# TIES


@equation
def shortest_terms(points: Array, a: Array) -> Array:
    """QP-8: a' = argmin Σ_i ‖a'_i b_i‖² over Σ a' = 1, a' ≥ 0, Σ a'_i b_i = d: of all optima that of shortest terms.

    `points` (K, D), `a` (K,) an optimum; returns (K,). Points b_i = 0 share the weight equally, if there are any.
    Otherwise only points on the optimal plane, v_i ≥ −τ_i, have a weight, and where those are affinely independent
    a' = a. Else a' is found by NNLS with the equations weighted by `EMPHASIS` and their residual added back, `ROUNDS`
    times in all, and corrected on its support by least squares; it is taken if ‖Σ a'_i b_i‖² is ‖d‖²
    to within n ‖d‖² + (n m)², n = 4 (K + D) ε, m as in QP-7, compared in rationals.
    """
    lengths = lengths_of(points)
    if np.min(lengths) == 0:
        return np.asarray((lengths == 0) / np.count_nonzero(lengths == 0))
    face = np.flatnonzero(residuals(points, a) >= -rounding(points, a))
    columns, unit = unit_columns(points[face])
    values = np.linalg.svd(columns, compute_uv=False)
    if np.count_nonzero(values > RANK_TOLERANCE * len(face) * values[0]) == len(face):
        return a
    terms = emphasised(columns, a[face] * unit, lengths[face] / unit)
    if terms is None:
        return a
    shortest = np.zeros(len(a))
    shortest[face] = terms / unit
    shortest /= math.fsum(shortest)
    before, noise = exact_square(points, a), 4 * sum(points.shape) * EPS
    allowed = Fraction(noise) * before + Fraction(noise * float(max(a @ lengths, shortest @ lengths))) ** 2
    return shortest if exact_square(points, shortest) - before <= allowed else a


def exact_square(points: Array, a: Array) -> Fraction:
    """Return ‖Σ a_i b_i‖² without rounding: in float64, gradients that nearly cancel leave too few digits of it."""
    weights = [Fraction(x) for x in a.tolist()]
    return Fraction(
        sum(sum(w * Fraction(x) for w, x in zip(weights, column, strict=True)) ** 2 for column in points.T.tolist())
    )


def emphasised(columns: Array, start: Array, penalty: Array) -> Array | None:
    """Return argmin Σ (penalty_i y_i)² over y ≥ 0 with the same Σ y_i column_i as `start` ≥ 0 has.

    The correction is on the support of y and of `start`: what one of them leaves, the other can take up. None if
    SciPy's solver does not end.
    """
    from scipy.optimize import nnls

    wanted = columns @ start
    system = np.vstack([EMPHASIS * columns, np.diag(penalty)])
    shift = np.zeros(len(wanted))
    try:
        for _ in range(ROUNDS):
            goal = np.concatenate([EMPHASIS * (wanted + shift), np.zeros(len(penalty))])
            y: Array = nnls(system, goal, maxiter=30 * len(penalty))[0]
            shift = shift + wanted - columns @ y
    except RuntimeError:
        return None
    positive = (y > 0) | (start > 0)
    y[positive] += np.linalg.lstsq(columns[:, positive], wanted - columns @ y, rcond=None)[0]
    return np.maximum(y, 0.0)


def shared(J: Array, points: Array, a: Array) -> Array:
    """Return `a` with equal weights on equal gradients: what QP-8 says of them, whatever else is nearly dependent."""
    apart = lengths_of((points[:, None, :] - points[None, :, :]).reshape(-1, points.shape[1])).reshape(len(a), len(a))
    near = np.argwhere(np.triu(apart <= RANK_TOLERANCE * len(a) * lengths_of(points), 1))
    group = np.arange(len(a))
    for i, j in near:
        if np.array_equal(J[i], J[j]):
            group[j] = group[i]
    sums = np.bincount(group, weights=a, minlength=len(a))
    return np.asarray(sums[group] / np.bincount(group, minlength=len(a))[group])


def unit_columns(points: Array) -> tuple[Array, Array]:
    """Return the matrix (D + 1, K) of columns (b_i, σ) scaled to length 1, and those lengths (K,).

    σ is the least length of a point that is not 0 (1 if all are).
    """
    lengths = lengths_of(points)
    sigma = np.min(lengths[lengths > 0]) if np.any(lengths > 0) else 1.0
    rows = np.column_stack([points, np.full(len(points), sigma)])
    unit = lengths_of(rows)
    return (rows / unit[:, None]).T, unit
