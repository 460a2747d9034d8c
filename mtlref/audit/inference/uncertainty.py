"""Settings of Uncertainty Weighting from its log: the log-variances are the weights' logarithms, scaled and shifted.

By UW-1 a step of s_i by −η q_i is one of ln w_i by η b_i q_i, with q the optimiser's direction along the slope (UW-3)
D/2 − b w L, which the log gives once b and D are chosen. So for each task, and each likelihood and dimension, η is a
slope of known numbers. The task's readings are those that leave no more than rounding; all tasks share one η. The
factor a shows in the first weight alone (UW-6).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice, product
from typing import Any

import numpy as np

from mtlref.audit.inference.directions import Choice, choices, directions, settings
from mtlref.audit.inference.family import Family, finite_rows, off
from mtlref.audit.inference.numbers import Estimate, slope
from mtlref.audit.readers import Log
from mtlref.audit.replay import logged_weights
from mtlref.methods.uncertainty import LIKELIHOODS
from mtlref.notation import Array, MtlrefError

LOOSE = 8.0
"""How many times its own allowance a row may be off for a reading to be looked at: the replay has the last word."""

QUICK = 16
"""On how many steps a reading is looked at first: a wrong one seldom gets further."""

MOST = 24
"""How many combinations of the tasks' readings are looked at for one optimiser."""


@dataclass(frozen=True)
class Reading:
    """What one task may be: its likelihood, its dimension, and the rate that goes with them."""

    likelihood: str
    dimension: int
    rate: Estimate


@dataclass(frozen=True)
class Track:
    """One task's run up to the first row that is not finite: steps of ln w, and w L, with what they may be off."""

    steps: Array
    off: Array
    data: Array
    of_data: Array
    first: float


def uncertainty(log: Log, given: Mapping[str, Any]) -> Iterator[Family]:
    """Yield the likelihoods, dimensions, optimisers and rates under which the weights' logarithms move as logged."""
    tracks = tracks_of(log)
    if tracks is None:
        yield Family()
        return
    for choice, rate in choices(given):
        for one in with_beta(choice, tracks, given):
            readings = [list(readings_of(track, i, one, given)) for i, track in enumerate(tracks)]
            for parts in islice(product(*readings), MOST):
                yield from together(parts, one, rate, given)


def tracks_of(log: Log) -> list[Track] | None:
    """Return the tasks' runs, None if a weight is not above 0 or there are fewer than two steps."""
    L, w = log.losses, logged_weights(log)
    good = finite_rows(L, w) & np.all(w > 0, axis=1)
    n = len(good) if good.all() else int(np.argmin(good))
    if n < 3:
        return None
    L, w = L[:n], w[:n]
    share = off(log, "weights", w) / w
    steps, wide = np.diff(np.log(w), axis=0), share[1:] + share[:-1]
    data, of_data = w * L, w * off(log, "losses", L)
    return [Track(steps[:, i], wide[:, i], data[:-1, i], of_data[:-1, i], float(w[0, i])) for i in range(L.shape[1])]


def with_beta(choice: Choice | None, tracks: list[Track], given: Mapping[str, Any]) -> Iterator[Choice | None]:
    """Yield the choice, and before the first of momentum's discounts that which the steps themselves have."""
    if choice is not None and choice["name"] == "momentum" and choice.get("beta") == 0.9 and "optimiser" not in given:
        beta = own_beta(tracks)
        if beta is not None:
            yield {"name": "momentum", "beta": beta}
    yield choice


def own_beta(tracks: list[Track]) -> float | None:
    """Return momentum's discount: of Δ(t) = β Δ(t−1) + p − q w L, each task with p and q of its own; None without."""
    found = []
    for track in tracks:
        A = np.stack([track.steps[:-1], np.ones(len(track.steps) - 1), track.data[1:]], axis=1)
        if len(A) >= 4 and np.linalg.matrix_rank(A / np.maximum(np.abs(A).max(axis=0), 1e-300)) == 3:
            found.append(float(np.linalg.lstsq(A, track.steps[1:], rcond=None)[0][0]))
    beta = float(f"{np.median(found):.4g}") if found else 0.0
    return beta if 0.01 < beta < 0.9999 else None


def readings_of(track: Track, task: int, choice: Choice | None, given: Mapping[str, Any]) -> Iterator[Reading]:
    """Yield what one task may be, the fewest dimensions first."""
    names = each(given.get("likelihoods"), task)
    dimensions = each(given.get("dimensions", None), task)
    start = {name for name, (a, _) in LIKELIHOODS.items() if abs(track.first - a) <= 1e-3 * a}
    for name, (_, b) in LIKELIHOODS.items():
        if (names is not None and name != names) or (names is None and start and name not in start):
            continue
        tried = [1 if dimensions is None else int(dimensions)]
        tried += shown(track, b) if "dimensions" not in given else []
        for D in dict.fromkeys(tried):
            rate = rate_of(track, choice, b, D, QUICK) and rate_of(track, choice, b, D, None)
            if rate is not None:
                yield Reading(name, D, rate)


def rate_of(track: Track, choice: Choice | None, b: float, D: int, steps: int | None) -> Estimate | None:
    """Return the rate under which the first `steps`, or all, of a task go as logged; None if there is none.

    The losses' rounding moves the slopes, and the directions by as much as slopes that are all off show.
    """
    moved, off_by, slopes = track.steps[:steps], track.off[:steps], D / 2 - b * track.data[:steps]
    signs = np.array([0, 1, -1]) + np.zeros((len(slopes), 1))
    signs = np.concatenate([signs, (-1.0) ** np.arange(len(slopes))[:, None]], axis=1)
    try:
        found = directions(choice, slopes[:, None] + signs * b * track.of_data[:steps, None])
    except MtlrefError:  # the slopes leave the range
        return None
    q, of_q = found[:, 0], np.max(np.abs(found - found[:, :1]), axis=1)
    rate = slope(b * q, moved, off_by)
    if rate is None:
        return None
    off_by = off_by + abs(rate.value) * b * of_q
    rate = slope(b * q, moved, off_by)
    if rate is None or rate.value <= 0:
        return None
    left = np.abs(moved - rate.value * b * q)
    return rate if np.all(left <= LOOSE * off_by + 0.02 * np.abs(moved)) else None


def each(setting: Any, task: int) -> Any:
    """Return what a setting says of one task: its own entry, or the one for all."""
    return setting[task] if isinstance(setting, list | tuple) else setting


def shown(track: Track, b: float) -> list[int]:
    """Return the dimension that the steps of plain descent show: Δ = p − q w L, p = η b D/2, q = η b²."""
    A = np.stack([np.ones(len(track.data)), -track.data], axis=1)
    p, q = np.linalg.lstsq(A, track.steps, rcond=None)[0]
    D = 2 * b * p / q if q > 0 else 0.0
    return [round(D)] if 1.5 < D < 1e6 else []


def together(
    parts: tuple[Reading, ...], choice: Choice | None, rate: float | None, given: Mapping[str, Any]
) -> Iterator[Family]:
    """Yield the family of the tasks' readings if they share a rate."""
    best = min(parts, key=lambda part: part.rate.half / part.rate.value)
    value = best.rate.value if rate is None else rate
    if any(abs(part.rate.value - value) > 16 * part.rate.half + 1e-2 * value for part in parts):
        return
    chosen: dict[str, Any] = settings(choice, given)
    names, dimensions = tuple(p.likelihood for p in parts), tuple(p.dimension for p in parts)
    if "likelihoods" not in given:
        chosen["likelihoods"] = names[0] if len(set(names)) == 1 else names
    if "dimensions" not in given and set(dimensions) != {1}:
        chosen["dimensions"] = dimensions[0] if len(set(dimensions)) == 1 else dimensions
    yield Family(chosen, {} if rate is not None else {"lr": best.rate})
