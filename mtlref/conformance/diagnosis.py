"""Diagnosis: which known defects, or which undeclared choice, give exactly the numbers of an implementation.

The implementation is put to a fixed battery of cases, never to the example that a check has shrunk. Every candidate
is the specification with known defects in it, or under another choice, put to the same battery. One that agrees with
every observable at every step explains the implementation; of several, the simplest are named, and if
more than one is left the diagnosis says so. Where none agrees, it says which equation differs first.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Literal

import numpy as np

from mtlref.conformance.allowance import ROUNDINGS
from mtlref.conformance.implementation import AdapterError, Answers
from mtlref.conformance.problem import Case
from mtlref.conformance.strategies import Plan, battery
from mtlref.conformance.trial import Departure, Trial, Undecided, within
from mtlref.contract import Method
from mtlref.defects import Defect, combinations, variant
from mtlref.notation import MtlrefError
from mtlref.settings import hyper_parameters
from mtlref.state import State

GROSS = 1e-3
"""A relative error that no rounding makes in a type of single precision or better, but at a jump."""

FAULTS = (MtlrefError, ArithmeticError, np.linalg.LinAlgError, TypeError)
"""What a candidate may raise: it then has no answer, and explains nothing."""

Kind = Literal["agrees", "choice", "defects", "ambiguous", "differs", "unknown"]


@dataclass(frozen=True)
class Candidate:
    """The specification under another choice, `tag` with `settings`, or with `defects`, or both."""

    defects: tuple[Defect, ...] = ()
    tag: str = ""
    settings: tuple[tuple[str, object], ...] = ()

    @property
    def name(self) -> str:
        """What it is, in words."""
        chosen = [f"{self.tag}: {', '.join(f'{k} = {v!r}' for k, v in self.settings)}"] if self.settings else []
        return " + ".join([f"{defect.name} [{defect.equation}]" for defect in self.defects] + chosen)

    @property
    def size(self) -> int:
        """How many departures it makes."""
        return len(self.defects) + bool(self.settings)


@dataclass(frozen=True)
class Diagnosis:
    """What the battery shows.

    `kind`: "agrees" with the specification on the whole battery; a "choice" that is not declared; known "defects";
    "ambiguous" between several `candidates`; "differs" first at `equation`; "unknown", for the reason in `text`.
    """

    kind: Kind
    text: str
    candidates: tuple[Candidate, ...] = ()
    equation: str = ""


def diagnose(answers: Answers, plan: Plan) -> Diagnosis:
    """Return the diagnosis of an implementation that has failed a check."""
    cases = asked(answers, plan)
    if not cases:
        return Diagnosis("unknown", "unknown: the implementation answers none of the battery's cases")
    if fits(answers, cases, Candidate()):
        return Diagnosis("agrees", "unknown: on the diagnosis's own battery it agrees with the specification")
    found: list[Candidate] = []
    for candidate in candidates(answers.impl.method, plan):
        if found and candidate.size > found[0].size:
            break
        if fits(answers, cases, candidate):
            found.append(candidate)
    if not found:
        return difference(answers, cases)
    if len(found) > 1:
        names = "; or ".join(candidate.name for candidate in found)
        text = f"cannot be told apart by the observables given: {names}"
        return Diagnosis("ambiguous", text, tuple(found))
    only = found[0]
    if not only.defects:
        return Diagnosis("choice", f"would pass if this choice were declared: {only.name}", (only,))
    known = "the known defect" if only.size == 1 else "the known departures"
    meaning = "; ".join(defect.summary for defect in only.defects)
    return Diagnosis("defects", f"identical to {known} {only.name}: {meaning}", (only,))


def asked(answers: Answers, plan: Plan) -> list[Case]:
    """Return the cases of the battery that the implementation answers."""
    kinds: tuple[Literal["step", "run"], ...] = ("step", "run") if answers.impl.step is not None else ("run",)
    found = []
    for kind in kinds:
        for case in battery(plan, answers.impl, kind, 24 if kind == "step" else 8):
            try:
                answers.observe(case)
            except AdapterError:
                continue
            found.append(case)
    return found


def candidates(stem: str, plan: Plan) -> Iterator[Candidate]:
    """Yield the choices, the single defects, then the pairs, a choice beside a defect among them."""
    chosen = [
        Candidate((), tag, tuple(settings.items()))
        for tag, values in (plan.choices or {}).items()
        for settings in values
    ]
    yield from chosen
    for defects in combinations(stem, 1):
        yield Candidate(defects)
    for defects in combinations(stem, 2):
        if len(defects) == 2:
            yield Candidate(defects)
    for defects in combinations(stem, 1):
        for choice in chosen:
            yield replace(choice, defects=defects)


def fits(answers: Answers, cases: Sequence[Case], candidate: Candidate) -> bool:
    """Return whether the candidate gives all of the implementation's numbers on all cases."""
    far = (case for case in cases if grossly_off(answers, case, candidate))
    if next(far, None) is not None and next(far, None) is not None:
        return False
    return all(first_departure(answers, case, candidate) is None for case in cases)


def grossly_off(answers: Answers, case: Case, candidate: Candidate) -> bool:
    """Return whether the case is off by more than any rounding explains, but for a jump: in one case that may be."""
    gross = max(GROSS, 2 * ROUNDINGS * answers.impl.eps)
    try:
        with np.errstate(all="ignore"):
            trial = under(answers, case, candidate)
            return len(trial.expected) < len(trial.got) or any(
                np.shape(value) != np.shape(got[name])
                or not within(got[name], value, np.asarray(gross * np.max(np.abs(value), initial=0.0)))
                for got, row in zip(trial.got, trial.expected, strict=False)
                for name, value in row.items()
                if name in got
            )
    except FAULTS:
        return True


def first_departure(answers: Answers, case: Case, candidate: Candidate) -> str | None:
    """Return the first observable, in tag order, in which the case departs from the candidate; None if none does."""
    given = answers.observe(case)[0]
    names = [name for name in (*case.method.tags, "weights", "head_weights", "direction") if name in given]
    try:
        with np.errstate(all="ignore"):
            trial = under(answers, case, candidate)
            if len(trial.expected) < len(trial.got):
                return names[0]
            for name in names:
                try:
                    trial.matches(name)
                except (Departure, Undecided, AdapterError):
                    return name
    except FAULTS:
        return names[0]
    return None


def under(answers: Answers, case: Case, candidate: Candidate) -> Trial:
    """Return the trial of a case, with what the implementation answered, beside what the candidate says of it."""
    method = changed(answers, case.method, candidate)
    start = method.init(case.n_tasks)
    state = adapted(case.state, start) if case.injected else start
    trial = Trial(answers, replace(case.under(method), state=state))
    trial.__dict__["got"] = answers.observe(case)
    return trial


def adapted(state: State, start: State) -> State:
    """Return `state` with the fields of another kind, an optimiser's memory for one, as they are at the start."""
    values = {field.name: (getattr(state, field.name), getattr(start, field.name)) for field in fields(start)}
    kept = {
        name: here if not isinstance(there, State) or type(here) is type(there) else there
        for name, (here, there) in values.items()
    }
    return replace(start, **kept)


def changed(answers: Answers, method: Method, candidate: Candidate) -> Method:
    """Return the method with the candidate's settings and defects."""
    if candidate.settings:
        settings = {**vars(method), **dict(candidate.settings)}
        fields = {name: settings[name] for name in settings if name in hyper_parameters(method)}
        method = type(answers.impl)(
            answers.impl.method, name=answers.impl.name, step=answers.impl.step, run=answers.impl.run
        ).specification(fields)
    return variant(method, *candidate.defects) if candidate.defects else method


def difference(answers: Answers, cases: Sequence[Case]) -> Diagnosis:
    """Return the diagnosis of an implementation that no candidate explains: the first equation that differs."""
    method = cases[0].method
    tags = {**method.tags, "weights": method.start, "head_weights": method.heads, "direction": "MTL-1"}
    given = answers.observe(cases[0])[0]
    order = [name for name in tags if name in given]
    off = {first_departure(answers, case, Candidate()) for case in cases} - {None}
    name = next(name for name in order if name in off)
    before = [f"{n} [{tags[n]}]" for n in order[: order.index(name)]]
    unseen = [f"{n} [{tags[n]}]" for n in list(tags)[: list(tags).index(name)] if n not in given]
    text = f"unknown; differs first at {name} [{tags[name]}]"
    text += f"; {', '.join(before)} agree" if before else ""
    text += f"; {', '.join(unseen)} not given" if unseen else ""
    return Diagnosis("differs", text, (), tags[name])
