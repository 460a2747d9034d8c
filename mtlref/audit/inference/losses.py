"""Settings of DWA and CoV-Weighting from their logs.

DWA: by DWA-2 the logarithms of two weights differ by the difference of their ratios over T. So 1/T is the slope of
the one against the other, over all tasks and epochs at once.

CoV-Weighting has a number only with a decay. The weights of the first rows are computed for many decays at once, and
the search closes in on the decay whose weights are nearest.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any

import numpy as np

from mtlref.audit.inference.family import Family, defaults, finite_rows, off
from mtlref.audit.inference.numbers import Estimate, inverse, slope
from mtlref.audit.readers import Log
from mtlref.audit.replay import logged_weights
from mtlref.notation import Array

DECAYS, ZOOMS, SEEN = 33, 18, 256
"""How many decays are tried side by side, how often the search closes in at most, and on how many rows."""

FIRST, GAIN, IDLE = 5, 0.9, 2
"""From which time on the search ends where the distance has not fallen to a share, how often in a row."""

FAR = 32.0
"""How many times their allowance the weights' median distance may be for a decay to be proposed."""

EARLY = 8
"""How many rows are not looked at, if there are as many more: of a few values, the variance is mostly rounding."""


# DWA


def dwa(log: Log, given: Mapping[str, Any]) -> Iterator[Family]:
    """Yield the temperature that the weights' logarithms have against the ratios of the losses."""
    if "temperature" in given:
        yield Family()
        return
    steep = steepness(log)
    if steep is None:
        yield Family(spans={"temperature": (0.0, math.inf)})
    elif steep.value > 0:
        high = math.inf if steep.value <= steep.half else 1 / (steep.value - steep.half)
        if math.isinf(high):
            yield Family(spans={"temperature": (1 / (steep.value + steep.half), high)})
        yield Family(numbers={"temperature": inverse(steep)})
    else:
        yield Family(spans={"temperature": (1 / steep.half, math.inf)})


def steepness(log: Log) -> Estimate | None:
    """Return 1/T, the slope of ln λ_k(t) − mean against w_k(t−1) − mean (DWA-2); None if no ratio ever differs."""
    L, w = log.losses, logged_weights(log)
    if len(L) < 3:
        return None
    with np.errstate(all="ignore"):
        ratio, lnw = L[1:-1] / L[:-2], np.log(w[2:])
        x = ratio - ratio.mean(axis=1, keepdims=True)
        y = lnw - lnw.mean(axis=1, keepdims=True)
        relative = off(log, "losses", L) / L
        of_y = and_mean(off(log, "weights", w[2:]) / w[2:])
        of_x = and_mean(ratio * (relative[1:-1] + relative[:-2]))
    use = finite_rows(x, y)
    x, y, of_y, of_x = (values[use].ravel() for values in (x, y, of_y, of_x))
    x = np.where(np.abs(x) > 2 * of_x, x, 0.0)
    first = slope(x, y, of_y)
    return None if first is None else slope(x, y, of_y + abs(first.value) * of_x)


def and_mean(off_by: Array) -> Array:
    """Return what entries less their row's mean may be off by, (n, K): their own, and the mean's."""
    return np.asarray(off_by + off_by.mean(axis=1, keepdims=True))


# COV


def cov(log: Log, given: Mapping[str, Any]) -> Iterator[Family]:
    """Yield the choices without a decay, then each with the decay that brings the weights nearest to the log's."""
    readings = list(product(("current", "previous"), ("ratio", "loss")))
    chosen = [
        {"statistics": statistics, "observed": observed}
        for statistics, observed in readings
        if given.get("statistics", statistics) == statistics and given.get("observed", observed) == observed
    ]
    if "decay" in given:
        yield from (Family(one) for one in chosen)
        return
    yield from (Family({**one, "decay": None}) for one in chosen)
    for one in chosen:
        decay = nearest_decay(log, one["statistics"] == "previous", one["observed"] == "ratio")
        if decay is not None:
            yield Family(one, {"decay": decay})


def nearest_decay(log: Log, lagged: bool, ratios: bool) -> Estimate | None:
    """Return the decay whose weights are nearest to the log's, None if they do not hang on it."""
    L, w = log.losses[:SEEN], logged_weights(log)[:SEEN]
    good = finite_rows(L, w)
    count = len(good) if good.all() else int(np.argmin(good))
    L, w = L[:count], w[:count]
    if count < 3 or np.any(L <= 0):
        return None
    decay = closed_in(L, w, lagged, ratios)
    if decay is None:
        return None
    nudge = 1e-6 * (1 - decay)
    here = weights_by_decay(L, np.array([decay, decay - nudge, decay + nudge]), lagged, ratios)
    left, allowed = np.abs(here[:, 0] - w), off(log, "weights", w)
    if np.median(left) > FAR * np.max(allowed):
        return None
    turn = np.abs(here[:, 2] - here[:, 1]) / (2 * nudge)
    tightest = float(np.max(turn / (allowed + left)))
    return Estimate(decay, 1 / tightest) if tightest > 0 else None


def closed_in(L: Array, w: Array, lagged: bool, ratios: bool) -> float | None:
    """Return the decay whose weights are nearest to w; None without any."""
    low, high, before, decay, idle = -5.0, -0.01, np.inf, 0.0, 0
    begin = EARLY if len(w) >= 2 * EARLY else 0
    for zoom in range(ZOOMS):
        exponents = np.linspace(low, high, DECAYS)
        with np.errstate(all="ignore"):
            weights = weights_by_decay(L, 1 - 10.0**exponents, lagged, ratios)
            distance = np.mean(np.abs(weights - w[:, None])[begin:], axis=(0, 2))
        if not np.isfinite(distance).any():
            return None
        at, gap = int(np.nanargmin(distance)), (high - low) / (DECAYS - 1)
        idle = idle + 1 if distance[at] >= GAIN * before else 0
        if distance[at] < before:
            decay, before = float(1 - 10.0 ** exponents[at]), float(distance[at])
        if zoom >= FIRST and idle == IDLE:
            break
        low, high = max(exponents[at] - 2 * gap, -5.0), min(exponents[at] + 2 * gap, -0.001)
    return decay


def weights_by_decay(L: Array, decay: Array, lagged: bool, ratios: bool) -> Array:
    """Return CoV-Weighting's weights for B decays at once, (rows, B, K): COV-1 to COV-8, to a few roundings."""
    n, K = L.shape
    out = np.full((n, len(decay), K), 1 / K)
    mean_loss = mean = M = np.zeros((len(decay), K))
    alpha = out[0]
    for t in range(n):
        a = ((1 - decay) / (1 - decay ** (t + 1)))[:, None]
        ratio = L[t] / mean_loss if ratios and t else np.ones_like(mean) if ratios else np.tile(L[t], (len(decay), 1))
        before = ratio - mean
        mean_loss, mean = mean_loss + a * (L[t] - mean_loss), mean + a * before
        M = (1 - a) * (M + a * before**2)
        c = np.sqrt(M) / mean
        total = c.sum(axis=1, keepdims=True)
        alpha_next = np.where(total > 0, c / np.where(total > 0, total, 1.0), 1 / K)
        out[t] = alpha if lagged else alpha_next
        alpha = alpha_next
    return out


def simple(stem: str, given: Mapping[str, Any]) -> Iterator[Family]:
    """Yield the one family of a method whose settings are all given, or have their defaults."""
    yield Family({name: value for name, value in defaults(stem).items() if name not in given})
