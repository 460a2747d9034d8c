"""Warnings: what is worth knowing of a run besides whether it follows its method.

A run can follow its method at every step and still not do what one hoped: a weight has gone to zero, a target cannot
be reached, the method makes no difference. Each warning names the equation that makes it so and the section of the
derivation that says why. They are read off the log alone, a block of rows at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtlref.audit.readers import Log
from mtlref.audit.replay import logged_weights, numbers_of
from mtlref.audit.spool import spans
from mtlref.contract import Method
from mtlref.notation import Array

COLLAPSED = 1e-3
"""The share of the mean weight below which a weight counts as gone."""

LATE = 0.1
"""The share of the rows, at the end, in which it must be gone."""

REACH = 0.01
"""The share of Σ G by which GradNorm's targets must miss it."""

MOSTLY = 0.5, 0.9
"""In what share of the rows targets must be out of reach, and weights at their bounds."""

GONE = 1e-6
"""The share of its first value below which a loss counts as zero."""

EQUAL = 0.05
"""How near to 1 all of DWA's weights must stay for the method to make no difference."""


@dataclass(frozen=True)
class Notice:
    """A warning: `name`, the `equation` behind it, the `section` of `page` that says why, what was found as `text`.

    `first` is the row in which it was first seen, and `rows` in how many.
    """

    name: str
    equation: str
    page: str
    section: str
    text: str
    first: int
    rows: int

    @property
    def place(self) -> str:
        """Where the derivation says why."""
        return f"derivations/{self.page}.md, {self.section}"


def notices(method: Method, log: Log) -> tuple[Notice, ...]:
    """Return the warnings that a log gives rise to under a method."""
    found = (watch(method, log) for watch in WATCHES.get(method.stem, ()))
    return tuple(notice for notice in found if notice is not None)


@dataclass(frozen=True)
class Seen:
    """Where something was seen: the `first` row, its tasks there, in how many `rows` of a `total` that is finite."""

    first: int
    tasks: tuple[int, ...]
    rows: int
    total: int

    @property
    def share(self) -> float:
        """The share of the rows."""
        return self.rows / max(self.total, 1)


def seen(log: Log, look: Callable[[slice], tuple[NDArray[np.bool_], NDArray[np.bool_]]], start: int = 0) -> Seen:
    """Return where `look` finds something; it takes a span of rows to what is found (n, K) and what counts (n,)."""
    first, tasks, rows, total = -1, tuple[int, ...](), 0, 0
    for span in spans(len(log.rows), reading=numbers_of(log)):
        here = slice(max(span.start, start), span.stop)
        if here.start >= here.stop:
            continue
        found, counts = look(here)
        found = found & counts[:, None]
        hit = np.flatnonzero(found.any(axis=1))
        rows, total = rows + len(hit), total + int(counts.sum())
        if len(hit) and first < 0:
            first, tasks = here.start + int(hit[0]), tuple(np.flatnonzero(found[hit[0]]).tolist())
    return Seen(first, tasks, rows, total)


def finite(values: Array) -> NDArray[np.bool_]:
    """Return which rows are finite throughout."""
    return np.asarray(np.isfinite(values).reshape(len(values), -1).all(axis=1))


def block(values: Array | None, rows: slice) -> Array:
    """Return rows of a column that the log holds."""
    assert values is not None
    return np.asarray(values[rows])


def named(log: Log, tasks: Sequence[int]) -> str:
    """Return the names of tasks."""
    return ", ".join(log.tasks[task] for task in tasks)


def where(method: Method, log: Log, found: Seen) -> str:
    """Return since when, and how often."""
    plural = f"{method.cadence}s" if found.rows > 1 else method.cadence
    return f"first at {method.cadence} {log.rows[found.first]}, at {found.rows} {plural} of {found.total}"


# WEIGHTS


def negative(method: Method, log: Log) -> Notice | None:
    """GradNorm's weights are not kept above zero by any equation."""

    def look(rows: slice) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        w = block(log.weights, rows)
        return w < 0, finite(w)

    found = seen(log, look)
    if not found.rows:
        return None
    text = f"the weight of {named(log, found.tasks)} is below 0, {where(method, log, found)}: its loss is ascended"
    return Notice("negative weight", "GN-7", "gradnorm", "GN-C3", text, found.first, found.rows)


def collapsed(method: Method, log: Log) -> Notice | None:
    """A weight has gone to nothing beside the others and stayed there to the end."""
    N = len(log.rows)
    late = N - max(int(N * LATE), 1)
    w = logged_weights(log)
    gone = np.ones(len(log.tasks), dtype=bool)
    some = False
    for span in spans(N, reading=[w]):
        if span.stop <= late:
            continue
        here = np.abs(np.asarray(w[max(span.start, late) : span.stop]))
        here = here[finite(here)]
        some = some or len(here) > 0
        gone &= np.all(here < COLLAPSED * here.mean(axis=1, keepdims=True), axis=0)
    tasks = tuple(np.flatnonzero(gone).tolist())
    if not some or not tasks or len(log.tasks) < 2:
        return None
    equation, section = {
        "gradnorm": ("GN-7", "GN-7"),
        "dwa": ("DWA-2", "Edge cases"),
        "cov": ("COV-7", "Edge cases"),
    }[method.stem]
    text = (
        f"the weight of {named(log, tasks)} has collapsed: below {COLLAPSED:g} of the mean weight from "
        f"{method.cadence} {log.rows[late]} to the end; its loss is hardly descended"
    )
    return Notice("collapsed weight", equation, method.stem, section, text, late, N - late)


# METHODS


def out_of_reach(method: Any, log: Log) -> Notice | None:
    """GradNorm's targets do not sum to what the norms sum to, for exponents other than 0 and 1."""
    if method.alpha in (0, 1):
        return None
    first, total = np.asarray(log.losses[0] if method.initial_losses is None else method.initial_losses), 0.0

    def look(rows: slice) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        nonlocal total
        with np.errstate(all="ignore"):
            rates = block(log.losses, rows) / first
            gap = np.abs(np.mean((rates / rates.mean(axis=1, keepdims=True)) ** method.alpha, axis=1) - 1)
        total += float(np.sum(gap[np.isfinite(gap)]))
        return (gap > REACH)[:, None], np.isfinite(gap)

    found = seen(log, look)
    if found.share <= MOSTLY[0]:
        return None
    text = (
        f"the targets cannot be met with alpha = {method.alpha:g}: whatever the weights, the norms miss them by "
        f"{total / found.total:.1%} of their sum on average, {where(method, log, found)} by more than {REACH:.0%}"
    )
    return Notice("targets out of reach", "GN-4", "gradnorm", "GN-E2", text, found.first, found.rows)


def loss_at_zero(method: Method, log: Log) -> Notice | None:
    """Uncertainty Weighting has no minimum where a loss is zero: the weight grows without end."""
    first = np.abs(np.asarray(log.losses[0]))

    def look(rows: slice) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        L = block(log.losses, rows)
        return GONE * first >= L, finite(L)

    found = seen(log, look)
    if not found.rows:
        return None
    text = (
        f"the loss of {named(log, found.tasks)} reached zero, {where(method, log, found)}: its log-variance has no "
        "minimum there and falls, and its weight grows, at every step"
    )
    return Notice("loss at zero", "UW-3", "uncertainty", "Edge cases", text, found.first, found.rows)


def no_difference(method: Any, log: Log) -> Notice | None:
    """DWA's weights stay so near to 1 that the run is one with equal weights."""

    def look(rows: slice) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        w = block(log.weights, rows)
        return np.abs(w - 1) > EQUAL, finite(w)

    found = seen(log, look)
    if found.rows or found.total < 3 or len(log.tasks) < 2:
        return None
    text = (
        f"no weight is ever farther than {EQUAL:g} from 1, in {found.total} {method.cadence}s: with T = "
        f"{method.temperature:g} and these losses the run is one with equal weights"
    )
    return Notice("no different from equal weights", "DWA-2", "dwa", "Invariants", text, 0, found.total)


def pinned(method: Any, log: Log) -> Notice | None:
    """PE-LTR's weights lie at their bounds, all but one."""
    K = len(log.tasks)
    c = np.zeros(K) if method.bounds is None else np.asarray(method.bounds)
    if K < 2 or c.sum() >= 1 - 1e-9:
        return None
    spare = log.precision["weights"]

    def look(rows: slice) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        w = block(log.weights, rows)
        held = w <= c + spare.share + spare.absolute
        return (np.sum(held, axis=1) == K - 1)[:, None], finite(w)

    found = seen(log, look, int(method.lagged))
    if found.share < MOSTLY[1]:
        return None
    text = (
        f"all weights but one lie at their bounds, {where(method, log, found)}: one task has all that "
        "the bounds leave, and the weights do not follow the gradients"
    )
    return Notice("pinned to the bounds", "PELTR-4", "pe_ltr", "PELTR-4", text, found.first, found.rows)


def no_conflict(method: Method, log: Log) -> Notice | None:
    """No two gradients ever conflict: PCGrad is then the plain sum."""
    K = len(log.tasks)
    above = np.triu_indices(K, 1)

    def look(rows: slice) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        A = block(log.gram, rows)
        return A[:, above[0], above[1]] < 0, finite(A)

    found = seen(log, look)
    if found.rows or not found.total or K < 2:
        return None
    text = f"no two task gradients conflict, at none of {found.total} steps: nothing is projected"
    return Notice("no conflicts", "PCG-3", "pcgrad", "Invariants", text, 0, found.total)


WATCHES: Mapping[str, tuple[Callable[[Any, Log], Notice | None], ...]] = {
    "gradnorm": (negative, collapsed, out_of_reach),
    "uncertainty": (loss_at_zero,),
    "dwa": (collapsed, no_difference),
    "cov": (collapsed,),
    "pe_ltr": (pinned,),
    "pcgrad": (no_conflict,),
}
"""What is watched for, by the method's stem."""


def told(found: Sequence[Notice]) -> Iterator[str]:
    """Yield the warnings in words."""
    for notice in found:
        yield f"Warning [{notice.equation}]: {notice.text} ({notice.place})."


def plain(found: Sequence[Notice], log: Log) -> list[Mapping[str, object]]:
    """Return the warnings as what the json module writes."""
    return [
        {
            "name": notice.name,
            "equation": notice.equation,
            "section": notice.place,
            "text": notice.text,
            "first": int(log.rows[notice.first]),
            "rows": notice.rows,
        }
        for notice in found
    ]
