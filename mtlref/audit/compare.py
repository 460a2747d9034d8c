"""The comparison: each row's weights against the method's, within the row's allowance, block by block."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mtlref.audit.allowance import KINK, plain, spread
from mtlref.audit.readers import Log
from mtlref.audit.replay import Replay, logged_weights
from mtlref.contract import Method, weights_of
from mtlref.notation import Array


@dataclass(frozen=True)
class Transition:
    """One row of the log and what the method makes of it.

    `row` the weights' row; `got` the logged weights (K,), `expected` the method's (K,), `allowance` (K,);
    `kink` whether rounding alone can change the answer by more than rounding.
    """

    row: int
    got: Array
    expected: Array
    allowance: Array
    kink: bool

    @property
    def error(self) -> float:
        """The largest |got − expected| over the tasks."""
        return float(np.max(np.abs(self.got - self.expected)))

    @property
    def task(self) -> int:
        """The task with the largest error."""
        return int(np.argmax(np.abs(self.got - self.expected)))

    @property
    def agrees(self) -> bool:
        """Whether no task's error exceeds its allowance."""
        return bool(np.all(np.abs(self.got - self.expected) <= self.allowance))


@dataclass(frozen=True)
class Block:
    """Rows compared: `rows` (n,) of the log, `got`, `expected`, `allowance` (n, K), `kinks` (n,)."""

    rows: NDArray[np.int64]
    got: Array
    expected: Array
    allowance: Array
    kinks: NDArray[np.bool_]

    @property
    def agrees(self) -> NDArray[np.bool_]:
        """Which rows agree: no task's error exceeds its allowance."""
        return np.asarray(np.all(np.abs(self.got - self.expected) <= self.allowance, axis=1))

    def __getitem__(self, at: int) -> Transition:
        got, expected, allowance = (np.array(x[at]) for x in (self.got, self.expected, self.allowance))
        return Transition(int(self.rows[at]), got, expected, allowance, bool(self.kinks[at]))


def compared(method: Method, log: Log, one_is_enough: bool = False) -> Iterator[Block]:
    """Yield each row's weights against the method's, which has been given the log's own weights up to the row before.

    With `one_is_enough` the worst row of a block is looked at first, and if it departs, the block is that row alone.
    A lagged method's weights at a row come from the row before; the first row's are those it starts with.
    Errors: MtlrefError, with the step in the message, where the method cannot be evaluated on the log.
    """
    weights, replay = logged_weights(log), Replay(method, log)
    if method.lagged and np.isfinite(weights[0]).all():
        expected = weights_of(method.init(len(log.tasks)))[None]
        yield Block(np.zeros(1, dtype=np.int64), weights[:1], expected, plain(log, expected), np.zeros(1, dtype=bool))
    for done in replay.blocks():
        rows = done.start + method.lagged + np.arange(len(done.expected))
        got = np.asarray(weights[rows[0] : rows[0] + len(rows)]) if len(rows) else done.expected
        allowance = np.array(plain(log, done.expected))
        known = np.isfinite(got).all(axis=1)
        off = np.flatnonzero(known & np.any(np.abs(got - done.expected) > allowance, axis=1))
        kinks = np.zeros(len(rows), dtype=bool)
        if len(off) > 1 and one_is_enough:
            ratio = np.max(np.abs(got[off] - done.expected[off]) / allowance[off], axis=1)
            worst = off[[int(np.argmax(ratio))]]
            more = allowance[worst] + spread(replay, worst, done.before, done.start, done.expected)
            only = Block(rows[worst], got[worst], done.expected[worst], more, kinks[worst])
            if not only.agrees.all():
                yield only
                continue
        if len(off):
            more = spread(replay, off, done.before, done.start, done.expected)
            kinks[off] = np.any(more > (KINK - 1) * allowance[off], axis=1)
            allowance[off] += more
        yield Block(rows[known], got[known], done.expected[known], allowance[known], kinks[known])


class Tally:
    """What the blocks so far have shown: numbers of steps, the first departure and the worst comparison."""

    def __init__(self, lagged: bool) -> None:
        self.lagged = lagged
        self.steps = self.kinks = self.departures = 0
        self.first: Transition | None = None
        self.worst: Transition | None = None
        self.excess = -np.inf

    def add(self, block: Block) -> None:
        """Count one block."""
        if not len(block.rows):
            return
        off = np.flatnonzero(~block.agrees)
        excess = np.max(np.abs(block.got - block.expected), axis=1) - np.max(block.allowance, axis=1)
        at = int(np.argmax(excess))
        if excess[at] > self.excess:
            self.excess, self.worst = float(excess[at]), block[at]
        if len(off) and self.first is None:
            self.first = block[int(off[0])]
        self.steps += len(block.rows) - int(self.lagged and block.rows[0] == 0)
        self.kinks += int(block.kinks.sum())
        self.departures += len(off)
