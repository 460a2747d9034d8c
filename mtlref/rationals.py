"""The minimum-norm point of a few gradients in rational arithmetic, for `mtlref.qp` where rounding leaves doubt.

A float64 is a rational, and sums, products and quotients of rationals are exact. So the support that Wolfe's
algorithm finds here is the optimal one, and only the result is rounded. That costs time that grows fast with K;
`MOST_TASKS` says up to where it is spent.

Nothing here is shared with `mtlref.exact`, which enumerates the supports: the tests compare the two.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from mtlref.notation import Array

Rationals = NDArray[np.object_]
"""An array of Fractions."""

MOST_TASKS = 12
"""The distinct gradients up to which a support is decided in rationals.

That takes some 10 ms for 6 of them, 50 ms for 12, half a second for 24; what is beyond is left to float64.
"""


def rational(values: Array | Rationals) -> Rationals:
    """Return the values as Fractions, which are exact."""
    return np.asarray(np.frompyfunc(Fraction, 1, 1)(values), dtype=object)


def rounded(values: Rationals) -> Array:
    """Return the float64 nearest to each value."""
    return np.asarray(values, dtype=np.float64)


def exact_points(J: Array, c: Array) -> Rationals:
    """Return the points b_i = s g_i + Jᵀ c of QP-3, s = 1 − Σ c, without rounding. `J` (K, D), `c` (K,)."""
    rows, low = rational(J), rational(c)
    return np.asarray((1 - sum(low)) * rows + low @ rows, dtype=object)


def exact_optimum(points: Rationals) -> Rationals:
    """Return a = argmin ‖Σ a_i b_i‖² over Σ a = 1, a ≥ 0, without rounding, by Wolfe's algorithm.

    `points` (K, D); returns (K,), with an affinely independent support. It starts at the shortest point. On the
    support the weights move to those of least norm over Σ a = 1, or as far as the signs allow, and who reaches 0
    leaves; then the point farthest below the optimal plane joins. 1 is added to every b_i·b_j. Over Σ a = 1 that adds
    1 to what is minimised, and on affinely independent points it makes the matrix positive definite: so the weights
    of least norm are the solution of matrix · y = 1, divided by Σ y, and elimination needs no exchange of rows.
    """
    gram = points @ points.T + Fraction(1)
    a, support = rational(np.zeros(len(points))), np.array([np.argmin(gram.diagonal())])
    while True:
        goal = rational(np.zeros(len(a)))
        goal[support] = least_weights(gram[np.ix_(support, support)])
        share = min([Fraction(1), *(a[i] / (a[i] - goal[i]) for i in support if goal[i] < 0)])
        a = a + share * (goal - a)
        support = np.flatnonzero(a > 0)
        if share < 1:
            continue
        slopes = gram @ a
        if min(slopes) == slopes[support[0]]:
            return np.asarray(a, dtype=object)
        support = np.append(support, np.argmin(slopes))


def least_weights(gram: Rationals) -> Rationals:
    """Return y / Σ y with `gram` · y = 1, by Gauss-Jordan elimination. `gram` (k, k) is positive definite."""
    system = np.column_stack([gram, rational(np.ones(len(gram)))])
    for k in range(len(gram)):
        row = system[k] / system[k, k]
        system = system - np.outer(system[:, k], row)
        system[k] = row
    y = system[:, -1]
    return np.asarray(y / sum(y), dtype=object)


def exact_residuals(points: Rationals, a: Array | Rationals) -> Rationals:
    """Return v_i = d·d − d·b_i of QP-6, d = Σ a_i b_i, without rounding."""
    d = rational(a) @ points
    return np.asarray(d @ d - points @ d, dtype=object)


def exact_square(points: Array | Rationals, a: Array) -> Fraction:
    """Return ‖Σ a_i b_i‖² without rounding: in float64, gradients that nearly cancel leave too few digits of it."""
    used = a > 0
    d = rational(a[used]) @ rational(points[used])
    return Fraction(d @ d)
