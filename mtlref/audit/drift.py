"""The whole run: a replay that starts as the log starts and is not corrected again, beside the log.

A step that is off by less than its allowance, always in one direction, adds up. So does a wrong step in a log whose
digits are too few to show it: the replay from the start does not read the weights that the log rounded, and its
allowance is only what the *losses and norms* may be off by, and the rounding of the run's own arithmetic. At a row
the allowance is the sum of

- the plain allowance of the row, and that of the steps before it, taken to be independent: √t times that of one;
- where that does not suffice, what other replays show, of the same log with numbers moved by what they may be off:
  for every column, how far it ends up elsewhere if the whole column is moved up, or down, and so for each weight it
  starts with, added up; and three times the farthest of `RANDOM` replays with every number moved at random.

The replays run side by side, as rows (`mtlref.audit.rows`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtlref.audit.allowance import plain
from mtlref.audit.lift import lifted, numbers, step_rows
from mtlref.audit.precision import ROUNDINGS, arithmetic
from mtlref.audit.readers import Log, part
from mtlref.audit.replay import FAILS, SEALED, SIZES, Replay, drawn, gradients, logged_weights, stepped, whole
from mtlref.audit.rows import Rows, spread_out
from mtlref.audit.spool import BLOCK
from mtlref.contract import Method, Step, weights_of
from mtlref.methods import Combination
from mtlref.methods.stages import EQUALISERS
from mtlref.notation import Array, MtlrefError
from mtlref.state import State

RANDOM = 8
"""How many replays have every number moved at random."""


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
    ensemble: Iterator[Array] | None = None
    done = seen = 0
    for free in blocks(method, log):
        rows = np.arange(done, done + len(free), dtype=np.int64)
        logged = np.asarray(logged_weights(log)[done : done + len(free)])
        seen += int(np.sum(np.all(np.isfinite(logged), axis=1))) - int(method.lagged and not done)
        errors = np.where(np.isfinite(logged), np.abs(free - logged), 0.0)
        allowance = rounding(log, free, rows)
        known = departed is not None and done + len(free) > departed >= 0
        if first is None and np.any(errors > allowance) and method.stem != "combination" and not known:
            ensemble = ensemble or skipped(moved(method, log), done)
            allowance = np.add(allowance, spread_until(ensemble, errors - allowance))
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
    replay, at, sizes = Replay(method, log), 0, iter(SIZES)
    state = method.init(len(log.tasks))
    if method.lagged and np.isfinite(logged_weights(log)[0]).all():
        state = method.resumed(state, logged_weights(log)[0])
    while at < len(log.rows):
        stop = min(at + next(sizes, BLOCK), len(log.rows))
        good = whole(method, log, at, stop, corrected=False)
        stop = stop if good.all() else at + int(np.argmin(good))
        if stop == at:
            return
        free, after = run_on(replay, at, stop, state)
        if len(free):
            yield free
        if after is None:
            return
        at, state = stop, after


def run_on(replay: Replay, start: int, stop: int, state: State) -> tuple[Array, State | None]:
    """Return the weights in use (n, K) on the rows from `start`, and the state after, None where it cannot go on."""
    if replay.at_once and start > 0 and stop - start > 1:
        try:
            with np.errstate(**SEALED):
                found = replay.run_on(start, stop, state)
            replay.failures = 0
            return found
        except FAILS:
            replay.failures += 1
    free: list[Array] = []
    for at in range(start, stop):
        try:
            out = single(replay, at, state)
        except MtlrefError:
            free += [weights_of(state)] * replay.method.lagged
            return np.array(free), None
        free.append(out.weights)
        state = out.state
    return np.array(free), state


def single(replay: Replay, at: int, state: State) -> Step:
    """Return one step from the replay's own state. Errors: MtlrefError."""
    log = replay.log
    if replay.light is not None:
        try:
            with np.errstate(**SEALED):
                return replay.light.step(state, log.losses[at], replay.norms_at(at))
        except FAILS:
            pass
    return stepped(replay.method, state, log.losses[at], gradients(log, at), drawn(log, at))


# THE LOG WITH ITS NUMBERS MOVED


def skipped(ensemble: Iterator[Array], rows: int) -> Iterator[Array]:
    """Return what the moved replays show after so many rows."""
    for _ in range(rows):
        next(ensemble, None)
    return ensemble


def spread_until(ensemble: Iterator[Array], excess: Array) -> Array:
    """Return what the moved replays show at rows that come next, (n, K), to the first that still exceeds it.

    `excess` (n, K): by how much the rows' errors exceed their other allowances. Where the replays cannot go on there
    is no bound.
    """
    found = np.zeros(excess.shape)
    for at, over in enumerate(excess):
        found[at] = next(ensemble, np.inf)
        if np.any(over > found[at]):
            break
    return found


def moved(method: Method, log: Log) -> Iterator[Array]:
    """Yield, for each row, how far rounding in the log's numbers moves the replay's weights, (K,)."""
    light: Any = lifted(method)
    K = len(log.tasks)
    kinds = [log.losses] if log.norms is None else [log.losses, log.norms]
    known = [log.precision["losses"], log.precision["norms"]][: len(kinds)]
    systematic = 2 * K * (1 + len(kinds))
    count = 1 + systematic + RANDOM
    signs = np.zeros((1 + len(kinds), count, K))
    for kind in range(1 + len(kinds)):
        for task in range(K):
            at = 1 + 2 * (kind * K + task)
            signs[kind, at : at + 2, task] = 1, -1
    rng = np.random.default_rng(0)
    first = np.asarray(logged_weights(log)[0])
    first = first if np.isfinite(first).all() else weights_of(method.init(K))
    starts = Rows(first + signs[0] * log.precision["weights"].of(first))
    state: Any = spread_out(method.init(K), count)
    for at in range(len(log.rows)):
        signs[1:, 1 + systematic :] = rng.choice([-1.0, 1.0], (len(kinds), RANDOM, K))
        values = [Rows(kind[at] + signs[i + 1] * known[i].of(np.asarray(kind[at]))) for i, kind in enumerate(kinds)]
        try:
            with np.errstate(**SEALED):
                state = light.resumed(state, starts) if light.lagged and at == 0 else state
                out = step_rows(light, state, values[0], values[1] if len(values) == 2 else None)
        except FAILS:
            return
        w = numbers(out.weights, count)
        state = spread_out(out.state, count)
        changes = np.abs(w - w[0])
        pairs = changes[1 : 1 + systematic].reshape(-1, 2, K).max(axis=1).sum(axis=0)
        yield pairs + 3 * changes[1 + systematic :].max(axis=0)
