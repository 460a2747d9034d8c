"""GradNorm's L(0), of a log that begins after its run did: what the signs of its steps allow.

L(0) is seen in the signs of G_i − T_i alone (GN-6), and with α and the rate given each step shows its signs: for some
c > 0, w_i − η ∂_i = c w_i(t+1) for all tasks at once (GN-7). Now with y = 1/L(0)

    G_i > Ḡ r_i^α  ⇔  (G_i/Ḡ)^{1/α} (1/K) Σ_j L_j y_j > L_i y_i    (GN-3, GN-4),    which is linear in y.

So what is possible is a cone, and the y in it that is farthest from all its faces is found by linear programming:
from the faces of the first rows, then with those of later rows that it lies beyond. Only the ratios of L(0) count.
Where a rate is upside down, −α for α, the inequality is turned.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from mtlref.audit.inference.family import SEARCHED, beginning, finite_rows, off
from mtlref.audit.readers import Log, part
from mtlref.audit.replay import logged_weights, numbers_of
from mtlref.audit.spool import spans
from mtlref.methods import GradNorm
from mtlref.notation import Array
from mtlref.optimisers import SGD

DIGITS = 6
"""The digits of what is found, where no face is nearer."""

SEEN = 0.9
"""The share of the signs that must be seen: what the digits hide of the others adds up."""

ROUNDS = 24
"""How often faces are looked for that lie beyond what was found."""

ADDED = 64
"""How many of a block of rows are added at once."""

ROUNDING = 1e-12
"""By how much a face may be missed."""

LEAST = 1e-9
"""The share that 1/L(0) of a task has at least, beside those of all."""


def initial_losses(method: GradNorm, log: Log) -> tuple[tuple[float, ...], str] | None:
    """Return an L(0), up to a common factor, and what it is, in words; None where the log does not show it.

    A rate that is a K-th, or upside down, is a known defect, and looked for as well, on the first rows. Where no
    signs give most of their steps, any L(0) will do: it is the first row's losses.
    """
    if not isinstance(method.rule, SGD) or method.alpha == 0:
        return None
    small = beginning(log, SEARCHED)
    rates = method.rule.lr, method.rule.lr / len(log.tasks)
    read = [Shown.of(small, rate) for rate in rates]
    rate, shown = max(zip(rates, read, strict=True), key=lambda one: np.count_nonzero(one[1].steps))
    if 2 * np.count_nonzero(shown.steps) <= len(shown.steps):
        any_will_do: tuple[float, ...] = tuple(np.asarray(small.losses[0]).tolist())
        return any_will_do, "whatever it is, no signs give the steps with this lr (GN-6)"
    signs = shown.signs[shown.steps]
    if np.count_nonzero(signs) <= SEEN * signs.size:
        return None
    scale = np.median(shown.L, axis=0)
    tried = [(alpha, faces(shown, alpha, scale)) for alpha in (method.alpha, -method.alpha)]
    upright, turned = [farthest(found)[1] for _, found in tried]
    alpha, found = tried[upright <= 0 and turned > upright]
    z, room, count = narrowed(log, rate, alpha, scale, found)
    L_0 = scale / z
    L_0 *= np.mean(shown.L[0] / L_0)
    rounded = np.array([float(f"{x:.{DIGITS}g}") for x in L_0])
    return tuple((rounded if room > 10.0 ** (2 - DIGITS) else L_0).tolist()), worded(room, count, alpha < 0)


def worded(room: float, count: int, turned: bool) -> str:
    """Return what an L(0) is that was found from so many signs; `turned`: with the rate upside down."""
    turn = " with the rate upside down" * turned
    if room < -ROUNDING:
        return f"none gives all {count} signs that the steps show (GN-6), and one that comes near{turn} is taken"
    return f"one that gives the {count} signs that the steps show{turn} (GN-6) is taken; only its ratios count"


@dataclass(frozen=True)
class Shown:
    """What whole rows of a log show: `L`, `G` and `signs` (N, K), 0 where the digits hide one.

    `steps` (N,): which rows' steps are those of any signs.
    """

    L: Array
    G: Array
    signs: Array
    steps: NDArray[np.bool_]

    @classmethod
    def of(cls, log: Log, rate: float) -> Shown:
        """Return what the rows of a log in memory show at a rate."""
        L, w, n = np.asarray(log.losses), np.asarray(logged_weights(log)), np.asarray(log.norms)
        whole = finite_rows(L, w, n) & np.all(L > 0, axis=1)
        whole = whole[:-1] & whole[1:]
        signs = seen_signs(log, rate, w, n)[whole]
        steps = np.isfinite(signs).all(axis=1)
        return cls(L[:-1][whole], np.abs(w * n)[:-1][whole], np.nan_to_num(signs), steps)


def narrowed(log: Log, rate: float, alpha: float, scale: Array, found: Array) -> tuple[Array, float, int]:
    """Return z = scale ∘ y, its room, and how many signs the log shows, to the end of its first run.

    Faces that it lies beyond are added to those that are `found`, the farthest of each block, until there are none.
    """
    end = (*log.starts, len(log.rows))[1]
    for _ in range(ROUNDS):
        (z, room), beyond, count = farthest(found), list[Array](), 0
        empty = room < 0
        for span in spans(end, reading=numbers_of(log)):
            shown = Shown.of(part(log, span.start, min(span.stop + 1, end)), rate)
            here = faces(shown, alpha, scale)
            below, count = here @ z, count + np.count_nonzero(shown.signs)
            room = min(room, float(np.min(below, initial=room)))
            worst = np.argsort(below)[:ADDED]
            beyond.append(here[worst[below[worst] < -ROUNDING]])
        added = np.concatenate(beyond)
        if empty or not len(added):
            break
        found = np.concatenate([found, added])
    return z, room, int(count)


def seen_signs(log: Log, lr: float, w: Array, n: Array) -> Array:
    """Return the signs of G − T (N − 1, K) that the steps show: 0 where digits hide it, NaN for a step of no signs.

    A sign of one task gives c, and with it the others'; of these c that which comes nearest to signs for all.
    """
    before, after = w[:-1], w[1:]
    step = lr * np.sign(before) * n[:-1]
    blur = 4 * (off(log, "weights", before) + off(log, "weights", after) + lr * off(log, "norms", n[:-1]))
    blur = np.max(blur, axis=1, keepdims=True)
    found, missed = list[Array](), list[Array]()
    for task, sign in product(range(w.shape[1]), (-1.0, 1.0)):
        with np.errstate(all="ignore"):
            c = ((before - sign * step)[:, task] / after[:, task])[:, None]
            moved = before - c * after
            found.append(np.sign(moved) * np.sign(step))
            left = np.max(np.abs(moved - found[-1] * step), axis=1)
        missed.append(np.where(c[:, 0] > 0, left, np.inf))
    near = np.array(missed) <= blur[:, 0]
    signs = np.take_along_axis(np.array(found), np.argmin(missed, axis=0)[None, :, None], axis=0)[0]
    other = np.any(near[:, :, None] & (np.array(found) != signs), axis=0)
    shown = np.where((np.abs(step) <= blur) | other, 0.0, signs)
    return np.where(near.any(axis=0)[:, None], shown, np.nan)


def faces(shown: Shown, alpha: float, scale: Array) -> Array:
    """Return the faces (M, K) of the cone that signs allow: z = scale ∘ y is inside where all face · z > 0.

    They have the length 1, as sums of sizes. `alpha` is not 0. A face beyond float64 is left out.
    """
    L, G, K = shown.L, shown.G, shown.L.shape[1]
    with np.errstate(all="ignore"):
        reach = (G / G.mean(axis=1, keepdims=True)) ** (1 / alpha)
        found = reach[:, :, None] * L[:, None, :] / K - np.eye(K) * L[:, None, :]
        found = (np.sign(alpha) * shown.signs[:, :, None] * found)[shown.signs != 0] / scale
        found /= np.sum(np.abs(found), axis=1, keepdims=True)
    return np.asarray(found[np.isfinite(found).all(axis=1)])


def farthest(found: Array) -> tuple[Array, float]:
    """Return the z (K,), of sum 1, that is farthest inside all faces, and by how much.

    That is below 0 where the cone is empty.
    """
    from scipy.optimize import linprog

    K = found.shape[1]
    if not len(found):
        return np.full(K, 1 / K), 0.0
    system = np.column_stack([-found, np.ones(len(found))])  # room ≤ face · z for every face
    goal, shares = np.append(np.zeros(K), -1.0), np.append(np.ones(K), 0.0)[None]
    bounds = [(LEAST, None)] * K + [(None, None)]
    best = linprog(goal, system, np.zeros(len(found)), shares, np.ones(1), bounds).x
    return np.asarray(best[:K]), float(best[K])
