"""GradNorm's L(0), of a log that begins after its run did: what the signs of its steps allow.

L(0) is seen in the signs of G_i − T_i alone (GN-6), and with α and the rate given each step shows its signs: for some
c > 0, w_i − η ∂_i = c w_i(t+1) for all tasks at once (GN-7). Now with y = 1/L(0)

    G_i > Ḡ r_i^α  ⇔  (G_i/Ḡ)^{1/α} (1/K) Σ_j L_j y_j > L_i y_i    (GN-3, GN-4),    which is linear in y.

So what is possible is a cone, and the y in it that is farthest from all its faces is found by linear programming.
Only the ratios of L(0) count. Where a rate is upside down, −α for α, the inequality is turned.
"""

from __future__ import annotations

from itertools import product

import numpy as np

from mtlref.audit.inference.family import SEARCHED, beginning, finite_rows, off
from mtlref.audit.readers import Log
from mtlref.audit.replay import logged_weights
from mtlref.methods import GradNorm
from mtlref.notation import Array
from mtlref.optimisers import SGD

DIGITS = 6
"""The digits of what is found, where no face is nearer."""

SEEN = 0.9
"""The share of the signs that must be seen: what the digits hide of the others adds up."""

LEAST = 1e-9
"""The share that 1/L(0) of a task has at least, beside those of all."""


def initial_losses(method: GradNorm, log: Log) -> tuple[tuple[float, ...], int] | None:
    """Return an L(0), up to a common factor, and how many signs it is from; None where the log does not show it.

    A rate that is a K-th, or upside down, is a known defect, and looked for as well. Where no signs give most of the
    steps, any L(0) will do: it is the first row's losses.
    """
    if not isinstance(method.rule, SGD) or method.alpha == 0:
        return None
    small = beginning(log, SEARCHED)
    L, w, n = small.losses, logged_weights(small), small.norms
    assert n is not None
    K, whole = L.shape[1], finite_rows(L, w, n) & np.all(L > 0, axis=1)
    whole = whole[:-1] & whole[1:]
    L, G = L[:-1][whole], np.abs(w * n)[:-1][whole]
    read = [seen_signs(small, rate, w, n)[whole] for rate in (method.rule.lr, method.rule.lr / K)]
    signs = max(read, key=lambda one: np.count_nonzero(np.isfinite(one)))
    steps = np.isfinite(signs).all(axis=1)
    if not len(L) or 2 * np.count_nonzero(steps) < len(steps):
        return tuple(np.asarray(small.losses[0]).tolist()), 0
    if np.count_nonzero(signs[steps]) <= SEEN * signs[steps].size:
        return None
    tried = [farthest(L[steps], G[steps], signs[steps], alpha) for alpha in (method.alpha, -method.alpha)]
    found, room = tried[0] if tried[0][1] > 0 else max(tried, key=lambda one: one[1])
    found *= np.mean(L[0] / found)
    rounded = np.array([float(f"{x:.{DIGITS}g}") for x in found])
    L_0 = rounded if room > 10.0 ** (2 - DIGITS) else found
    return tuple(L_0.tolist()), int(np.count_nonzero(signs[steps]))


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


def farthest(L: Array, G: Array, signs: Array, alpha: float) -> tuple[Array, float]:
    """Return L(0) (K,) whose inverse is farthest inside the cone of the signs (N, K), and by which share.

    The share is below 0 where the cone is empty. `alpha` is not 0. A face beyond float64 is left out.
    """
    from scipy.optimize import linprog

    K, scale = L.shape[1], np.median(L, axis=0)
    with np.errstate(all="ignore"):
        reach = (G / G.mean(axis=1, keepdims=True)) ** (1 / alpha)
        faces = reach[:, :, None] * L[:, None, :] / K - np.eye(K) * L[:, None, :]
        faces = (np.sign(alpha) * signs[:, :, None] * faces)[signs != 0] / scale
        faces /= np.sum(np.abs(faces), axis=1, keepdims=True)
    faces = faces[np.isfinite(faces).all(axis=1)]
    if not len(faces):
        return scale, 0.0
    system = np.column_stack([-faces, np.ones(len(faces))])  # room ≤ face · y for every face
    goal, shares = np.append(np.zeros(K), -1.0), np.append(np.ones(K), 0.0)[None]
    bounds = [(LEAST, None)] * K + [(None, None)]
    found = linprog(goal, system, np.zeros(len(faces)), shares, np.ones(1), bounds).x
    return scale / found[:K], float(found[K])
