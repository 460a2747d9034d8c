"""Settings of PE-LTR and PCGrad from their logs. Their choices are few; PE-LTR's bounds are the weights' floors.

A bound that holds a weight is that weight (PELTR-7), many times over. A bound that never does leaves no trace in the
weights: any number from 0 to the least weight is then as good.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any

import numpy as np

from mtlref.audit.inference.family import Family, finite_rows, off
from mtlref.audit.inference.numbers import simplest
from mtlref.audit.readers import Log
from mtlref.audit.replay import logged_weights

TWICE = 2
"""How often a weight must be at its floor for the floor to be a bound at first sight; once is tried after that."""


def pe_ltr(log: Log, given: Mapping[str, Any]) -> Iterator[Family]:
    """Yield timings and solvers, each without bounds and with the floors as bounds."""
    for solver, timing in product(("published", "exact"), ("next", "same")):
        chosen = {"solver": solver, "timing": timing}
        if any(given.get(name, value) != value for name, value in chosen.items()):
            continue
        if "bounds" in given:
            yield Family(chosen)
            continue
        yield Family({**chosen, "bounds": None})
        start = 1 if timing == "next" else 0
        for floors in dict.fromkeys((bounds_of(log, start, TWICE), bounds_of(log, start, 1))):
            if floors is not None:
                yield Family({**chosen, "bounds": floors})


def bounds_of(log: Log, start: int, least: int) -> tuple[float, ...] | None:
    """Return the floors of the weights from a row on, 0 where a weight is there less often; None if all are 0."""
    w = logged_weights(log)[start:]
    w = w[finite_rows(w)]
    if len(w) < least:
        return None
    floor = w.min(axis=0)
    blur = 2 * off(log, "weights", np.maximum(np.abs(w), 1.0)).max(axis=0)
    held = np.sum(w <= floor + blur, axis=0) >= least
    bounds = tuple(
        max(simplest(float(a - d), float(a + d)), 0.0) if yes else 0.0
        for a, d, yes in zip(floor, blur, held, strict=True)
    )
    return bounds if 0 < sum(bounds) <= 1 else None


def pcgrad(log: Log, given: Mapping[str, Any]) -> Iterator[Family]:
    """Yield whether a task meets itself, which the logged draws' width says, and both reductions."""
    K = len(log.tasks)
    alone = [False, True] if log.draws is None else [log.draws.shape[2] == K]
    for include_self, reduction in product(alone, ("sum", "mean")):
        chosen = {"include_self": include_self, "reduction": reduction}
        if all(given.get(name, value) == value for name, value in chosen.items()):
            yield Family(chosen)


def fixed(log: Log, given: Mapping[str, Any]) -> Iterator[Family]:
    """Yield the first finite row's weights."""
    w = logged_weights(log)
    rows = np.flatnonzero(finite_rows(w))
    if "weights" in given or not len(rows):
        yield Family()
        return
    first = w[rows[0]]
    blur = off(log, "weights", first)
    yield Family({"weights": tuple(simplest(float(a - d), float(a + d)) for a, d in zip(first, blur, strict=True))})
