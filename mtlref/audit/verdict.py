"""The verdict: does the run follow the method, where does it first depart, and which known defects explain it.

The diagnosis tries the known defects one at a time, then two at a time, on the same log under the same allowances. It
names those that agree with every row, and only the simplest ones. It says *ambiguous* when several fit equally,
and *too short* when fewer than `FEWEST` steps stand behind the answer. The verdict also lists the single defects
that would go unseen: those this log cannot rule out, because with them the numbers agree as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from mtlref.audit.readers import Log
from mtlref.audit.replay import Transition, free_run, logged_weights, transitions
from mtlref.contract import Method
from mtlref.defects import DEFECTS, Defect, combinations, compatible, variant
from mtlref.notation import Array, MtlrefError

FEWEST = 8
"""Steps that must stand behind a diagnosis: with fewer, wrong variants are told apart by luck."""

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
    """What explains a departure. `kind` says how sure it is, `explanations` holds the simplest that fit."""

    kind: Kind
    explanations: tuple[Explanation, ...]


@dataclass(frozen=True)
class Verdict:
    """What the replay of one log shows.

    `steps` judged, of which `kinks` decide nothing; `first` departure and `worst` transition; `departures` counted;
    `end` the free run's last weights (K,), at `end_row`, and `apart` its largest distance from the log;
    `diagnosis` None when the run agrees; `open_defects`: single defects that the log cannot rule out, beside what
    explains it.
    """

    steps: int
    kinks: int
    departures: int
    first: Transition | None
    worst: Transition
    end: Array
    end_row: int
    apart: float
    diagnosis: Diagnosis | None
    open_defects: tuple[Defect, ...]

    @property
    def passed(self) -> bool:
        """Whether every judged step agrees."""
        return self.first is None


def judge(method: Method, log: Log) -> Verdict:
    """Return the verdict on a log that holds what `method` reads.

    Errors: MtlrefError, with the step, where the log leaves the method's domain.
    """
    compared = list(transitions(method, log))
    off = [t for t in compared if not t.agrees]
    free = free_run(method, log)
    diagnosis = diagnose(method, log) if off else None
    return Verdict(
        steps=len(compared) - method.lagged,
        kinks=sum(t.kink for t in compared),
        departures=len(off),
        first=off[0] if off else None,
        worst=max(compared, key=lambda t: t.error - float(np.max(t.allowance))),
        end=free[-1],
        end_row=len(free) - 1,
        apart=float(np.max(np.abs(free - logged_weights(log)[: len(free)]))),
        diagnosis=diagnosis,
        open_defects=open_defects(method, log, diagnosis),
    )


def open_defects(method: Method, log: Log, diagnosis: Diagnosis | None) -> tuple[Defect, ...]:
    """Return the single defects that may be there as well: with them, what explains the log explains it still."""
    if diagnosis is not None and diagnosis.kind != "identical":
        return ()
    there = () if diagnosis is None else diagnosis.explanations[0].defects
    others = (d for d in DEFECTS[method.stem] if compatible((*there, d)))
    begun = begins(method, log, there)
    return tuple(
        d for d in others if explains(method, log, (*there, d)) and begins(method, log, (*there, d)) >= begun
    )


def begins(method: Method, log: Log, defects: tuple[Defect, ...]) -> bool:
    """Return whether the log starts with the weights of the method with `defects`, or of a step of it."""
    return next(transitions(variant(method, *defects), log)).agrees


def diagnose(method: Method, log: Log) -> Diagnosis:
    """Return the simplest combinations of known defects that agree with every row of the log."""
    fits: list[Explanation] = []
    for defects in combinations(method.stem):
        if fits and len(defects) > len(fits[0].defects):
            break
        explanation = explains(method, log, defects)
        if explanation is not None:
            fits.append(explanation)
    return Diagnosis(kind_of(fits), tuple(fits))


def kind_of(fits: Sequence[Explanation]) -> Kind:
    """Return how sure the diagnosis is, from the explanations that fit."""
    if not fits:
        return "unknown"
    if min(fit.steps for fit in fits) < FEWEST:
        return "too short"
    return "identical" if len(fits) == 1 else "ambiguous"


def explains(method: Method, log: Log, defects: tuple[Defect, ...]) -> Explanation | None:
    """Return the explanation by `defects` if the method with them agrees with every row, None otherwise.

    The first row's weights are not asked for: where a run starts is seen apart from how it goes on.
    """
    wrong = variant(method, *defects)
    largest, allowance, steps = 0.0, 0.0, 0
    try:
        with np.errstate(all="ignore"):  # a defect may divide by 0; what comes of it agrees with no log
            for transition in transitions(wrong, log):
                if transition.row == 0 and method.lagged:
                    continue
                if not transition.agrees:
                    return None
                largest = max(largest, transition.error)
                allowance = max(allowance, float(np.max(transition.allowance)))
                steps += not transition.kink
    except MtlrefError:
        return None
    return Explanation(defects, largest, allowance, steps)
