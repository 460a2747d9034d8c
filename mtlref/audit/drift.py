"""The whole run: a replay that starts as the log starts and is not corrected again, beside the log.

A step that is off by less than its allowance, always in one direction, adds up. So does a wrong step in a log whose
digits are too few to show it: the replay from the start does not read the weights that the log rounded, and its
allowance is only what the *losses and norms* may be off by, and the rounding of the run's own arithmetic. At a row
the allowance is the sum of

- the plain allowance of the row, and that of the steps before it, taken to be independent: √t times that of one;
- where that does not suffice, what other replays show, of the same log with numbers moved by what they may be off:
  for every column, how far it ends up elsewhere if the whole column is moved up, or down, and so for each weight it
  starts with, added up; and three times the farthest of `RANDOM` replays with every number moved at random.

The replays run side by side, as rows (`mtlref.audit.rows`), along one line (`mtlref.audit.line`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtlref.audit.allowance import plain
from mtlref.audit.lift import lifted, numbers
from mtlref.audit.line import Course
from mtlref.audit.march import march
from mtlref.audit.precision import ROUNDINGS, arithmetic
from mtlref.audit.readers import Log, part
from mtlref.audit.replay import SIZES, Replay, drawn, gradients, logged_weights, numbers_of, stepped, whole
from mtlref.audit.rows import Rows, followed, row, spread_out, take
from mtlref.audit.spool import BLOCK, let_go, spans
from mtlref.contract import Method, weights_of
from mtlref.methods import Combination
from mtlref.methods.stages import EQUALISERS
from mtlref.notation import Array, MtlrefError

RANDOM = 8
"""How many replays have every number moved at random."""

SIDE = 128
"""How many rows the moved replays go on at once."""


@dataclass(frozen=True)
class FreeRun:
    """The replay from the start, against the log.

    `end` (K,) its last weights, at `end_row`, where it or the log's whole rows end; `apart` its largest distance from
    the log and `allowed` the allowance there; `first` the first row whose distance exceeds the allowance, or None;
    `rows` how many rows were compared.
    """

    end: Array
    end_row: int
    apart: float
    allowed: float
    first: int | None
    rows: int = 0

    @property
    def follows(self) -> bool:
        """Whether the whole run follows from its start."""
        return self.first is None


def feeds_back(method: Method) -> bool:
    """Return whether a method makes its next weights from those in use: only then can a run drift."""
    stages = [stage.method for stage in method.stages] if isinstance(method, Combination) else [method]
    return any(isinstance(stage, EQUALISERS) for stage in stages)


def free_run(method: Method, log: Log, restarts: Sequence[int] = (), departed: int | None = None) -> FreeRun:
    """Return the replay of the log's runs: the one that goes farthest astray, and the end of the last.

    `restarts`: rows at which, after the first, another run starts. `departed`: the first row that does not follow
    from the one before it; a run that is astray from there on is not asked for what moved numbers would do.
    """
    starts = sorted({0, *log.starts, *restarts})
    runs = []
    for start, stop in pairwise((*starts, len(log.rows))):
        run = one_run(method, part(log, start, stop), None if departed is None else departed - start)
        first = None if run.first is None else run.first + start
        runs.append(replace(run, end_row=run.end_row + start, first=first))
    astray = [run for run in runs if not run.follows]
    worst = astray[0] if astray else max(runs, key=lambda run: run.apart)
    return replace(worst, end=runs[-1].end, end_row=runs[-1].end_row, rows=sum(run.rows for run in runs))


def one_run(method: Method, log: Log, departed: int | None = None) -> FreeRun:
    """Return the replay that starts with the log's first weights and is never corrected again.

    It ends where the method cannot go on, for its own weights may lead where the log's did not, and at a row that
    lacks a number.
    """
    end, end_row, apart, allowed, first = weights_of(method.init(len(log.tasks))), 0, 0.0, 0.0, None
    others: Moved | None = None
    done = seen = 0
    for free in blocks(method, log):
        rows = np.arange(done, done + len(free), dtype=np.int64)
        logged = np.asarray(logged_weights(log)[done : done + len(free)])
        seen += int(np.sum(np.all(np.isfinite(logged), axis=1))) - int(method.lagged and not done)
        errors = np.where(np.isfinite(logged), np.abs(free - logged), 0.0)
        allowance = rounding(log, free, rows)
        known = departed is not None and done + len(free) > departed >= 0
        if first is None and np.any(errors > allowance) and method.stem != "combination" and not known:
            others = others or Moved(method, log)
            allowance = np.add(allowance, others.spread(done, errors - allowance))
        over = np.flatnonzero(np.any(errors > allowance, axis=1))
        if len(over) and first is None:
            first = done + int(over[0])
        at = int(np.argmax(errors.max(axis=1)))
        if errors[at].max() >= apart:
            apart, allowed = float(errors[at].max()), float(allowance[at].max())
        done += len(free)
        end, end_row = free[-1], done - 1
    return FreeRun(end, end_row, apart, allowed, first, seen)


def rounding(log: Log, free: Array, rows: NDArray[np.int64]) -> Array:
    """Return the allowance (n, K) of rounding alone: the row's own, and that of the steps before it."""
    unit = ROUNDINGS * arithmetic(log.unit, log.precision)
    before = unit * np.max(np.abs(free), axis=1, keepdims=True) * np.sqrt(rows)[:, None]
    return np.asarray(plain(log, free) + before)


def blocks(method: Method, log: Log) -> Iterator[Array]:
    """Yield the replay's weights (n, K), a block of rows at a time, to the last row that it reaches."""
    free, at, sizes = Free(method, log), 0, iter(SIZES)
    while at < len(log.rows) and not free.ended:
        stop = min(at + next(sizes, BLOCK), len(log.rows))
        good = whole(method, log, at, stop, corrected=False)
        stop = stop if good.all() else at + int(np.argmin(good))
        weights = free.through(at, stop)
        if len(weights):
            yield weights
        let_go(*numbers_of(log))
        if stop == at:
            return
        at = stop


class Free:
    """The replay that is not corrected: `ended` where the method cannot go on.

    The log's own weights are a guess of what is remembered at its rows. Where it leads nowhere, rows go in turn.
    """

    def __init__(self, method: Method, log: Log) -> None:
        self.replay, self.ended = Replay(method, log), False
        self.state = method.init(len(log.tasks))
        if method.lagged and np.isfinite(logged_weights(log)[0]).all():
            self.state = method.resumed(self.state, logged_weights(log)[0])
        alone = [np.zeros(1, dtype=np.int64)] * len(read(log, 0, 0))
        light = self.replay.light
        self.course = None if light is None else Course(light, spread_out(self.state, 1), alone)

    def through(self, start: int, stop: int) -> Array:
        """Return the weights in use (n, K) on the rows from `start`, to `stop` or where it ends."""
        if start > 0 and stop - start > 1:
            found = self.replay.at_once.tried(lambda: self.guessed(start, stop))
            if found is not None:
                return found
        return self.in_turn(start, stop)

    def guessed(self, start: int, stop: int) -> Array:
        """Return the weights in use on rows from a guess. Errors: Trouble if it leads nowhere, those of a step."""
        replay, n = self.replay, stop - start
        logged = np.asarray(logged_weights(replay.log)[start:stop])
        w = Rows(np.where(np.isfinite(logged), logged, weights_of(self.state) if replay.method.lagged else 0.0))
        later = replay.given_weights(spread_out(self.state, n), w)
        guess = followed(self.state, take(later, np.append(np.arange(1, n), 0)))
        found = march(lambda before: replay.after(start, stop, before, False)[1], self.state, guess, divided=True)
        out, after = replay.after(start, stop, found, False)
        self.state = row(after, n - 1)
        return numbers(out.weights, n)

    def in_turn(self, start: int, stop: int) -> Array:
        """Return the weights in use on rows, one after the other."""
        found, at, course = list[Array](), start, self.course
        while at < stop and not self.ended:
            if course is not None and at > 0:
                course.state = spread_out(self.state, 1)
                part = course.through([x[:, None] for x in read(self.replay.log, at, stop)])
                found.append(part[:, 0])
                self.state, at = row(course.state, 0), at + len(part)
            if at < stop:
                weights = self.single(at)
                found += [] if weights is None else [weights[None]]
                at += 1
        return np.concatenate([np.empty((0, len(self.replay.log.tasks))), *found])

    def single(self, at: int) -> Array | None:
        """Take one step and return the weights in use; where none can be taken, the state's, if it has them."""
        replay, log = self.replay, self.replay.log
        try:
            out = stepped(replay.method, self.state, log.losses[at], gradients(log, at), drawn(log, at))
        except MtlrefError:
            self.ended = True
            return weights_of(self.state) if replay.method.lagged else None
        self.state = out.state
        return out.weights


def read(log: Log, start: int, stop: int) -> list[Array]:
    """Return the losses, and the norms if there are any, on rows."""
    kinds = [log.losses] if log.norms is None else [log.losses, log.norms]
    return [np.asarray(values[start:stop]) for values in kinds]


# THE LOG WITH ITS NUMBERS MOVED


class Moved:
    """Replays of the log with its numbers moved, side by side: first with none, then the columns, then all at random.

    What a row's losses are moved to, or its norms, the replays share: the others leave them as they are.
    """

    def __init__(self, method: Method, log: Log) -> None:
        self.log, self.K, self.rng = log, len(log.tasks), np.random.default_rng(0)
        K, kinds = self.K, len(read(log, 0, 0))
        self.systematic = 2 * K * (1 + kinds)
        self.known = [log.precision[kind] for kind in ("losses", "norms")]
        self.signs = np.concatenate([np.zeros((1, K)), np.kron(np.eye(K), [[1.0], [-1.0]])])
        count = 1 + self.systematic + RANDOM
        which = np.zeros((1 + kinds, count), dtype=np.int64)
        for kind, each in enumerate(which):
            each[1 + 2 * K * kind :][: 2 * K] = 1 + np.arange(2 * K)
            each[1 + self.systematic :] = 1 + 2 * K + np.arange(RANDOM)
        which[0, 1 + self.systematic :] = 0
        light: Any = lifted(method)
        first = np.asarray(logged_weights(log)[0])
        first = first if np.isfinite(first).all() else weights_of(method.init(K))
        state: Any = spread_out(method.init(K), count)
        if light.lagged:
            state = light.resumed(state, Rows(first + self.signs[which[0]] * log.precision["weights"].of(first)))
        self.course, self.at, self.ended = Course(light, state, list(which[1:])), 0, False

    def spread(self, start: int, excess: Array) -> Array:
        """Return how far rounding moves the replay's weights on the rows from `start`, (n, K).

        `excess` (n, K): by how much the rows' errors exceed their other allowances. At the first row that
        exceeds this one too they end, and the rows behind it have 0. Where they cannot go on there is no bound.
        """
        while self.at < start:
            self.through(min(start, self.at + SIDE))
        found = np.zeros(excess.shape)
        for span in spans(len(excess), SIDE):
            found[span] = self.through(start + min(span.stop, len(excess)))
            over = np.flatnonzero(np.any(excess[span] > found[span], axis=1))
            if len(over):
                found[span.start + int(over[0]) + 1 :] = 0.0
                break
        return found

    def through(self, stop: int) -> Array:
        """Return what the replays show on the next rows, up to `stop`, (n, K)."""
        n, columns = stop - self.at, 1 + self.systematic
        found = np.full((n, self.K), np.inf)
        if not self.ended:
            kinds = read(self.log, self.at, stop)
            random = self.rng.choice([-1.0, 1.0], (n, len(kinds), RANDOM, self.K))
            fixed = np.broadcast_to(self.signs, (n, *self.signs.shape))
            rows = [
                values[:, None] + np.concatenate([fixed, random[:, at]], axis=1) * known.of(values)[:, None]
                for at, (values, known) in enumerate(zip(kinds, self.known, strict=False))
            ]
            w = self.course.through(rows)
            changes = np.abs(w - w[:, :1])
            pairs = changes[:, 1:columns].reshape(len(w), -1, 2, self.K).max(axis=2).sum(axis=1)
            found[: len(w)] = pairs + 3 * changes[:, columns:].max(axis=1)
            self.ended = len(w) < n
        self.at = stop
        return found
