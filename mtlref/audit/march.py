"""A run of many steps at once: what a method remembers at every row, from a guess and the steps' own answers.

The states of a run are the solution of x(t+1) = F_t(x(t)), F_t the method's step on row t. For any guess the steps
on all rows at once say by how much it fails, r(t) = F_t(x(t)) − x(t+1); the correction e(t+1) = a(t) e(t) + r(t),
with a(t) the slope of F_t, is Newton's method. The slopes are taken entry by entry, from a step on the guess moved
a little; that is all there is to a running mean, and elsewhere the iteration takes a round more. Of weights that are
divided by their sum the slopes do not know that an error of the sum is gone after one step; a step from what has been
corrected takes it away. What the iteration ends with is checked by the steps themselves: every F_t(x(t)) is x(t+1) to
a few roundings.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from mtlref.audit.lift import Trouble
from mtlref.audit.rows import followed, leaves, with_leaves
from mtlref.notation import Array

ROUNDS = 12
"""How many corrections are tried."""

RENEWED = (0, 1, 4, 8)
"""The corrections for which the slopes are taken anew: a running mean's are right once its count is."""

NEAR = 2.0**-50
"""How far a state may be from its step's answer at the end, in units of its column's size: four roundings."""

STEEPEST = 4.0
"""A slope above this is that of a sign which turned on the way, and says nothing of the rows beside it."""

NUDGE = 2.0**-20
"""By how much a guess is moved for its slope."""


def march(step: Callable[[Any], Any], start: Any, guess: Any, divided: bool = False) -> Any:
    """Return the states before each row, those of a run from `start`, one state; the first of `guess` is `start`.

    `step` takes the states before all rows to those after them; `divided`: it makes weights from weights, and may
    divide them by their sum. Errors: Trouble if no solution is found.
    """
    slopes: list[Array] = []
    for turn in range(ROUNDS):
        after = step(guess)
        reached = followed(start, after)
        now, aim = leaves(guess), leaves(reached)
        wrong = [b - a for a, b in zip(now, aim, strict=True)]
        if all(np.all(np.abs(r) <= NEAR * np.abs(b).max(initial=0.0)) for r, b in zip(wrong, aim, strict=True)):
            return reached
        if turn in RENEWED:
            slopes = slopes_of(step, guess, leaves(after))
        corrected = [x + scan(a, r) for x, a, r in zip(now, slopes, wrong, strict=True)]
        guess = with_leaves(guess, corrected)
        guess = followed(start, step(guess)) if divided else guess
    raise Trouble


def slopes_of(step: Callable[[Any], Any], guess: Any, after: list[Array]) -> list[Array]:
    """Return, leaf by leaf, how much of a small change of a state's entries a step hands on.

    The entries of a leaf are moved in turn up and down, which leaves their sum nearly as it is.
    """
    slopes, here = [], leaves(guess)
    for at, values in enumerate(here):
        if values.dtype.kind != "f" or not np.any(after[at] != values):
            slopes.append(np.ones_like(values, dtype=np.float64))
            continue
        signs = np.where(np.arange(values[0].size) % 2, -1.0, 1.0).reshape(values.shape[1:])
        size = NUDGE * np.max(np.abs(values), axis=tuple(range(1, values.ndim)), keepdims=True, initial=0.0)
        nudge = signs * np.where(size > 0, size, NUDGE)
        moved = leaves(step(with_leaves(guess, [*here[:at], values + nudge, *here[at + 1 :]])))
        slope = (moved[at] - after[at]) / nudge
        slopes.append(np.where(np.abs(slope) <= STEEPEST, slope, 1.0))
    return slopes


def scan(a: Array, r: Array) -> Array:
    """Return e with e(t) = a(t−1) e(t−1) + r(t), from e(0) = r(0), by doubling: log₂ n passes over all rows."""
    e, factor = r.astype(np.float64), np.empty_like(a)
    factor[0], factor[1:] = 0.0, a[:-1]
    reach = 1
    while reach < len(e):
        e[reach:] += factor[reach:] * e[:-reach]
        factor[reach:] *= factor[:-reach]
        reach *= 2
    return e
