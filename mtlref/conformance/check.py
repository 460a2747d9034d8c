"""Check: one tagged statement, and how it is put to an implementation.

A check is a function of a `Trial` that raises `Departure` where the statement fails. Its docstring begins with the
tag of the equation, its name is `check_<method>_<statement>`. All checks of an implementation are put to the same
cases, simplest first, so that it is asked once a case and the first failure is the one to read.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from mtlref.conformance.implementation import Answers, Implementation
from mtlref.conformance.problem import Case
from mtlref.conformance.strategies import Kind
from mtlref.conformance.trial import Trial, Undecided
from mtlref.notation import TAG

Body = Callable[[Trial], None]


@dataclass(frozen=True)
class Check:
    """A check before it is bound to an implementation.

    `eq`: the tag; `statement`: the first line of its docstring; `needs`: the observables that it reads; `on`: what it
    is put to, single steps from injected states or runs; `only`: for "given" or "own" orders alone, if set.
    """

    name: str
    eq: str
    statement: str
    needs: tuple[str, ...]
    on: Kind
    only: Literal["given", "own"] | None
    body: Body
    answers: bool = False
    """Whether it asks for an answer as such. To the others, a case that is not answered says nothing."""


def check(*needs: str, on: Kind = "step", only: Literal["given", "own"] | None = None) -> Callable[[Body], Check]:
    """Make a check of a function whose docstring begins `TAG: statement`."""

    def make(body: Body) -> Check:
        doc = " ".join((inspect.getdoc(body) or "").split("\n\n")[0].split())
        tag, colon, _ = doc.partition(":")
        if not TAG.fullmatch(tag) or not colon or not body.__name__.startswith("check_"):
            raise TypeError(f"{body.__name__}: a check is named check_… and its docstring begins with its tag")
        return Check(body.__name__, tag, doc, needs, on, only, body)

    return make


class Skipped(Exception):
    """The check does not apply to the implementation, for the reason that the message gives."""


def answering(stem: str, tag: str) -> Check:
    """Return the check that a method's implementation answers at all, and the same to the same problem."""

    def body(trial: Trial) -> None:
        trial.repeats()

    statement = f"{tag}: every problem in the method's domain has an answer, the same when it is asked again."
    return Check(f"check_{stem}_answers_every_problem", tag, statement, (), "step", None, body, answers=True)


def replaying(stem: str, tag: str) -> Check:
    """Return the check that a run which is asked for again, others between, starts where it started before."""

    def body(trial: Trial) -> None:
        if trial.case.injected:
            raise Undecided
        trial.repeats()

    statement = f"{tag}: a run asked for again begins at the method's own start, and gives the same."
    return Check(f"check_{stem}_replays_its_runs", tag, statement, (), "run", None, body, answers=True)


def run_check(check: Check, answers: Answers, given: Sequence[Case]) -> int:
    """Put a check to the given cases; return how many had something to say.

    The simplest come first. Errors: Departure, AdapterError, Skipped.
    """
    judged = 0
    for case in sorted(given, key=size):
        judged += attempt(check, answers, case)
    if judged == 0:
        raise Skipped("none of its cases has an answer")
    return judged


def size(case: Case) -> tuple[int, int, int]:
    """Return what makes a case simple: few steps, three tasks rather than more or fewer, few dimensions."""
    K, D = case.steps[0].jacobian.shape
    return len(case.steps), abs(K - 3), D


def attempt(check: Check, answers: Answers, case: Case) -> bool:
    """Put a check to one case; return whether it had something to say. Errors: Departure, AdapterError."""
    trial = trial_of(answers, case)
    try:
        if not check.answers:
            trial.answered()
        check.body(trial)
    except Undecided:
        return False
    return True


def trial_of(answers: Answers, case: Case) -> Trial:
    """Return the trial of a case: of a labelled one, which all checks are put to, always the same."""
    if not case.label:
        return Trial(answers, case)
    kept: Trial = answers.trials.setdefault(id(case), Trial(answers, case))
    return kept


def applicable(check: Check, impl: Implementation, given: frozenset[str]) -> None:
    """Raise Skipped unless the implementation gives what the check reads, and takes its draw as the check wants."""
    missing = [name for name in check.needs if name not in given]
    if missing:
        raise Skipped(f"{impl.name} gives no {', '.join(missing)}")
    if check.only is not None and (check.only == "own") != impl.own_order:
        raise Skipped(f"for implementations with order = {check.only!r}")
