"""The comparison: each row's weights against the method's, within the row's allowance, block by block.

A run that starts again in the middle of a log, its method's memory lost, departs there, and at first sight no other
row does. It is recognised by what follows: the weights there are those that the method begins with, and the next
`ANEW` steps at least follow from them. Such a row is the first of another run, and is reported, not counted as a
departure. Where the steps' numbers begin anew (`Log.starts`) another run is there from the start.

A log whose first step is numbered above 1, with weights that no run starts with, begins late: these weights are taken
as they are, and no step is judged that hangs on what came before.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from mtlref.audit.alike import Alike
from mtlref.audit.allowance import jumps, leaps, plain, spread
from mtlref.audit.memory import Memory
from mtlref.audit.readers import Log, part
from mtlref.audit.replay import Replay, Steps, logged_weights
from mtlref.contract import Method, weights_of
from mtlref.methods.stages import EQUALISERS
from mtlref.notation import Array, MtlrefError


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


ANEW = 8
"""How many steps must follow from a beginning in the middle of a log."""

CANDIDATES = 16
"""How many departures of a block are looked at for a beginning."""


LOOSE = 4
"""Where the row's own numbers may move the answer by more than this many times its rounding, a kink is looked for."""

NEARLY = 100
"""The first weights of a run are off by no more than this many times their rounding."""

FAR = 2**20
"""An error of so many times what the row's own numbers allow is not put down to the rows before it."""


@dataclass(frozen=True)
class Block:
    """Rows compared: `rows` (n,) of the log, `got`, `expected`, `allowance` (n, K), `kinks` (n,).

    `initial`: it is the one row that a lagged method's run starts with, which no step decided. `opens`: its first row
    is the first one judged of another run.
    """

    rows: NDArray[np.int64]
    got: Array
    expected: Array
    allowance: Array
    kinks: NDArray[np.bool_]
    initial: bool = False
    opens: bool = False

    @property
    def agrees(self) -> NDArray[np.bool_]:
        """Which rows agree: no task's error exceeds its allowance."""
        return np.asarray(np.all(np.abs(self.got - self.expected) <= self.allowance, axis=1))

    def __getitem__(self, at: int) -> Transition:
        got, expected, allowance = (np.array(x[at]) for x in (self.got, self.expected, self.allowance))
        return Transition(int(self.rows[at]), got, expected, allowance, bool(self.kinks[at]))

    def before(self, row: int) -> Block:
        """Return the rows up to `row`."""
        n = int(np.searchsorted(self.rows, row))
        got, expected, allowance = (x[:n] for x in (self.got, self.expected, self.allowance))
        return Block(self.rows[:n], got, expected, allowance, self.kinks[:n], self.initial, self.opens)


def compared(method: Method, log: Log, one_is_enough: bool = False, watch: Alike | None = None) -> Iterator[Block]:
    """Yield each row's weights against the method's, which has been given the log's own weights up to the row before.

    With `one_is_enough` the worst row of a block is looked at first, and if it departs, the block is that row alone.
    A lagged method's weights at a row come from the row before; the first row's are those it starts with.
    `watch` is shown every block of steps.
    Errors: MtlrefError, with the step in the message, where the method cannot be evaluated on the log.
    """
    for start, stop in pairwise((*log.starts, len(log.rows))):
        here: int | None = start
        while here is not None:
            here = yield from one_run(method, log, here, stop, one_is_enough, watch)


def one_run(
    method: Method, log: Log, start: int, stop: int, one_is_enough: bool, watch: Alike | None
) -> Generator[Block, None, int | None]:
    """Yield the blocks of the run that starts at a row; return where another one starts before `stop`, or None."""
    here, opens = part(log, start, stop), start > 0
    for block in followed_up(method, here, one_is_enough, watch):
        departing = block.rows[~block.agrees][:CANDIDATES]
        anew = next((int(row) for row in departing if begins_anew(method, here, int(row))), None)
        if anew is not None:
            block = block.before(anew)
        if len(block.rows):
            yield replace(block, rows=block.rows + start, opens=opens)
            opens = False
        if anew is None:
            continue
        return start + anew
    return None


def begins_anew(method: Method, log: Log, row: int) -> bool:
    """Return whether a run starts at `row`: its weights are the first ones, and what follows them is the method's."""
    if row == 0 or row + ANEW + method.lagged > len(log.rows):
        return False
    try:
        if not starts_here(method, log, row):
            return False
        judged = 0
        for block in followed_up(method, part(log, row, row + ANEW + method.lagged), False):
            if not block.agrees.all():
                return False
            judged += len(block.rows)
    except MtlrefError:
        return False
    return judged >= ANEW + method.lagged


def starts_here(method: Method, log: Log, row: int, nearly: float = NEARLY) -> bool:
    """Return whether the weights of a row may be the first ones of a run; those of a lifted method hang on no number.

    They are off by no more than `nearly` times their rounding. Errors: MtlrefError where no step can be taken there.
    """
    state = method.init(len(log.tasks))
    if method.lagged:
        first = weights_of(state)
    else:
        replay = Replay(method, log)
        if replay.light is None:
            return True
        first = replay.single(row, state).weights
    off = np.abs(np.asarray(logged_weights(log)[row]) - first)
    return not np.any(off > nearly * plain(log, first[None])[0])


def begins_late(method: Method, log: Log) -> bool:
    """Return whether the run began before the log does."""
    if not len(log.rows) or log.rows[0] <= 1 or not np.isfinite(logged_weights(log)[0]).all():
        return False
    try:
        return not starts_here(method, log, 0, nearly=1)
    except MtlrefError:
        return False


def followed_up(method: Method, log: Log, one_is_enough: bool, watch: Alike | None = None) -> Iterator[Block]:
    """Yield the blocks of a log that is one run."""
    weights, replay, memory = logged_weights(log), Replay(method, log), Memory(method, log)
    if method.lagged and not log.late and np.isfinite(weights[0]).all():
        expected = weights_of(method.init(len(log.tasks)))[None]
        allowance, kinks = plain(log, expected), np.zeros(1, dtype=bool)
        yield Block(np.zeros(1, dtype=np.int64), weights[:1], expected, allowance, kinks, initial=True)
    for done in replay.blocks():
        if watch is not None:
            watch.add(replay, done)
        rows = done.start + method.lagged + np.arange(len(done.expected))
        got = np.asarray(weights[rows[0] : rows[0] + len(rows)]) if len(rows) else done.expected
        allowance = np.array(plain(log, done.expected))
        known, errors = np.isfinite(got).all(axis=1), np.abs(got - done.expected)
        enough = allowance + own(replay, done)
        off = np.flatnonzero(known & np.any(errors > enough, axis=1))
        kinks = np.zeros(len(rows), dtype=bool)
        if len(off) > 1 and one_is_enough:
            ratio = np.max(np.abs(got[off] - done.expected[off]) / allowance[off], axis=1)
            worst = off[[int(np.argmax(ratio))]]
            more, at_kink = beyond(replay, memory, done, worst, got[worst], allowance[worst])
            only = Block(rows[worst], got[worst], done.expected[worst], allowance[worst] + more, at_kink)
            departs = not only.agrees.all()
            if departs and not any(begins_anew(method, log, int(row)) for row in rows[off[:CANDIDATES]]):
                yield only
                continue
        if len(off):
            more, kinks[off] = beyond(replay, memory, done, off, got[off], allowance[off])
            enough[off] = allowance[off] + more
        memory.passed(done)
        yield Block(rows[known], got[known], done.expected[known], enough[known], kinks[known])


def own(replay: Replay, done: Steps) -> Array:
    """Return what printing has moved the weights by from which steps were taken, (n, K): they go on from there.

    Where no more is needed, no other number is asked. A combination's go on through its stages' own, and are asked.
    """
    at = slice(done.start, done.start + len(done.expected))
    if not isinstance(replay.method, EQUALISERS):
        return np.zeros(done.expected.shape)
    return replay.log.precision["weights"].printed(np.asarray(logged_weights(replay.log)[at]))


def beyond(
    replay: Replay, memory: Memory, done: Steps, off: NDArray[np.intp], got: Array, allowance: Array
) -> tuple[Array, NDArray[np.bool_]]:
    """Return what rounding may do to the answers of the steps `off` (m, K), and which of them lie at a kink.

    Besides the plain `allowance` that is the rounding of the rows' own numbers, where it does not suffice that of the
    rows before, and where that does not, what all the rows' numbers do together.
    """
    block = done.before, done.start, done.expected
    more, errors = spread(replay, off, *block), np.abs(got - done.expected[off])

    def unexplained() -> NDArray[np.intp]:
        allowed = allowance + more
        return np.flatnonzero(np.any(errors > allowed, axis=1) & np.all(errors <= FAR * allowed, axis=1))

    kinks = np.zeros(len(off), dtype=bool)
    large = np.flatnonzero(np.any(more > LOOSE * allowance, axis=1))
    if len(large):
        kinks[large] = jumps(replay, off[large], *block)
    left = unexplained()
    if len(left):
        more[left] += memory.allowed(done, off[left])
        left = unexplained()
    if len(left):
        farther = leaps(replay, off[left], *block)
        excused = np.all(errors[left] <= allowance[left] + more[left] + farther, axis=1)
        more[left[excused]] += farther[excused]
        kinks[left[excused]] = True
    return more, kinks


class Tally:
    """What the blocks so far have shown: numbers of steps, the first departure and the worst comparison.

    `departures` are of rows: of steps, and of the weights that runs start with, `wrong_starts`.
    """

    def __init__(self) -> None:
        self.steps = self.kinks = self.departures = self.wrong_starts = 0
        self.restarts, self.undecided = list[int](), list[int]()
        self.end: Transition | None = None
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
        self.end = block[-1]
        self.steps += 0 if block.initial else len(block.rows)
        if block.opens:
            self.restarts.append(int(block.rows[0]))
        self.kinks += int(block.kinks.sum())
        self.undecided += block.rows[block.kinks].tolist()
        self.departures += len(off)
        self.wrong_starts += len(off) * block.initial
