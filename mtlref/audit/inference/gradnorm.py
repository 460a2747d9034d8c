"""Settings of GradNorm from its log: the rate from the steps, the strength from the signs.

The strength α is seen in the signs of G_i − T_i alone (GN-6), so a log leaves an interval of it: α passes a sign's
change of G_i at ln(G_i/Ḡ) / ln r_i. The search goes through the rows with the intervals that are still possible.
At each row an interval parts at the changes within it; every part gives slopes, the optimiser's direction v, and

    w(t+1) (Σw − η Σv) = S (w − η v)    (GN-7),    which is linear in the rate η; S = Σ w(t+1), K if all is well.

The first row whose step is not 0 gives η; parts whose step is then not the logged one fall away. What is left gives
α's interval, and η from all rows together. An interval below 0 is that of a run whose rate is inverted.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from mtlref.audit.inference.directions import Choice, choices, rule, settings
from mtlref.audit.inference.family import Family, Span, finite_rows, off
from mtlref.audit.inference.numbers import Estimate, slope
from mtlref.audit.readers import Log
from mtlref.audit.replay import logged_weights
from mtlref.notation import Array, MtlrefError
from mtlref.state import State

WIDEST = 16.0
"""The strengths that are looked for: up to it, of either sign."""

BRANCHES = 48
"""How many intervals are kept side by side."""

HALF = 0.5
"""How near to 1 the weights' sum must be for it to be 1 in place of K."""

COARSE, FINE = 0.05, 0.002
"""The share of a step that may be left over: while the rate is known from one row, and once it is from all."""


@dataclass(frozen=True)
class Branch:
    """An interval of α with what goes with it: the optimiser's state, and the directions so far (rows, K).

    `missed`: the squares of what its steps have left over, added up.
    """

    low: float
    high: float
    state: State
    rate: float | None
    path: tuple[Array, ...]
    missed: float = 0.0


@dataclass(frozen=True)
class Measured:
    """A log's rows to the first that is not finite: `lift` = ln(G/Ḡ), `lag` = ln r, each with what it may be off.

    `of_n` (rows,): the largest share that a row's norms may be off by.
    """

    w: Array
    n: Array
    lift: Array
    lag: Array
    of_lift: Array
    of_lag: Array
    of_w: Array
    of_n: Array


def gradnorm(log: Log, given: Mapping[str, Any]) -> Iterator[Family]:
    """Yield the strengths, optimisers and rates that give the logged steps."""
    data = measured(log, given)
    if data is None:
        idle = [name for name in ("alpha", "lr") if name not in given and len(log.tasks) == 1]
        yield Family(spans=dict.fromkeys(idle, (0.0, math.inf)))  # one task: its weight is 1 for ever
        return
    low, high = (-WIDEST, WIDEST) if "alpha" not in given else (given["alpha"], given["alpha"])
    for choice, rate in choices(given):
        for one in with_beta(choice, data, (low, high), rate, given):
            for negative in ("keep", "clamp") if "negative" not in given else (given["negative"],):
                found = march(data, one, (low, high), rate, negative == "clamp", COARSE)
                estimate = rate_of(data, found) if found else None
                if estimate is not None and rate is None and len(data.w) > 3:
                    found = march(data, one, (low, high), estimate.value, negative == "clamp", FINE) or found
                yield from families(data, found, one, rate, negative, given)
                if found or not np.any(data.w < 0.05):
                    break


def families(
    data: Measured, found: list[Branch], choice: Choice | None, rate: float | None, negative: str, given: Any
) -> Iterator[Family]:
    """Yield what the branches that came through say."""
    for low, high in spans_of(found):
        chosen: dict[str, Any] = settings(choice, given)
        if "negative" not in given:
            chosen["negative"] = negative
        inside = [b for b in found if low <= b.low and b.high <= high]
        estimate = rate_of(data, inside) if rate is None else None
        numbers = {} if estimate is None else {"lr": estimate}
        spans = {"lr": (0.0, math.inf)} if rate is None and estimate is None else {}
        if "alpha" in given:
            yield Family(chosen, numbers, spans)
            continue
        summed = "SumToOne" if abs(data.w[-1].sum() - 1) < HALF else None
        if high >= 0:
            ends = max(low, 0.0), math.inf if high >= WIDEST else high
            yield Family(chosen, numbers, {**spans, "alpha": ends}, summed)
        if low < 0:
            ends = max(-high, 0.0), math.inf if low <= -WIDEST else -low
            yield Family(chosen, numbers, {**spans, "alpha": ends}, defect="InvertedRate")


def measured(log: Log, given: Mapping[str, Any]) -> Measured | None:
    """Return what the search reads of a log; None if it is too short, or lacks what GN-3 divides by."""
    L, w = log.losses, logged_weights(log)
    assert log.norms is not None
    n = log.norms
    good = finite_rows(L, w, n) & np.all(L > 0, axis=1)
    count = len(good) if good.all() else int(np.argmin(good))
    if count < 2 or L.shape[1] < 2:
        return None
    L, w, n = L[:count], w[:count], n[:count]
    share = off(log, "losses", L) / L
    L_0, of_first = given.get("initial_losses"), 0.0 * share[0]
    if L_0 is None:
        L_0, of_first = L[0], share[0]
    with np.errstate(all="ignore"):
        G = np.abs(w) * n
        rates = L / np.asarray(L_0)
        lift = np.log(G / G.mean(axis=1, keepdims=True))
        lag = np.log(rates / rates.mean(axis=1, keepdims=True))
        late = share + of_first
        of_mean = np.sum(rates * late, axis=1, keepdims=True) / rates.sum(axis=1, keepdims=True)
        blur = off(log, "weights", w) / np.abs(w) + off(log, "norms", n) / n
    blur[~np.isfinite(blur)] = 0.0  # G = 0 is below any target, whatever the digits
    widest = blur.max(axis=1, keepdims=True)
    with np.errstate(all="ignore"):
        of_n = np.max(np.nan_to_num(off(log, "norms", n) / n), axis=1)
    return Measured(w, n, lift, lag, blur + widest, 2 * np.maximum(late, of_mean), off(log, "weights", w), of_n)


# THE SEARCH


def march(
    data: Measured, choice: Choice | None, ends: Span, rate: float | None, clamp: bool, loose: float
) -> list[Branch]:
    """Return the branches that come through all rows."""
    optimiser, K = rule(choice), data.w.shape[1]
    branches = [Branch(ends[0], ends[1], optimiser.init(np.zeros(K)), rate, ())]
    for t in range(len(data.w) - 1):
        grown: list[Branch] = []
        for branch in branches:
            for low, high, sign in parts(data, t, branch.low, branch.high):
                slopes = sign * np.sign(data.w[t]) * data.n[t]
                try:
                    moved, state = optimiser.step(branch.state, np.zeros(K), slopes)
                except MtlrefError:
                    continue
                left, eta = leftover(data, t, -moved, branch.rate, clamp, loose)
                if left <= 1:
                    path, missed = (*branch.path, -moved), branch.missed + left**2
                    grown.append(Branch(low, high, state, eta, path, missed))
        branches = sorted(grown, key=lambda one: one.missed)[:BRANCHES]
        if not branches:
            return []
    return branches


def parts(data: Measured, t: int, low: float, high: float) -> Iterator[tuple[float, float, Array]]:
    """Yield the intervals into which the changes of a sign at row t part [low, high], with the signs in each.

    A change is as wide as rounding makes it, and belongs to both sides; a sign that rounding decides is all three.
    """
    lift, lag, blur = data.lift[t], data.lag[t], data.of_lift[t]
    flat = np.abs(lag) <= data.of_lag[t]
    ties = np.flatnonzero(flat & (np.abs(lift) <= blur))[:2]
    with np.errstate(all="ignore"):
        at = np.where(flat, np.nan, lift / lag)
        wide = (blur + np.abs(at) * data.of_lag[t]) / np.abs(lag)
    inside = np.isfinite(at) & (at + wide >= low) & (at - wide <= high)
    cuts = sorted((at[task], wide[task], task) for task in np.flatnonzero(inside))
    begin = [low, *(c - d for c, d, _ in cuts)]
    end = [*(c + d for c, d, _ in cuts), high]
    for i, ends in enumerate(zip(begin, end, strict=True)):
        here = max(ends[0], low), min(ends[1], high)
        sign = np.where(flat, np.sign(lift), np.sign(lift - (here[0] + here[1]) / 2 * lag))
        for j, (_, _, task) in enumerate(cuts):  # α is below the changes that are still to come
            sign[task] = np.sign(lag[task]) * (1 if j >= i else -1)
        for tie in product((0.0, 1.0, -1.0), repeat=len(ties)):
            tied = sign.copy()
            tied[ties] = tie
            yield *here, tied


def leftover(
    data: Measured, t: int, v: Array, rate: float | None, clamp: bool, loose: float
) -> tuple[float, float | None]:
    """Return by how much of what is allowed a step along −v misses w(t+1), and the rate, found here if it was not."""
    w, w_next, K = data.w[t], data.w[t + 1], len(v)
    S = w_next.sum()
    A, B = S * v - w_next * v.sum(), S * w - w_next * w.sum()
    rounding, loose = 2 * K * (data.of_w[t] + data.of_w[t + 1].max()), loose + 4 * data.of_n[t]
    if rate is None:
        if np.all(np.abs(A) <= 16 * rounding):
            return float(np.max(np.abs(B) / (rounding + loose * np.abs(A)))), None
        rate = float(A @ B / (A @ A))
        if rate <= 0:
            return math.inf, None
    u = w - rate * v
    if clamp:
        u = np.maximum(u, 0.0)
    if u.sum() <= 0:
        return math.inf, rate
    miss = np.abs(S * u / u.sum() - w_next) * abs(w.sum())
    return float(np.max(miss / (rounding + loose * rate * np.max(np.abs(A))))), rate


def rate_of(data: Measured, found: list[Branch]) -> Estimate | None:
    """Return the rate that all rows of the likeliest branch agree on; None if no row moves."""
    best: tuple[float, Estimate] | None = None
    w, w_next, K = data.w[:-1], data.w[1:], data.w.shape[1]
    S = w_next.sum(axis=1, keepdims=True)
    B = S * w - w_next * w.sum(axis=1, keepdims=True)
    rounding = 2 * K * (data.of_w[:-1] + data.of_w[1:].max(axis=1, keepdims=True))
    for branch in found:
        v = np.array(branch.path)
        A = S * v - w_next * v.sum(axis=1, keepdims=True)
        use = np.broadcast_to(np.all(w - (branch.rate or 0.0) * v >= 0, axis=1, keepdims=True), A.shape)
        estimate = slope(np.where(use, A, 0.0).ravel(), B.ravel(), rounding.ravel())
        if estimate is None or estimate.value <= 0:
            continue
        left = float(np.sum(((B - estimate.value * A) / rounding)[use] ** 2))
        if best is None or left < best[0]:
            best = left, estimate
    return None if best is None else best[1]


def spans_of(found: list[Branch]) -> list[Span]:
    """Return the intervals that the branches cover, those that touch joined."""
    joined: list[Span] = []
    for low, high in sorted((b.low, b.high) for b in found):
        if joined and low <= joined[-1][1]:
            joined[-1] = joined[-1][0], max(high, joined[-1][1])
        else:
            joined.append((low, high))
    return joined


def with_beta(
    choice: Choice | None, data: Measured, ends: Span, rate: float | None, given: Mapping[str, Any]
) -> Iterator[Choice | None]:
    """Yield the choice, and before the first of momentum's discounts those that the second step shows."""
    usual = choice is not None and choice["name"] == "momentum" and choice.get("beta") == 0.9
    if usual and "optimiser" not in given and len(data.w) > 3:
        yield from ({"name": "momentum", "beta": beta} for beta in own_betas(data, ends, rate))
    yield choice


def own_betas(data: Measured, ends: Span, rate: float | None) -> list[float]:
    """Return the discounts β with which the second step, along d(1) + β d(0), is the logged one.

    They come from one step, so they are rounded to three digits; the rows that follow and the replay decide.
    """
    found = set[float]()
    w, w_next = data.w[1], data.w[2]
    S = w_next.sum()
    B = S * w - w_next * w.sum()
    for low, high, sign in parts(data, 0, *ends):
        d = sign * np.sign(data.w[0]) * data.n[0]
        left, eta = leftover(data, 0, d, rate, False, COARSE)
        if left > 1 or eta is None:
            continue
        A = S * d - w_next * d.sum()
        for _, _, later in parts(data, 1, low, high):
            slopes = later * np.sign(w) * data.n[1]
            rest = B / eta - (S * slopes - w_next * slopes.sum())
            beta = float(A @ rest / (A @ A)) if A @ A > 0 else 0.0
            if 0.01 < beta < 0.999 and np.all(np.abs(rest - beta * A) <= COARSE * np.abs(rest).max()):
                found.add(float(f"{beta:.3g}"))
    return sorted(found)
