"""A trace: a run's weights and errors brought to as many columns as a drawing has, in one pass and constant memory.

A log of a million rows has thousands of them in every column. Of the weights a column keeps the least and the
largest, so no peak is lost; of the errors the one that exceeds its allowance most, with that allowance.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mtlref.audit.compare import compared
from mtlref.audit.free import blocks
from mtlref.audit.readers import Log
from mtlref.audit.replay import logged_weights
from mtlref.audit.spool import spans
from mtlref.contract import Method
from mtlref.notation import Array, MtlrefError

COLUMNS = 412
"""How many columns a drawing has, at most: one for each pixel of its plot."""


class Envelope:
    """The least and the largest of K numbers in each column; none is an interval from ∞ to −∞."""

    def __init__(self, columns: int, K: int) -> None:
        self.low, self.high = np.full((columns, K), np.inf), np.full((columns, K), -np.inf)

    def add(self, columns: NDArray[np.intp], values: Array) -> None:
        """Take in rows of values (n, K), whose columns rise; a number that is not finite is left out."""
        if not len(columns):
            return
        starts = np.flatnonzero(np.diff(columns, prepend=-1))
        there = columns[starts]
        known = np.isfinite(values)
        least = np.minimum.reduceat(np.where(known, values, np.inf), starts, axis=0)
        largest = np.maximum.reduceat(np.where(known, values, -np.inf), starts, axis=0)
        self.low[there] = np.minimum(self.low[there], least)
        self.high[there] = np.maximum(self.high[there], largest)


@dataclass(frozen=True)
class Trace:
    """A run of N rows in C columns.

    `steps` (C,): the step of each column's first row, or its place where the steps do not rise (`numbered` False);
    `got`, `own`: the log's weights and those of a replay from its start; `error`, `allowed` (C,): the error that
    exceeds its allowance most, NaN where nothing was judged; `rows`: N.
    """

    steps: Array
    numbered: bool
    got: Envelope
    own: Envelope
    error: Array
    allowed: Array
    rows: int

    @property
    def exact(self) -> bool:
        """Whether every row has a column of its own."""
        return self.rows <= len(self.steps)

    def place(self, log: Log, row: int) -> float:
        """Where a row of the log is among the steps."""
        return float(log.rows[row]) if self.numbered else float(row)


def traced(method: Method, log: Log) -> Trace:
    """Return the trace of a log under a method. What the method cannot be evaluated on is left out."""
    N, K = len(log.rows), len(log.tasks)
    C = min(N, COLUMNS)
    got, own = Envelope(C, K), Envelope(C, K)
    error, allowed, excess = np.full(C, np.nan), np.full(C, np.nan), np.full(C, -np.inf)

    def column(rows: NDArray[np.int64]) -> NDArray[np.intp]:
        return np.asarray(rows * C // N, dtype=np.intp)

    w = logged_weights(log)
    for span in spans(N, reading=[w]):
        got.add(column(np.arange(span.start, span.stop)), np.asarray(w[span]))
    for start, free in replayed(method, log):
        own.add(column(np.arange(start, start + len(free))), free)
    try:
        for block in compared(method, log):
            off = np.abs(block.got - block.expected)
            worst = np.argmax(off - block.allowance, axis=1)
            at = np.arange(len(worst)), worst
            over, columns = off[at] - block.allowance[at], column(block.rows)
            rising = np.lexsort((over, columns))
            last = rising[np.flatnonzero(np.diff(columns[rising], append=C))]
            new = last[over[last] > excess[columns[last]]]
            here = columns[new]
            error[here], allowed[here], excess[here] = off[at][new], block.allowance[at][new], over[new]
    except MtlrefError:
        pass  # what could be judged is drawn; the report has the error
    first = -(-np.arange(C) * N // C)
    numbered = bool(np.all(np.diff(log.rows) > 0))
    steps = np.asarray(log.rows[first] if numbered else first, dtype=np.float64)
    return Trace(steps, numbered, got, own, error, allowed, N)


def replayed(method: Method, log: Log) -> Iterator[tuple[int, Array]]:
    """Yield the weights of a replay from the log's start, with the row that each block of them begins at."""
    done = 0
    try:
        for free in blocks(method, log):
            yield done, np.asarray(free)
            done += len(free)
    except MtlrefError:
        return
