"""Two small quadratic programs over the simplex, solved to rounding, with a certificate.

- `project_simplex` (QP-1): the point of {x ≥ 0, Σ x = s} nearest to a given one, by sorting.
- `minimum_norm` (QP-2): the weights of sum 1, above given bounds, that make the weighted sum of K gradients as
  short as possible.

The bounds are taken out first (QP-3): what remains is the point of least norm in the convex hull of K points. A
non-negative least-squares problem with one row more finds its support (QP-4). On a support the weights follow
from a least-squares problem in the differences of the points (QP-5); `refine` moves from support to support
until no point lies below the optimal plane (QP-6) by more than rounding (QP-7), which certifies the answer.
Where many weights give the one shortest sum, those with the shortest terms are returned (QP-8).

With bounds, rounding in QP-3 may decide the support. Where `mtlref.certificate` cannot prove that it did not (QP-9),
`mtlref.rationals` decides it.

The gradients enter as the Jacobian, or as the K×K factor that `compress` makes from it by QR. Their Gram matrix is
the square of the problem: for gradients within 1e-8 of opposite or parallel directions nothing of what tells them
apart is left in it. Without bounds, and where it proves that it holds digits enough (QP-10), `mtlref.cosines` reads
the weights from it in a tenth of the time.

SciPy is loaded when a problem is solved, not before. Derivation: derivations/qp.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from hashlib import blake2b

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mtlref.certificate import (
    EPS,
    Candidate,
    CertificateError,
    Hull,
    candidate,
    lengths_of,
    origin_and_others,
    support_margin,
)
from mtlref.contract import compress
from mtlref.cosines import well_apart
from mtlref.notation import Array, DomainError, NonFiniteError, ShapeError, equation, matrix, norms, real
from mtlref.rationals import MOST_TASKS, exact_optimum, exact_points, exact_square, rounded

RANK_TOLERANCE = 16 * EPS
"""QP-8 calls points affinely dependent up to this share of the largest singular value, times their number."""

EMPHASIS = 2.0**20
"""The factor on the equations of QP-8 beside the norm that they leave to be minimised."""

ROUNDS = 3
"""How often QP-8 is solved, the equations' residual being added to their right-hand side."""

NARROW = 32
"""A Jacobian of up to so many columns is not replaced by its factor, which would round it."""

LARGEST_RATIO = 500
"""Lengths up to 2 to this power are squared. Points shorter than the longest by more count as good as 0."""


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

    `jacobian` (K, D) or a factor that stands for it; `bounds` (K,): c, 0 unless given, with Σ c ≤ 1. With bounds, and
    up to `MOST_TASKS` distinct gradients, a support that rounding leaves in doubt (QP-9) is decided in rationals;
    beyond, the float64 answer stands with its certificate.
    Errors: ShapeError, DomainError; NonFiniteError if ‖Jᵀ w‖² is beyond float64; CertificateError if the answer
    misses its bound.
    """
    J = matrix("jacobian", jacobian, equation="QP-2")
    c, slack = (np.zeros(len(J)), 1.0) if bounds is None else shares(bounds, len(J))
    if not np.any(c) and (quick := well_apart(J)):
        found, square, exponent = quick
        return answer(found, found.a, square, exponent)
    first, group = equal_rows(J)
    counts = np.bincount(group)
    factor = compress(J) if J.shape[1] > max(len(J), NARROW) else J
    points, exponent = hull_points(factor, c, slack)
    hull = Hull(points[first], lengths_of(points[first]), counts, 4 * (len(J) + points.shape[1]) * EPS)
    if slack > 0:
        found = refine(hull, cone_weights(hull.points, hull.lengths))
        if np.any(c > 0) and len(first) <= MOST_TASKS:
            hull, found = decided(hull, found, np.ldexp(factor, -exponent), c, first)
        a = shortest_terms(hull, found)
        found = found if a is found.a else candidate(hull, a)
    else:
        found = candidate(hull, counts / len(J))
    worst = int(np.argmax(found.v - found.tau))
    if found.v[worst] > found.tau[worst]:
        task, v, tau = int(first[worst]), float(found.v[worst]), float(found.tau[worst])
        message = f"QP-6: task {task} lies below the optimal plane by {v:.3g}, beyond rounding, {tau:.3g}"
        raise CertificateError(message, argument="jacobian", task=task, value=v, equation="QP-6")
    d = found.a @ hull.points
    square = float(d @ d) if hull.exact is None else float(exact_square(hull.exact, found.a))
    return answer(found, slack * (found.a / counts)[group] + c, square, exponent)


def answer(found: Candidate, w: Array, square: float, exponent: int) -> MinimumNorm:
    """Return the weights `w`, ‖d‖² = `square` and the certificate, in the gradients' own units, 2^`exponent`."""
    steepest = int(np.argmax(found.v))
    values = np.array([square, max(float(found.v[steepest]), 0.0), found.tau[steepest]])
    with np.errstate(over="ignore", under="ignore"):
        objective, residual, allowed = (float(x) for x in np.ldexp(values, 2 * exponent))
    if not math.isfinite(objective):
        message = "QP-2: ‖Jᵀ w‖² is beyond the largest float64"
        raise NonFiniteError(message, argument="jacobian", value=objective, equation="QP-2")
    return MinimumNorm(w, objective, residual, allowed)


def shares(bounds: ArrayLike, K: int) -> tuple[Array, float]:
    """Return the checked bounds c (K,) and the slack 1 − Σ c, rounded once; 0 if Σ c is 1 to within its rounding.

    Errors: ShapeError, DomainError at the first bound outside [0, 1], or if Σ c > 1.
    """
    c = real("bounds", bounds, 1, "QP-2")
    if len(c) != K:
        message = f"bounds must have one entry a task, {K}; it has {len(c)}"
        raise ShapeError(message, argument="bounds", value=len(c), equation="QP-2")
    for task, bound in enumerate(c.tolist()):
        if not 0 <= bound <= 1:
            message = f"bounds[{task}] = {bound!r} must lie between 0 and 1 (needed by QP-2)"
            raise DomainError(message, argument="bounds", task=task, value=bound, equation="QP-2")
    total = math.fsum(c.tolist())
    if total > 1 + K * EPS:
        message = f"bounds add up to {total!r}; no weights of sum 1 lie above them (needed by QP-2)"
        raise DomainError(message, argument="bounds", value=total, equation="QP-2")
    return c, math.fsum([1.0, *(-c).tolist()]) if total < 1 else 0.0


def equal_rows(J: Array) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the first row (U,) of each group of equal rows, and for every row (K,) its group.

    Rows are equal if their bytes are, 0 and −0 being one number. Of wide rows that begin alike 512-bit digests are
    compared: no row is held twice, and none is compared with every other.
    """
    keys = [row.tobytes() for row in J[:, :NARROW] + 0.0]
    if J.shape[1] > NARROW and len(set(keys)) < len(keys):
        keys = [blake2b((row + 0.0).tobytes()).digest() for row in J]
    places = {key: place for place, key in enumerate(dict.fromkeys(keys))}
    group = np.array([places[key] for key in keys])
    return np.unique(group, return_index=True)[1] if len(places) < len(keys) else group, group


def hull_points(J: Array, c: Array, slack: float) -> tuple[Array, int]:
    """Return the points of QP-3 over a power of two, and its exponent: the shortest one's largest entry is 1 to 2.

    A power of two costs no digit. Lengths of 1e±150 then neither overflow nor vanish in d·d.
    """
    top = math.frexp(float(np.max(np.abs(J), initial=0.0)))[1]
    points = np.ldexp(J, -top)
    if np.any(c > 0):
        points = shifted_points(points, c, slack)
    sizes = np.max(np.abs(points), axis=1, initial=0.0)
    present = sizes[sizes > 0]
    if len(present) == 0:
        return points, top
    low = max(math.frexp(float(np.min(present)))[1], math.frexp(float(np.max(present)))[1] - LARGEST_RATIO)
    return np.ldexp(points, 1 - low), top + low - 1


@equation
def shifted_points(J: Array, c: Array, slack: float) -> Array:
    """QP-3: b_i = s g_i + Jᵀ c, s = 1 − Σ c: then Jᵀ w = Σ a_i b_i for w = s a + c, and a lies in the unit simplex.

    `J` (K, D), `c` (K,), `slack` = s; returns (K, D).
    """
    return slack * J + c @ J


@equation
def cone_weights(points: Array, lengths: Array) -> Array:
    """QP-4: a = y / Σ y, y = argmin ‖Σ y_i b_i‖² + σ² (Σ y_i − 1)² over y ≥ 0.

    `points` (K, D), `lengths` (K,): ‖b_i‖; returns (K,), in the unit simplex. σ is the least length of a point that
    is not 0. The columns (b_i, σ) are scaled to length 1. Where SciPy's solver does not end, the shortest point is
    the answer: `refine` goes on from there.
    """
    from scipy.optimize import nnls

    columns, unit = unit_columns(points, lengths)
    goal = np.zeros(len(columns))
    goal[-1] = 1.0
    try:
        y = nnls(columns, goal, maxiter=30 * len(points))[0] / unit
    except RuntimeError:
        y = np.zeros(len(points))
    total = float(np.sum(y))
    if total <= 0:
        y[int(np.argmin(unit))] = total = 1.0
    result: Array = y / total
    return result


@equation
def affine_weights(points: Array, support: NDArray[np.bool_], lengths: Array) -> Array:
    """QP-5: a = argmin ‖Σ a_i b_i‖² over Σ a = 1, a_i = 0 outside the support: a_r = 1 − Σ a_i, the others from
    the least squares of b_r + Σ_{i≠r} a_i (b_i − b_r).

    `points` (K, D), `support` (K,), `lengths` (K,); returns (K,), of either sign. b_r is the shortest point, so that
    no difference loses a shorter one's digits, and the differences are scaled to length 1.
    """
    origin, others = origin_and_others(support, lengths)
    differences = points[others] - points[origin]
    unit = lengths_of(differences)
    unit[unit == 0] = 1.0
    solution = np.linalg.lstsq((differences / unit[:, None]).T, -points[origin], rcond=None)[0]
    a = np.zeros(len(points))
    a[others] = solution / unit
    a[origin] = 1.0 - math.fsum(a[others].tolist())
    return a


def refine(hull: Hull, a: Array) -> Candidate:
    """Return the optimum on the unit simplex, from weights `a` in it (Wolfe's algorithm, started where QP-4 ended).

    On the support, the weights move to QP-5, or towards it until one of them is 0 and leaves. Then the point that
    lies farthest below the optimal plane (QP-6), beside its rounding (QP-7), joins, until none does by more than
    that. Each round lowers the objective, so no support is met twice; if one is, by rounding, the weights nearest to
    their certificate are the answer.
    """
    support, seen = a > 0, set[bytes]()
    best, least = None, math.inf
    while best is None or support.tobytes() not in seen:
        seen.add(support.tobytes())
        a = settle(hull, a, support)
        found = candidate(hull, a)
        below = np.where(a > 0, -math.inf, found.v / np.where(found.tau > 0, found.tau, 1.0))
        worst = int(np.argmax(below))
        if best is None or below[worst] < least:
            best, least = found, float(below[worst])
        if below[worst] <= 1:
            return found
        support = a > 0
        support[worst] = True
    return best


def settle(hull: Hull, a: Array, support: NDArray[np.bool_]) -> Array:
    """Return the weights of QP-5 on `support`, less the tasks whose weight reaches 0 on the way there from `a`."""
    support = support.copy()
    while np.count_nonzero(support) > 1:
        goal = affine_weights(hull.points, support, hull.lengths)
        leaving = support & (goal <= 0)
        if not leaving.any():
            return goal
        share = np.full(len(a), math.inf)
        share[leaving] = a[leaving] / np.maximum(a[leaving] - goal[leaving], np.finfo(np.float64).tiny)
        first = int(np.argmin(share))
        a = np.where(support, a + min(float(share[first]), 1.0) * (goal - a), 0.0)
        support[first] = False
        a = np.where(support, np.maximum(a, 0.0), 0.0)
    return support / np.count_nonzero(support)


def unit_columns(points: Array, lengths: Array) -> tuple[Array, Array]:
    """Return the matrix (D + 1, K) of columns (b_i, σ) scaled to length 1, and those lengths (K,).

    σ is the least length of a point that is not 0 (1 if all are).
    """
    sigma = float(np.min(lengths, where=lengths > 0, initial=math.inf))
    rows = np.empty((points.shape[0], points.shape[1] + 1))
    rows[:, :-1], rows[:, -1] = points, sigma if math.isfinite(sigma) else 1.0
    unit = np.hypot(lengths, rows[:, -1])
    return (rows / unit[:, None]).T, unit


def decided(hull: Hull, found: Candidate, J: Array, c: Array, first: NDArray[np.intp]) -> tuple[Hull, Candidate]:
    """Return the points and the optimum as they are, or, where its support is in doubt, both from rationals.

    It is in doubt if QP-9 does not prove it right; not so if ‖d‖ ≤ K ε ℓ, for then ‖d‖² itself is as small.
    `J` (K, D) and `c` (K,) are what `hull` was made from, `first` (U,) the rows that it kept.
    """
    if len(hull.points) == 1:
        return hull, found
    sizes = norms(J)
    sizes = float(1 - np.sum(c)) * sizes[first] + c @ sizes
    d = found.a @ hull.points
    if math.sqrt(d @ d) <= len(J) * EPS * (found.a @ sizes):
        return hull, found
    if support_margin(hull.points, found.a, sizes, hull.noise) > 0:
        return hull, found
    exact = exact_points(J, c)[first]
    points = rounded(exact)
    hull = hull._replace(points=points, lengths=lengths_of(points), exact=exact)
    return hull, candidate(hull, rounded(exact_optimum(exact)))


# TIES


@equation
def shortest_terms(hull: Hull, found: Candidate) -> Array:
    """QP-8: a' = argmin Σ_i ‖a'_i b_i‖² over Σ a' = 1, a' ≥ 0, Σ a'_i b_i = d: of all optima that of shortest terms.

    `hull` has one point for the n tasks of equal gradients, which share its weight equally: their squares add up to
    ‖a'_i b_i‖² / n. `found` is an optimum, its support affinely independent; returns (U,). Points b_i = 0 share the
    weight equally, if there are any. Otherwise only points on the optimal plane, v_i ≥ −τ_i, have a weight, and where
    those are affinely independent a' = a. Else a' is found by NNLS with the equations weighted by `EMPHASIS` and
    their residual added back, `ROUNDS` times in all; it is taken if no v_i is above τ_i and ‖Σ a'_i b_i‖² is ‖d‖² to
    within ν ‖d‖² + (ν m)², ν and m as in QP-7, compared in rationals.
    """
    lengths, counts, a = hull.lengths, hull.counts, found.a
    if np.min(lengths) == 0:
        zero = np.where(lengths == 0, counts, 0)
        return np.asarray(zero / np.sum(zero))
    face = np.flatnonzero(found.v >= -found.tau)
    if len(face) <= np.count_nonzero(a):
        return a
    columns, unit = unit_columns(hull.points[face], lengths[face])
    values = np.linalg.svd(columns, compute_uv=False)
    if np.count_nonzero(values > RANK_TOLERANCE * len(face) * values[0]) == len(face):
        return a
    terms = emphasised(columns, a[face] * unit, lengths[face] / (np.sqrt(counts[face]) * unit))
    if terms is None:
        return a
    other = np.zeros(len(a))
    other[face] = terms / unit
    other /= math.fsum(other.tolist())
    after = candidate(hull, other)
    return a if np.any(after.v > after.tau) or longer(hull, other, a) else other


def longer(hull: Hull, other: Array, a: Array) -> bool:
    """Return whether ‖Σ a'_i b_i‖² exceeds ‖Σ a_i b_i‖² by more than QP-8 allows, `other` being a'."""
    points = hull.points if hull.exact is None else hull.exact
    before, m = exact_square(points, a), float(max(a @ hull.lengths, other @ hull.lengths))
    allowed = Fraction(hull.noise) * before + Fraction(hull.noise * m) ** 2
    return exact_square(points, other) - before > allowed


def emphasised(columns: Array, start: Array, penalty: Array) -> Array | None:
    """Return argmin Σ (penalty_i y_i)² over y ≥ 0 with the same Σ y_i column_i as `start` ≥ 0 has.

    None if SciPy's solver does not end.
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
    return y
