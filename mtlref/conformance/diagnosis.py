"""Diagnosis: which known defects, or which undeclared choice, give exactly the numbers of an implementation.

The implementation is put to a fixed battery of cases, never to the example that a check has shrunk. Every candidate
is the specification with known defects in it, or under another choice, put to the same battery. One that agrees with
every observable at every step explains the implementation; of several, the simplest are named, and if more than one
is left the diagnosis says so. Where none agrees, it says which equation differs first.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import combinations as choose
from typing import Any, Literal

import numpy as np

from mtlref.conformance.allowance import ROUNDINGS
from mtlref.conformance.implementation import AdapterError, Answers, Implementation, observed_names
from mtlref.conformance.live import LAYERS, LiveProblem
from mtlref.conformance.problem import Case, Problem
from mtlref.conformance.strategies import Kind as CaseKind
from mtlref.conformance.strategies import Plan, battery
from mtlref.conformance.trial import Departure, Trial, Undecided, within
from mtlref.contract import Method
from mtlref.defects import DEFECTS, Defect, combinations, variant
from mtlref.defects import live as plumbing
from mtlref.settings import hyper_parameters
from mtlref.state import State

BATTERY: Mapping[CaseKind, int] = {"step": 24, "run": 8, "live": 8}
"""How many cases of each kind the battery has."""

GROSS = 1e-3
"""A relative error that no rounding makes in a type of single precision or better, but at a jump."""

FAULTS = (ValueError, ArithmeticError, TypeError, IndexError, Undecided)
"""What a candidate may raise: it then has no answer, and explains nothing."""

DESCENTS = ("direction", "head_gradients")
"""What the network descends."""

Kind = Literal["agrees", "choice", "defects", "ambiguous", "differs", "unknown"]


@dataclass(frozen=True)
class Candidate:
    """The specification under another choice, `tag` with `settings`, or with `defects`, or with both.

    `plumbing`: defects of the live code around it.
    """

    defects: tuple[Defect, ...] = ()
    tag: str = ""
    settings: tuple[tuple[str, object], ...] = ()
    plumbing: tuple[Defect, ...] = ()

    @property
    def name(self) -> str:
        """What it is, in words."""
        chosen = [f"{self.tag}: {', '.join(f'{k} = {v!r}' for k, v in self.settings)}"] if self.settings else []
        return " + ".join([f"{defect.name} [{defect.equation}]" for defect in self.wrong] + chosen)

    @property
    def size(self) -> int:
        """How many departures it makes."""
        return len(self.wrong) + bool(self.settings)

    @property
    def wrong(self) -> tuple[Defect, ...]:
        """All defects."""
        return self.defects + self.plumbing


@dataclass(frozen=True)
class Diagnosis:
    """What the battery shows.

    `kind`: "agrees" with the specification on the whole battery; a "choice" that is not declared; the known
    "defects"; "ambiguous" between several `candidates`; "differs" first at `equation`; "unknown", for the reason in
    `text`.
    """

    kind: Kind
    text: str
    candidates: tuple[Candidate, ...] = ()
    equation: str = ""


def diagnose(answers: Answers, plan: Plan) -> Diagnosis:
    """Return the diagnosis of an implementation that has failed a check, and which arrays its steps share."""
    found = explained(answers, plan)
    if not answers.shared:
        return found
    names = " and ".join(sorted(answers.shared))
    text = f"{names}: one array at every step of a run; if it is altered in place, yield each step or give copies"
    return replace(found, text=f"{text}. As it stands: {found.text}")


def explained(answers: Answers, plan: Plan) -> Diagnosis:
    """Return what explains the numbers on the battery."""
    cases = asked(answers, plan)
    if not cases:
        return Diagnosis("unknown", "unknown: the implementation answers none of the battery's cases")
    if agreeing(answers, cases, Candidate()):
        return Diagnosis("agrees", "unknown: on the diagnosis's own battery it agrees with the specification")
    found: list[Candidate] = []
    for candidate in candidates(answers.impl.method, plan, any(case.live for case in cases)):
        if found and candidate.size > found[0].size:
            break
        told = agreeing(answers, cases, candidate)
        if told and explains(answers, cases, told):
            found.append(candidate)
    found = found or behind(answers, plan, cases)
    if not found:
        return difference(answers, cases)
    if len(found) > 1:
        names = "; or ".join(candidate.name for candidate in found)
        text = f"cannot be told apart by the observables given: {names}"
        return Diagnosis("ambiguous", text, tuple(found))
    only = found[0]
    if not only.wrong:
        return Diagnosis("choice", f"would pass if this choice were declared: {only.name}", (only,))
    known = "the known defect" if only.size == 1 else "the known departures"
    meaning = "; ".join(defect.summary for defect in only.wrong)
    return Diagnosis("defects", f"identical to {known} {only.name}: {meaning}", (only,))


def asked(answers: Answers, plan: Plan) -> list[Case]:
    """Return the cases of the battery that the implementation answers, with numbers throughout."""
    found = []
    for kind in ("step",) if plan.live else answers.impl.kinds:
        for case in kept(plan, answers.impl, kind):
            try:
                rows = answers.observe(case)
            except AdapterError:
                continue
            if all(np.isfinite(value).all() for row in rows for value in row.values()):
                found.append(case)
    return found


KEPT: dict[tuple[str, str, str, CaseKind, bool], list[Case]] = {}
"""The batteries that have been made: those of one declaration are the same."""


def kept(plan: Plan, impl: Implementation, kind: CaseKind) -> list[Case]:
    """Return the battery of what an implementation declares."""
    key = (impl.method, impl.dtype, repr(sorted(impl.choices.items())), kind, plan.live)
    if key not in KEPT:
        KEPT[key] = battery(plan, impl, kind, BATTERY[kind])
    return KEPT[key]


def candidates(stem: str, plan: Plan, live: bool = False) -> Iterator[Candidate]:
    """Yield the choices, the single defects, then the pairs, a choice beside a defect among them, then three defects,
    of a method whose plan wants so many at once.

    `live`: those of the code around the method, too.
    """
    chosen = [
        Candidate((), tag, tuple(settings.items()))
        for tag, values in (plan.choices or {}).items()
        for settings in values
    ]
    around = [Candidate(plumbing=(defect,)) for defect in plumbing.of(stem, descent=not plan.live)] if live else []
    if live and not plan.live:
        chosen += [Candidate((), "LIVE-C1", (("layer", layer),)) for layer in LAYERS]
    yield from chosen
    known = list(combinations(stem, plan.at_once)) if stem in DEFECTS else []
    alone = [Candidate(defects) for defects in known if len(defects) == 1] + around
    yield from alone
    yield from (Candidate(defects) for defects in known if len(defects) == 2)
    if live and plan.live:
        yield from (
            Candidate(plumbing=pair)
            for pair in choose(plumbing.of(stem, descent=False), 2)
            if pair[0].equation < pair[1].equation
        )
    for outer in around:
        yield from (replace(outer, defects=defects) for defects in known if len(defects) == 1)
    for one in alone:
        for choice in chosen:
            yield replace(choice, defects=one.defects, plumbing=one.plumbing)
    yield from (Candidate(defects) for defects in known if len(defects) == 3)


def behind(answers: Answers, plan: Plan, cases: Sequence[Case]) -> list[Candidate]:
    """Return the candidates of a method with several departures and a descent with one more, if the cases are live.

    What the network descends says nothing of the method: the method's departures are found without it, then its own.
    """
    live = [case for case in cases if case.live]
    if plan.live or not any(name in answers.observe(case)[0] for case in live for name in judged(case, blind=True)):
        return []
    inner: list[Candidate] = []
    for candidate in candidates(answers.impl.method, plan):
        if inner and candidate.size > inner[0].size:
            break
        if candidate.size > 1 and agreeing(answers, cases, candidate, blind=True):
            inner.append(candidate)
    outer = [defect for defect in plumbing.of(answers.impl.method) if "descended" in defect.replaces]
    both = [replace(one, plumbing=(defect,)) for one in inner for defect in outer]
    return [candidate for candidate in both if agreeing(answers, cases, candidate)]


def agreeing(answers: Answers, cases: Sequence[Case], candidate: Candidate, blind: bool = False) -> list[Case]:
    """Return the cases that a candidate answers, if it gives all of the implementation's numbers there; else none.

    Where the candidate has no answer itself, a case says nothing; of such there may be a third. `blind`: but for what
    the network descends in live cases.
    """
    told: list[tuple[Case, Trial]] = []
    off = 0
    for case in cases:
        trial = under(answers, case, candidate)
        how = "silent" if trial is None else look(trial, blind)
        off += how == "off"
        if off == 2:  # of one, a jump may be the reason
            return []
        if trial is not None and how != "silent":
            told.append((case, trial))
    if 3 * len(told) < 2 * len(cases) or any(first_departure(trial, blind) is not None for _, trial in told):
        return []
    return [case for case, _ in told]


def explains(answers: Answers, cases: Sequence[Case], told: Sequence[Case]) -> bool:
    """Return whether a candidate that has fitted, on the cases `told`, has said something of a wrong number.

    One that is silent wherever the implementation is wrong gives its numbers only where they are right.
    """
    return len(told) == len(cases) or not agreeing(answers, told, Candidate())


def look(trial: Trial, blind: bool) -> Literal["off", "silent", "near"]:
    """Return whether a case is off by more than any rounding explains, a jump apart, or has no answer.

    Its steps are taken in turn up to the first that is off: of most candidates, the first of all. If none is, the
    trial keeps them.
    """
    gross = max(GROSS, 2 * ROUNDINGS * trial.answers.impl.eps)
    names = judged(trial.case, blind)
    rows: list[Mapping[str, Any]] = []
    try:
        with np.errstate(all="ignore"):
            for got, row in zip(trial.got, trial.expected if trial.case.plumbing else trial.rows(), strict=False):
                if any(
                    np.shape(value) != np.shape(got[name])
                    or not within(got[name], value, np.asarray(gross * np.max(np.abs(value), initial=0.0)))
                    for name, value in row.items()
                    if name in got and name in names
                ):
                    return "off"
                rows.append(row)
    except FAULTS:
        return "silent"
    trial.__dict__["expected"] = rows
    return "near" if len(rows) == len(trial.got) else "silent"


def judged(case: Case, blind: bool) -> tuple[str, ...]:
    """Return the observables of a case, in tag order, if `blind` without what the network descends in a live one."""
    return tuple(name for name in observed_names(case) if not (blind and case.live and name in DESCENTS))


def first_departure(trial: Trial, blind: bool = False) -> str | None:
    """Return the first observable, in tag order, in which the case departs from the candidate; None if none does."""
    names = [name for name in judged(trial.case, blind) if name in trial.got[0]]
    try:
        with np.errstate(all="ignore"):
            for name in names:
                try:
                    trial.matches(name)
                except (Departure, Undecided, AdapterError):
                    return name
    except FAULTS:
        return names[0]
    return None


def under(answers: Answers, case: Case, candidate: Candidate) -> Trial | None:
    """Return the trial of a case, with what the implementation answered, beside what the candidate says of it.

    None if the candidate is nothing that the case can be put to.
    """
    try:
        with np.errstate(all="ignore"):
            method = changed(answers, case.method, candidate)
            start = method.init(case.n_tasks)
            state = adapted(case.state, start) if case.injected else start
            trial = Trial(answers, around(replace(case.under(method), state=state), candidate))
    except FAULTS:
        return None
    trial.__dict__["got"] = answers.observe(case)
    return trial


def around(case: Case, candidate: Candidate) -> Case:
    """Return a live case with the candidate's plumbing and layer put in; any other case as it is."""
    layer = dict(candidate.settings).get("layer")
    if not case.live or not (candidate.plumbing or layer):
        return case
    steps = tuple(replumbed(problem, candidate.plumbing, layer) for problem in case.steps)
    return replace(case, steps=steps, plumbing=candidate.plumbing)


def replumbed(problem: Problem, plumbing: tuple[Defect, ...], layer: object) -> Problem:
    """Return a live problem measured with `plumbing`, and read at another layer if one is given."""
    if not isinstance(problem, LiveProblem):
        return problem
    changed = replace(problem, plumbing=plumbing, layer=problem.layer if layer is None else str(layer))
    return changed.on(problem.live)


def adapted(state: State, start: State) -> State:
    """Return `state` with the fields of another kind, an optimiser's memory for one, as they are at the start."""
    kept = {field.name: fitted(getattr(state, field.name), getattr(start, field.name)) for field in fields(start)}
    return replace(start, **kept)


def fitted(here: Any, there: Any) -> Any:
    """Return a field's value if it is of the kind that is wanted; else that of the start, `there`."""
    if isinstance(there, tuple):
        alike = isinstance(here, tuple) and len(here) == len(there)
        return tuple(fitted(one, its) for one, its in zip(here, there, strict=True)) if alike else there
    return there if isinstance(there, State) and type(here) is not type(there) else here


def changed(answers: Answers, method: Method, candidate: Candidate) -> Method:
    """Return the method with the candidate's settings and defects."""
    if candidate.settings:
        settings = {**vars(method), **dict(candidate.settings)}
        fields = {name: settings[name] for name in hyper_parameters(method)}
        method = replace(answers.impl, choices={}).specification(fields)
    return variant(method, *candidate.defects) if candidate.defects else method


def difference(answers: Answers, cases: Sequence[Case]) -> Diagnosis:
    """Return the diagnosis of an implementation that no candidate explains: the first equation that differs."""
    method = cases[0].method
    everywhere = {"weights": method.start, "head_weights": method.heads, "direction": "MTL-1"}
    tags = {**method.tags, **everywhere}
    if any(case.live for case in cases):
        tags = {
            "losses": "LIVE-1",
            "jacobian": "LIVE-2",
            **tags,
            "head_gradients": tags.get("head_gradients", "LIVE-4"),
        }
    given = {name for case in cases for name in answers.observe(case)[0]}
    order = [name for name in tags if name in given]
    trials = [trial for case in cases if (trial := under(answers, case, Candidate())) is not None]
    off = {first_departure(trial) for trial in trials} - {None}
    name = next(name for name in order if name in off)
    before = [f"{n} [{tags[n]}]" for n in order[: order.index(name)]]
    unseen = [f"{n} [{tags[n]}]" for n in list(tags)[: list(tags).index(name)] if n not in given]
    text = f"unknown; differs first at {name} [{tags[name]}]"
    text += f"; {', '.join(before)} agree" if before else ""
    text += f"; {', '.join(unseen)} not given" if unseen else ""
    return Diagnosis("differs", text, (), tags[name])
