"""The verdict: does the run follow the method, where does it first depart, and which known defects explain it.

The diagnosis tries the known defects one at a time, then two at a time, on the same log under the same allowances. It
names those that agree with every row, and only the simplest ones. It says *ambiguous* when several fit equally,
and *too short* when fewer than `FEWEST` steps stand behind the answer. Where none agrees, the log's numbers are read
otherwise (`mtlref.audit.readings`), and what agrees then is the answer. The verdict also lists the single defects
that would go unseen: those this log cannot rule out, because with them the numbers agree as well.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

import numpy as np

from mtlref.audit.alike import Alike
from mtlref.audit.compare import Block, Tally, Transition, compared
from mtlref.audit.drift import FreeRun, free_run
from mtlref.audit.readers import Log
from mtlref.audit.readings import possible, read
from mtlref.audit.replay import feeds_back, logged_weights
from mtlref.audit.spool import BLOCK
from mtlref.contract import Method
from mtlref.defects import DEFECTS, Defect, combinations, compatible, variant
from mtlref.notation import LogError, MtlrefError
from mtlref.progress import track

FEWEST = 8
"""Steps that must stand behind a diagnosis: with fewer, wrong variants are told apart by luck."""

LONG = 200_000
"""How many rows a log has for which progress is shown."""

Kind = Literal["identical", "ambiguous", "too short", "unknown"]


@dataclass(frozen=True)
class Explanation:
    """Defects that, together, give the logged weights: `largest` is the largest error left, `steps` those judged."""

    defects: tuple[Defect, ...]
    largest: float
    allowance: float
    steps: int

    @property
    def name(self) -> str:
        """The defects' names with the equations they break."""
        return " + ".join(f"{defect.name} [{defect.equation}]" for defect in self.defects)


@dataclass(frozen=True)
class Diagnosis:
    """What explains a departure. `kind` says how sure it is, `explanations` holds the simplest that fit.

    `readings`: they explain the numbers so read (`mtlref.audit.readings`), one without defects as the method's own.
    """

    kind: Kind
    explanations: tuple[Explanation, ...]
    readings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Verdict:
    """What the replay of `log` by `method` shows.

    `steps` judged, of which `kinks` decide nothing; `unjudged` steps on rows that lack a number or hang on one;
    `first` departure and `worst` transition; `departures` counted, of which `wrong_starts` are the weights that a run
    starts with; `run` the whole run against a replay from its start; `restarts`: rows at which another run starts;
    `stopped`: why, after a departure, no step was judged any more; `same`: the names of known defects that change no
    step of the method on the log. What explains a departure, and what the log cannot rule out, is found when it is
    asked for.
    """

    method: Method = field(repr=False, compare=False)
    log: Log = field(repr=False, compare=False)
    steps: int
    kinks: int
    unjudged: int
    departures: int
    first: Transition | None
    worst: Transition
    run: FreeRun
    restarts: tuple[int, ...] = ()
    stopped: str = ""
    wrong_starts: int = 0
    same: frozenset[str] = frozenset()

    @property
    def passed(self) -> bool:
        """Whether every judged step agrees, and the whole run with them."""
        return self.first is None and self.run.follows

    @cached_property
    def diagnosis(self) -> Diagnosis | None:
        """What explains the departures; None if there are none."""
        if not self.departures:
            return None
        found = diagnose(self.method, self.log, self.same)
        if found.kind != "unknown" or self.log.readings:
            return found
        return diagnosed_otherwise(self.method, self.log, wrong=2 * self.departures > self.steps)

    @cached_property
    def open_defects(self) -> tuple[Defect, ...]:
        """The single defects that the log cannot rule out, beside what explains it."""
        return open_defects(self.method, self.log, self.diagnosis, self.same)


def judge(method: Method, log: Log, progress: bool | None = False) -> Verdict:
    """Return the verdict on a log that holds what `method` reads.

    `progress`: whether a bar is shown, None: where standard error is a terminal and the log is long.
    Errors: MtlrefError, with the step, where the log leaves the method's domain before it departs from the method.
    """
    watch = Alike({d.name: variant(method, d) for d in DEFECTS[method.stem]})
    shown = (len(log.rows) >= LONG and None) if progress is None else progress
    tally, stopped = tallied(track(compared(method, log, watch=watch), len(log.rows) // BLOCK + 1, "rows", shown))
    if log.late and not tally.steps:
        raise begun_before(method, log)
    first = None if tally.first is None else tally.first.row
    if feeds_back(method):
        free = free_run(method, log, tally.restarts, first, tally.undecided)
    else:
        free = uncorrected(tally, method, log)
    if tally.worst is None and not free.rows:
        message = f"{log.source}: no row of the log can be judged: a number is missing or not finite in each"
        raise LogError(message, argument="log")
    if log.stride > 1 and remembers(method, log) and (tally.departures or not free.follows):
        raise undecided(method, log)
    return Verdict(
        method=method,
        log=log,
        steps=tally.steps,
        kinks=tally.kinks,
        unjudged=len(log.rows) - method.lagged * (1 + len(tally.restarts)) - tally.steps,
        departures=tally.departures,
        first=tally.first,
        worst=tally.worst or at_the_end(log, free),
        run=free,
        restarts=tuple(tally.restarts),
        stopped=stopped,
        wrong_starts=tally.wrong_starts,
        same=frozenset(watch.left),
    )


def tallied(blocks: Iterable[Block]) -> tuple[Tally, str]:
    """Return what the blocks show, and why they ended after a departure, if the method could not go on.

    Errors: MtlrefError where it could not go on before one.
    """
    tally = Tally()
    try:
        for block in blocks:
            tally.add(block)
    except MtlrefError as error:
        if not tally.departures:
            raise
        return tally, str(error)
    return tally, ""


def uncorrected(tally: Tally, method: Method, log: Log) -> FreeRun:
    """Return the whole run of a method that makes no weights from weights: it is what the steps were."""
    if tally.end is None or tally.worst is None:
        return free_run(method, log)
    worst, first = tally.worst, tally.first
    allowed = float(worst.allowance[worst.task])
    row = None if first is None else first.row
    return FreeRun(tally.end.expected, tally.end.row, worst.error, allowed, row, tally.steps)


def at_the_end(log: Log, free: FreeRun) -> Transition:
    """Return the end of the replay from the start, where no step can be judged by itself."""
    got = np.array(logged_weights(log)[free.end_row])
    return Transition(free.end_row, got, free.end, np.full(len(got), free.allowed), kink=False)


def remembers(method: Method, log: Log) -> bool:
    """Return whether a step hangs on those before it."""
    return method.lagged or bool(vars(method.init(len(log.tasks))))


def undecided(method: Method, log: Log) -> LogError:
    """Return the error that rows which may not follow each other do not agree."""
    where = f"{log.source}: the rows do not follow each other by {method.title}, and the steps go by {log.stride}"
    message = (
        f"{where}: if the run took steps between them, the log cannot decide; if it took none, say --consecutive"
    )
    return LogError(message, argument="log")


def begun_before(method: Method, log: Log) -> LogError:
    """Return the error that no step can be judged of a log that begins after its run did."""
    where = f"{log.source}: the log begins at {method.cadence} {log.rows[0]}, with weights that no run starts with"
    why = f"every step hangs on what {method.title} remembers of those before"
    if vars(method).get("initial_losses", ()) is None:
        why += "; give L(0), initial_losses=[…], or alpha and the lr of plain descent, if the digits show its signs"
    return LogError(f"{where}: {why}", argument="log")


def open_defects(
    method: Method, log: Log, diagnosis: Diagnosis | None, same: Collection[str] = ()
) -> tuple[Defect, ...]:
    """Return the single defects that may be there as well: with them, what explains the log explains it still.

    `same`: names of those that change no step of the method on this log.
    """
    if diagnosis is not None and (diagnosis.kind != "identical" or diagnosis.readings):
        return ()
    there = () if diagnosis is None else diagnosis.explanations[0].defects
    others = [d for d in DEFECTS[method.stem] if compatible((*there, d))]
    if there:
        watch = Alike({d.name: variant(method, *there, d) for d in others})
        explains(method, log, there, watch)
        same = watch.left
    begun = begins(method, log, there)
    return tuple(
        d
        for d in others
        if d.replaces.keys() == {"head_weights"}  # what the heads get is in no log
        or (
            begins(method, log, (*there, d)) >= begun
            and (d.name in same or explains(method, log, (*there, d)) is not None)
        )
    )


def begins(method: Method, log: Log, defects: tuple[Defect, ...]) -> bool:
    """Return whether the log starts with the weights of the method with `defects`, or of a step of it."""
    try:
        first = next((block for block in compared(variant(method, *defects), log) if len(block.rows)), None)
    except MtlrefError:
        return False
    return first is not None and bool(first.agrees[0])


def diagnose(method: Method, log: Log, same: Collection[str] = (), most: int = 2) -> Diagnosis:
    """Return the simplest combinations of known defects, up to `most` at once, that agree with every row of the log.

    `same`: names of defects that change no step of the method on this log. They explain no departure, and two of them
    are not tried together.
    """
    fits: list[Explanation] = []
    for defects in combinations(method.stem, most):
        if fits and len(defects) > len(fits[0].defects):
            break
        if all(defect.name in same for defect in defects):
            continue
        explanation = explains(method, log, defects)
        if explanation is not None:
            fits.append(explanation)
    return Diagnosis(kind_of(fits), tuple(fits))


def diagnosed_otherwise(method: Method, log: Log, wrong: bool) -> Diagnosis:
    """Return what explains a log's numbers read otherwise: the method, or else, if `wrong`, with one known defect."""
    for names in possible(method, log):
        right = explains(method, read(method, log, names), ())
        if right is not None:
            return Diagnosis(kind_of([right]), (right,), names)
    for names in [alone for alone in possible(method, log) if len(alone) == 1] if wrong else ():
        found = diagnose(method, read(method, log, names), most=1)
        if found.kind != "unknown":
            return replace(found, readings=names)
    return Diagnosis("unknown", ())


def kind_of(fits: Sequence[Explanation]) -> Kind:
    """Return how sure the diagnosis is, from the explanations that fit."""
    if not fits:
        return "unknown"
    if min(fit.steps for fit in fits) < FEWEST:
        return "too short"
    return "identical" if len(fits) == 1 else "ambiguous"


def explains(method: Method, log: Log, defects: tuple[Defect, ...], watch: Alike | None = None) -> Explanation | None:
    """Return the explanation by `defects` if the method with them agrees with every row, None otherwise.

    The first row's weights are not asked for: where a run starts is seen apart from how it goes on. No row of a
    late log may be judged with it: it explains nothing.
    """
    wrong = variant(method, *defects)
    largest, allowance, steps, rows = 0.0, 0.0, 0, 0
    try:
        with np.errstate(all="ignore"):  # a defect may divide by 0; what comes of it agrees with no log
            for block in compared(wrong, log, one_is_enough=True, watch=watch):
                if block.initial:
                    continue
                if not block.agrees.all():
                    return None
                largest = max(largest, float(np.max(np.abs(block.got - block.expected))))
                allowance = max(allowance, float(np.max(block.allowance)))
                steps, rows = steps + int(np.sum(~block.kinks)), rows + len(block.rows)
    except MtlrefError:
        return None
    if log.late and not rows:
        return None
    return Explanation(defects, largest, allowance, steps)
