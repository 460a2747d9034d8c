"""The whole run: a replay that starts as the log starts and is not corrected again, beside the log.

A step that is off by less than its allowance, always in one direction, adds up. So does a wrong step in a log whose
digits are too few to show it: the replay from the start does not read the weights that the log rounded, and its
allowance is only what the *losses and norms* may be off by, and the rounding of the run's own arithmetic. At a row
the allowance is the sum of

- the plain allowance of the row, and that of the steps before it, taken to be independent: √t times that of one;
- where that does not suffice, what other replays show, of the same log with numbers moved by what they may be off
  (`mtlref.audit.moved`): for every column, how far it ends up elsewhere if the whole column is moved up, or down, and
  so for each weight it starts with, added up; and three times the farthest of those with all numbers moved at random.

Where rounding has taken the replay to the other side of a kink, a sign that turns, run and replay part for good,
though each follows the method. Such a step is known: between the log's weights and the replay's, which are as near as
rounding allows, its answer jumps; from half way between them it is not half as far off. There, and where a
step on the way was left undecided by the digits, the replay is set anew to the log's weights, and goes on. What
momentum or Adam remember of the sign that turned is in no log, and cannot be set anew: their replay ends there.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from mtlref.audit.allowance import PROPORTIONAL, plain
from mtlref.audit.free import Free, stretches
from mtlref.audit.moved import Moved
from mtlref.audit.precision import ROUNDINGS, arithmetic
from mtlref.audit.readers import Log, part
from mtlref.audit.replay import feeds_back, logged_weights
from mtlref.contract import Method, weights_of
from mtlref.methods.uncertainty import UncertaintyWeighting
from mtlref.notation import Array
from mtlref.state import State

LINGERS = 16
"""How many steps before a row that is astray a sign may have turned that momentum still carries."""


@dataclass(frozen=True)
class FreeRun:
    """The replay from the start, against the log.

    `end` (K,) its last weights, at `end_row`, where it or the log's whole rows end; `apart` its largest distance from
    the log and `allowed` the allowance there; `first` the first row whose distance exceeds the allowance, or None;
    `rows` how many rows were compared; `kinks` how often it was set anew at a kink; `parted`: rows where one ended.
    """

    end: Array
    end_row: int
    apart: float
    allowed: float
    first: int | None
    rows: int = 0
    kinks: int = 0
    parted: tuple[int, ...] = ()

    @property
    def follows(self) -> bool:
        """Whether the whole run follows from its start."""
        return self.first is None


def free_run(
    method: Method,
    log: Log,
    restarts: Sequence[int] = (),
    departed: int | None = None,
    undecided: Collection[int] = (),
) -> FreeRun:
    """Return the replay of the log's runs: the one that goes farthest astray, and the end of the last.

    `restarts`: rows at which, after the first, another run starts. `departed`: the first row that does not follow
    from the one before it; a run that is astray from there on is not asked for what moved numbers would do.
    `undecided`: rows at which the digits leave either outcome open.
    """
    starts = sorted({0, *log.starts, *restarts})
    runs = []
    for start, stop in pairwise((*starts, len(log.rows))):
        kinks = {row - start for row in undecided if start < row < stop}
        run = Drift(method, part(log, start, stop), None if departed is None else departed - start, kinks).run()
        first, parted = None if run.first is None else run.first + start, tuple(row + start for row in run.parted)
        runs.append(replace(run, end_row=run.end_row + start, first=first, parted=parted))
    astray = [run for run in runs if not run.follows]
    worst = astray[0] if astray else max(runs, key=lambda run: run.apart)
    rows, kinks_met = (sum(getattr(run, name) for run in runs) for name in ("rows", "kinks"))
    parted = tuple(row for run in runs for row in run.parted)
    return replace(worst, end=runs[-1].end, end_row=runs[-1].end_row, rows=rows, kinks=kinks_met, parted=parted)


def has_moments(state: object) -> bool:
    """Return whether a state, or that of a stage in it, has an optimiser's that holds numbers."""
    if isinstance(state, tuple):
        return any(map(has_moments, state))
    fields = vars(state) if isinstance(state, State) else {}
    return any(bool(vars(value)) if name == "optimiser" else has_moments(value) for name, value in fields.items())


class Drift:
    """One run beside its replay, a block of rows at a time."""

    def __init__(self, method: Method, log: Log, departed: int | None, undecided: Collection[int]) -> None:
        self.method, self.log, self.departed, self.undecided = method, log, departed, undecided
        self.free = Free(method, log)
        self.others: Moved | None = None
        self.marks: list[tuple[int, State]] = []
        self.set_at = 0
        self.found = FreeRun(weights_of(method.init(len(log.tasks))), 0, 0.0, 0.0, None)

    def run(self) -> FreeRun:
        """Return what the replay shows.

        It ends where the method cannot go on, for its own weights may lead where the log's did not, and at a row that
        lacks a number.
        """
        for start, stop in stretches(self.method, self.log):
            self.block(start, stop)
            if self.free.ended:
                break
        return self.found

    def block(self, start: int, stop: int) -> None:
        """Go through a block of rows, first through one: a replay that has parted there is set anew at once."""
        at, shown = start, np.zeros((stop - start, len(self.log.tasks)))
        known = self.departed is not None and stop > self.departed >= 0
        asked = known or self.method.stem == "combination"
        self.marks = [*self.marks[-1:], (start, self.free.state)]
        weights = self.free.through(at, at + 1)
        while True:
            rows = slice(at, at + len(weights))
            logged = np.asarray(logged_weights(self.log)[rows])
            errors = np.where(np.isfinite(logged), np.abs(weights - logged), 0.0)
            allowance = self.rounding(weights, at) + shown[at - start :][: len(weights)]
            over = np.flatnonzero(np.any(errors > allowance, axis=1))
            row = at + int(over[0]) if len(over) else rows.stop
            if not len(over) or self.found.first is not None:
                if rows.stop == stop or self.free.ended:
                    break
                weights = np.concatenate([weights, self.free.through(rows.stop, stop)])
            elif self.parts_at_kink(row) or self.parted_before(row):
                self.note(at, weights[: row - at], errors[: row - at], allowance[: row - at])
                if has_moments(self.free.state):
                    self.free.ended, self.found = True, replace(self.found, parted=(row,))
                    return
                at = row
                weights = self.set_anew(at, stop)
            elif not asked:
                self.others, asked = self.others or Moved(self.method, self.log), True
                shown = self.others.spread(start, stop)
            else:
                self.found = replace(self.found, first=row)
        self.note(at, weights, errors, allowance)

    def note(self, start: int, weights: Array, errors: Array, allowance: Array) -> None:
        """Take in rows that have been compared."""
        if not len(weights):
            return
        known = np.all(np.isfinite(logged_weights(self.log)[start : start + len(weights)]), axis=1)
        seen = self.found.rows + int(np.sum(known)) - int(self.method.lagged and not start)
        end_row = start + len(weights) - 1
        self.found = replace(self.found, end=weights[-1], end_row=end_row, rows=seen)
        at = int(np.argmax(errors.max(axis=1)))
        if errors[at].max() >= self.found.apart:
            apart, allowed = float(errors[at].max()), float(allowance[at].max())
            self.found = replace(self.found, apart=apart, allowed=allowed)

    def rounding(self, weights: Array, start: int) -> Array:
        """Return the allowance (n, K) of rounding alone: the row's own, and that of the steps since it was set.

        Of a weight e^−s that is the rounding of s, |log w| times as much.
        """
        sizes = np.max(np.abs(weights), axis=1, keepdims=True)
        if isinstance(self.method, UncertaintyWeighting):
            logarithms = np.abs(np.log(np.maximum(weights, np.finfo(np.float64).tiny)))
            sizes = sizes * (1 + np.max(logarithms, axis=1, keepdims=True))
        steps = np.sqrt(np.arange(start, start + len(weights)) - self.set_at)
        unit = ROUNDINGS * arithmetic(self.log.unit, self.log.precision)
        return np.asarray(plain(self.log, weights) + unit * sizes * steps[:, None])

    # KINKS

    def parts_at_kink(self, row: int) -> bool:
        """Return whether a kink parts run and replay at a row: of the step to it, or of one that was left open."""
        if row == 0 or not feeds_back(self.method) or (self.departed is not None and 0 <= self.departed <= row):
            return False
        logged = np.asarray(logged_weights(self.log)[row - 1 : row + 1])
        if not np.isfinite(logged).all():
            return False
        if any(self.set_at < open_row <= row for open_row in self.undecided):
            return True
        probe = self.replayed(row - 1)
        state, own, answers = probe.state, weights_of(probe.state), []
        for share in (0.0, 0.5, 1.0):
            probe.state = self.method.resumed(state, logged[0] + share * (own - logged[0]))
            probe.single(row - 1)
            answers.append(weights_of(probe.state))
        half, leap = (np.abs(there - answers[0]) for there in answers[1:])
        low, high = PROPORTIONAL
        jumps = (leap > plain(self.log, answers[2][None])[0]) & ((leap < low * half) | (leap > high * half))
        return not probe.ended and bool(np.any(jumps))

    def parted_before(self, row: int) -> bool:
        """Return whether a kink shortly before a row parts what an optimiser remembers in run and replay."""
        if not has_moments(self.free.state):
            return False
        return any(self.parts_at_kink(before) for before in range(row - 1, max(self.set_at, row - LINGERS), -1))

    def replayed(self, row: int) -> Free:
        """Return the replay before a row, from the last mark."""
        at, state = next(mark for mark in reversed(self.marks) if mark[0] <= row)
        probe = Free(self.method, self.log)
        probe.state = state
        probe.through(at, row)
        return probe

    def set_anew(self, row: int, stop: int) -> Array:
        """Set the replay to the log's weights at a row and return its own (n, K) from there on."""
        self.free.state = self.method.resumed(self.replayed(row).state, logged_weights(self.log)[row])
        self.free.ended, self.set_at = False, row
        self.marks = [*self.marks[-1:], (row, self.free.state)]
        self.found = replace(self.found, kinks=self.found.kinks + 1)
        return self.free.through(row, stop)
