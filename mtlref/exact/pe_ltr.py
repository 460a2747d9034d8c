"""PE-LTR (Lin et al., RecSys 2019) in rational arithmetic: the published two steps, and the true optimum.

The weights w = x + c with x >= 0 and sum(x) = s, s = 1 - sum(c), should minimise ||sum_i w_i g_i||^2. With the
Gram matrix A of the gradients, which is all that counts:

1. `relaxed`: the minimum without x >= 0, from the linear system A w_hat + lambda 1 = -A c, sum(w_hat) = s. It
   always has a solution, a convex function that is bounded below on a plane having a minimum there. Where it
   has many, w_hat is the one of least Euclidean norm; lambda is the same for all of them, -||J^T (w_hat + c)||^2.
2. `project`: the point of {x >= 0, sum(x) = s} that is nearest to w_hat.

The optimum comes from the supports, one after the other (`optimum`). On a support S the minimum without x >= 0
is found as in 1; it is the optimum if x >= 0 and no coordinate outside S would lower the objective, that is
(A w)_i >= (A w)_S for all i. By Carathéodory's theorem some optimum has a support of affinely independent
gradients, so supports on which the linear system is singular can be skipped.

All optima have the same gradient J^T w (the objective is strictly convex in it). So they are the x >= 0 with
sum(x) = s and A x = A x* for any one of them, x*. Of these the one with the least sum_i ||x_i b_i||^2 is
returned, b_i = s g_i + J^T c, and if some b_i are 0 they share s equally. Again supports are gone through: on
the support of the sought x, x is the solution of least such norm of those equations.

Singular systems are recognised exactly, for every number is a rational.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import combinations
from typing import TypedDict

from mtlref.exact import Number, UndefinedError, fractions

Vector = tuple[Fraction, ...]
Rows = Sequence[Sequence[Fraction]]

MOST_TASKS = 10
"""The tasks up to which supports are enumerated: there are 2^K - 1 of them."""


class Step(TypedDict):
    """Everything one step computes; `w_hat` and `multiplier` are those of the relaxed problem for either solver."""

    gram: tuple[Vector, ...]
    w_hat: Vector
    multiplier: Fraction
    w_tilde: Vector
    objective: Fraction
    kkt_residual: Fraction
    w_next: Vector


def step(
    gradients: Sequence[Sequence[Number]], bounds: Sequence[Number] | None = None, *, solver: str = "published"
) -> Step:
    """Return the weights that follow from the task gradients (K rows) and the bounds c (0 unless given).

    `solver` is "published", the two steps, or "exact", the optimum. Errors: ValueError where the arguments
    disagree, UndefinedError for bounds that no weights meet.
    """
    if solver not in ("published", "exact"):
        raise ValueError(f"solver = {solver!r} must be 'published' or 'exact'")
    A = gram(gradients)
    c, slack = shares(bounds, len(A))
    w_hat, multiplier = relaxed(A, c, slack)
    w_tilde = project(w_hat, slack) if solver == "published" else optimum(A, c, slack)
    w = plus(w_tilde, c)
    return Step(
        gram=A,
        w_hat=w_hat,
        multiplier=multiplier,
        w_tilde=w_tilde,
        objective=form(A, w),
        kkt_residual=kkt_residual(A, w_tilde, c, slack),
        w_next=w,
    )


def shares(bounds: Sequence[Number] | None, K: int) -> tuple[Vector, Fraction]:
    """Return the bounds c and what they leave, 1 - sum(c); a sum above 1 by no more than rounding counts as 1."""
    c = (Fraction(0),) * K if bounds is None else fractions(bounds)
    if len(c) != K or K == 0:
        raise ValueError(f"bounds has {len(c)} tasks and gradients {K}; both need the same, at least 1")
    slack = 1 - sum(c, Fraction(0))
    if min(c) < 0 or slack < -Fraction(K, 2**52):
        raise UndefinedError("no weights of sum 1 meet the bounds: they must not be negative, nor add up to above 1")
    return c, max(slack, Fraction(0))


# EQUATIONS


def gram(gradients: Sequence[Sequence[Number]]) -> tuple[Vector, ...]:
    """Return A_ij = g_i . g_j."""
    rows = [fractions(row) for row in gradients]
    if len({len(row) for row in rows}) != 1:
        raise ValueError("gradients must have one row a task, all of the same length")
    return tuple(tuple(dot(a, b) for b in rows) for a in rows)


def relaxed(A: Rows, c: Vector, slack: Fraction) -> tuple[Vector, Fraction]:
    """Return (w_hat, lambda) with A w_hat + lambda 1 = -A c and sum(w_hat) = slack, w_hat of least norm."""
    K = len(A)
    system = [[*row, Fraction(1)] for row in A] + [[Fraction(1)] * K + [Fraction(0)]]
    right = [-value for value in times(A, c)] + [slack]
    solution, null = solve(system, right)
    w_hat = least_norm(solution[:K], [vector[:K] for vector in null], (Fraction(1),) * K)
    return w_hat, -form(A, plus(w_hat, c))


def project(v: Sequence[Fraction], total: Fraction) -> Vector:
    """Return the x >= 0 with sum(x) = total that is nearest to v: max(v - theta, 0) with the theta of that sum.

    theta is found by setting it for the k largest entries, k = 1, 2, ..., until the next entry is below it.
    """
    falling = sorted(v, reverse=True)
    for k in range(1, len(falling) + 1):
        theta = (sum(falling[:k], Fraction(0)) - total) / k
        if k == len(falling) or falling[k] <= theta:
            break
    return tuple(max(value - theta, Fraction(0)) for value in v)


def kkt_residual(A: Rows, w_tilde: Vector, c: Vector, slack: Fraction) -> Fraction:
    """Return the largest of 0 and d . d - d . b_i, with d = J^T (w_tilde + c) and b_i = slack g_i + J^T c."""
    slope = times(A, plus(w_tilde, c))
    return max(Fraction(0), dot(slope, w_tilde) - slack * min(slope))


# THE OPTIMUM


def optimum(A: Rows, c: Vector, slack: Fraction) -> Vector:
    """Return the x >= 0 with sum(x) = slack that minimises ||J^T (x + c)||^2, of the many by `least_optimum`."""
    K = len(A)
    if K > MOST_TASKS:
        raise UndefinedError(f"supports are enumerated for at most {MOST_TASKS} tasks; there are {K}")
    if slack == 0:
        return (Fraction(0),) * K
    lengths = squares(A, c, slack)
    if min(lengths) == 0:
        return tuple(slack / lengths.count(Fraction(0)) if length == 0 else Fraction(0) for length in lengths)
    x = any_optimum(A, c, slack)
    slope = times(A, plus(x, c))
    face = [i for i in range(K) if slope[i] == min(slope)]
    if len(solve(*on(A, c, face, slack))[1]) == 0:
        return x
    return least_optimum(A, x, face, lengths)


def squares(A: Rows, c: Vector, slack: Fraction) -> Vector:
    """Return ||b_i||^2 for b_i = slack g_i + J^T c."""
    shift, common = times(A, c), form(A, c)
    return tuple(slack * slack * A[i][i] + 2 * slack * shift[i] + common for i in range(len(A)))


def any_optimum(A: Rows, c: Vector, slack: Fraction) -> Vector:
    """Return an optimum whose support is affinely independent: the first that meets the optimality conditions."""
    for support in supports(range(len(A))):
        solution, null = solve(*on(A, c, support, slack))
        if null or min(solution[: len(support)]) < 0:
            continue
        x = spread(solution, support, len(A))
        slope = times(A, plus(x, c))
        if min(slope) == slope[support[0]]:
            return x
    raise AssertionError("a convex function on a simplex has a minimum")


def least_optimum(A: Rows, x: Vector, face: Sequence[int], lengths: Vector) -> Vector:
    """Return the y >= 0 on `face` with sum(y) = sum(x) and A y = A x that has the least sum_i lengths_i y_i^2."""
    right = [*times(A, x), sum(x, Fraction(0))]
    best = x
    for support in supports(face):
        system = [[row[j] for j in support] for row in A] + [[Fraction(1)] * len(support)]
        try:
            solution, null = solve(system, right)
        except UndefinedError:
            continue
        y = spread(least_norm(solution, null, [lengths[j] for j in support]), support, len(A))
        if min(y) >= 0 and dot(times_each(lengths, y), y) < dot(times_each(lengths, best), best):
            best = y
    return best


def on(A: Rows, c: Vector, support: Sequence[int], slack: Fraction) -> tuple[list[list[Fraction]], list[Fraction]]:
    """Return the linear system of `relaxed` for weights that are 0 outside `support`."""
    shift = times(A, c)
    system = [[*(A[i][j] for j in support), Fraction(1)] for i in support]
    system.append([Fraction(1)] * len(support) + [Fraction(0)])
    return system, [-shift[i] for i in support] + [slack]


def supports(tasks: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """Yield the non-empty subsets of `tasks`, small ones first."""
    for size in range(1, len(tasks) + 1):
        yield from combinations(tasks, size)


def spread(values: Sequence[Fraction], support: Sequence[int], K: int) -> Vector:
    """Return the K values that are 0 outside `support`."""
    inside = dict(zip(support, values, strict=False))
    return tuple(inside.get(i, Fraction(0)) for i in range(K))


# LINEAR ALGEBRA


def solve(system: Rows, right: Sequence[Fraction]) -> tuple[Vector, list[Vector]]:
    """Return a solution of the linear system, and a basis of the null space, by Gauss-Jordan elimination.

    Errors: UndefinedError if there is no solution.
    """
    rows = [[*row, value] for row, value in zip(system, right, strict=True)]
    wide = len(rows[0]) - 1
    pivots: list[int] = []
    for column in range(wide):
        at = next((r for r in range(len(pivots), len(rows)) if rows[r][column] != 0), None)
        if at is None:
            continue
        top = len(pivots)
        rows[top], rows[at] = rows[at], rows[top]
        lead = rows[top][column]
        rows[top] = [value / lead for value in rows[top]]
        for r in range(len(rows)):
            factor = rows[r][column]
            if r != top and factor != 0:
                rows[r] = [a - factor * b for a, b in zip(rows[r], rows[top], strict=True)]
        pivots.append(column)
    if any(row[wide] != 0 for row in rows[len(pivots) :]):
        raise UndefinedError("the linear system has no solution")
    solution = [Fraction(0)] * wide
    for r, column in enumerate(pivots):
        solution[column] = rows[r][wide]
    return tuple(solution), [null_vector(rows, pivots, free, wide) for free in range(wide) if free not in pivots]


def null_vector(rows: Rows, pivots: Sequence[int], free: int, wide: int) -> Vector:
    """Return the null vector of a reduced system that has a 1 at `free` and 0 at the other free columns."""
    vector = [Fraction(0)] * wide
    vector[free] = Fraction(1)
    for r, column in enumerate(pivots):
        vector[column] = -rows[r][free]
    return tuple(vector)


def least_norm(solution: Sequence[Fraction], null: Sequence[Vector], q: Sequence[Fraction]) -> Vector:
    """Return the x of least sum_i q_i x_i^2, q > 0, in solution + span(null), whose vectors are independent."""
    if not null:
        return tuple(solution)
    weighted = [times_each(q, vector) for vector in null]
    square = [[dot(a, b) for b in null] for a in weighted]
    shares, _ = solve(square, [-dot(a, solution) for a in weighted])
    moves = [sum((s * a[i] for s, a in zip(shares, null, strict=True)), Fraction(0)) for i in range(len(solution))]
    return plus(solution, moves)


def times_each(a: Sequence[Fraction], b: Sequence[Fraction]) -> Vector:
    """Return a_i b_i."""
    return tuple(x * y for x, y in zip(a, b, strict=True))


def dot(a: Sequence[Fraction], b: Sequence[Fraction]) -> Fraction:
    """Return a . b."""
    return sum((x * y for x, y in zip(a, b, strict=True)), Fraction(0))


def times(A: Rows, x: Sequence[Fraction]) -> Vector:
    """Return A x."""
    return tuple(dot(row, x) for row in A)


def form(A: Rows, x: Sequence[Fraction]) -> Fraction:
    """Return x . A x."""
    return dot(x, times(A, x))


def plus(a: Sequence[Fraction], b: Sequence[Fraction]) -> Vector:
    """Return a + b."""
    return tuple(x + y for x, y in zip(a, b, strict=True))
