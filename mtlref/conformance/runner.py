"""The three doors: a list of bound checks, a function that needs no pytest, and a decorator for somebody's suite."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from mtlref.conformance import checks as catalogue
from mtlref.conformance.check import Check, Skipped, applicable, run_check
from mtlref.conformance.diagnosis import Diagnosis, diagnose
from mtlref.conformance.digging import DIG, cases, draw
from mtlref.conformance.implementation import AdapterError, Answers, Implementation, observed_names
from mtlref.conformance.message import failure
from mtlref.conformance.problem import Case
from mtlref.conformance.strategies import CONDITIONS, Kind, Plan, battery, conditions, drawn
from mtlref.conformance.trial import Departure
from mtlref.conformance.vectors import vector_cases
from mtlref.notation import DomainError, MissingExtraError

Status = Literal["passed", "failed", "skipped", "expected failure", "unexpected pass", "unusable"]


class ConformanceError(AssertionError):
    """A check has failed. `departure` holds the numbers, `diagnosis` what explains them; either may be None."""

    def __init__(self, message: str, departure: Departure | None = None, diagnosis: Diagnosis | None = None) -> None:
        super().__init__(message)
        self.departure, self.diagnosis = departure, diagnosis


SIZES: Mapping[Kind, int] = {"step": 60, "run": 20, "live": 12}
"""How many cases of each kind are drawn, beside the golden vectors."""


@dataclass
class Session:
    """One implementation under judgement: its answers, its cases, its diagnosis. Each is made when it is needed."""

    impl: Implementation
    answers: Answers
    plan: Plan
    checks: tuple[Check, ...]
    drawn: dict[Kind, tuple[Case, ...]] = field(default_factory=dict)

    @cached_property
    def rehearsal(self) -> dict[Kind, frozenset[str]] | AdapterError:
        """What it gives, by the kind of case, found out by asking it once a kind; or why it cannot be judged."""
        found: dict[Kind, frozenset[str]] = {}
        kinds = self.impl.kinds
        try:
            for kind in kinds:
                found[kind] = rehearsed(self, kind) if kind in (kinds[0], "live") else found[kinds[0]]
        except AdapterError as error:
            return error
        return found

    @property
    def given(self) -> dict[Kind, frozenset[str]]:
        """By the kind of case, the observables that it gives; empty if it cannot be judged."""
        return {} if isinstance(self.rehearsal, AdapterError) else self.rehearsal

    @property
    def unusable(self) -> AdapterError | None:
        """Why it cannot be judged; None if it can."""
        return self.rehearsal if isinstance(self.rehearsal, AdapterError) else None

    @cached_property
    def vectors(self) -> tuple[Case, ...]:
        """The golden vectors that its choices do not contradict."""
        return vector_cases(self.impl, self.plan)

    @cached_property
    def diagnosis(self) -> Diagnosis:
        """What explains its failures."""
        return diagnose(self.answers, self.plan)

    def kind(self, wanted: Kind) -> Kind:
        """Return what a check that wants such cases is put to: runs, where no state can be put in; else live ones."""
        return wanted if wanted in self.impl.kinds else self.impl.kinds[0]

    def cases(self, kind: Kind) -> tuple[Case, ...]:
        """Return the vectors of a kind, then the cases that are drawn."""
        if kind not in self.drawn:
            vectors = tuple(case for case in self.vectors if kind != "live" and case.injected == (kind == "step"))
            if DIG in os.environ:
                dug = draw(cases(self.plan, self.impl, kind), int(os.environ[DIG]), kind)
            else:
                dug = tuple(drawn(self.plan, self.impl, kind, SIZES[kind]))
            self.drawn[kind] = vectors + dug
        return self.drawn[kind]

    def met(self) -> dict[str, int]:
        """Return how many of the cases, so far, met each condition that decides whether a bug shows."""
        counts: Counter[str] = Counter()
        for given in self.drawn.values():
            for case in given:
                counts.update(conditions(case))
        return {name: counts[name] for name in CONDITIONS}


def session(impl: Implementation) -> Session:
    """Return the session of an implementation."""
    plan, checks = catalogue.of(impl.method, impl.live is not None)
    return Session(impl, Answers(impl, plan.matrixwise), plan, checks)


def rehearsed(found: Session, kind: Kind) -> frozenset[str]:
    """Return the observables that an implementation gives for a case of that kind. Errors: AdapterError."""
    impl = found.impl
    case = battery(found.plan, impl, kind, 1)[0]
    rows = found.answers.observe(case)
    names = frozenset(name for name in rows[0] if all(name in row for row in rows))
    mandatory = "direction" if kind == "live" else found.plan.mandatory
    if mandatory not in names:
        message = f"{impl.name} gives no {mandatory}, without which {impl.method} cannot be judged"
        raise AdapterError("names", message)
    known = observed_names(case)
    if names - set(known):
        unknown = ", ".join(sorted(names - set(known)))
        raise AdapterError("names", f"{impl.name} gives {unknown}; known are: {', '.join(known)}")
    return names


@dataclass(frozen=True)
class BoundCheck:
    """A check of one implementation. Calling it runs it: ConformanceError if it fails, Skipped if it
    does not apply."""

    session: Session
    check: Check

    @property
    def name(self) -> str:
        """The check's name."""
        return self.check.name

    @property
    def eq(self) -> str:
        """The tag of its equation."""
        return self.check.eq

    @property
    def needs(self) -> tuple[str, ...]:
        """The observables that it reads."""
        return self.check.needs

    def __call__(self) -> int:
        """Run the check; return how many cases it judged. Errors: ConformanceError, AdapterError, Skipped."""
        __tracebackhide__ = True  # of pytest: a failure is the message, not our frames
        session = self.session
        if session.unusable is not None:
            raise session.unusable.with_traceback(None)
        applicable(self.check, session.impl, session.given[session.kind(self.check.on)])
        try:
            return run_check(self.check, session.answers, session.cases(session.kind(self.check.on)))
        except Departure as departure:
            text = failure(self.check, session.impl.name, departure, session.diagnosis.text)
            raise ConformanceError(text, departure, session.diagnosis) from None
        except AdapterError as error:
            head = f"{self.name} [{self.eq}] fails for {session.impl.name!r}: {self.check.statement}"
            text = f"{head}\n  {'fault':<11} {error}\n  {'diagnosis':<11} {session.diagnosis.text}"
            raise ConformanceError(text, None, session.diagnosis) from error


def conformance_checks(impl: Implementation) -> list[BoundCheck]:
    """Return the checks of an implementation, in tag order."""
    found = session(impl)
    return [BoundCheck(found, check) for check in found.checks]


# WITHOUT PYTEST


@dataclass(frozen=True)
class CheckResult:
    """What came of one check.

    `reason`: why it was skipped, or its failure expected; `message`: the failure in the house's order; `departure`:
    its numbers; `diagnosis`: what explains it; `judged`: how many cases had something to say, of one that passed.
    """

    name: str
    eq: str
    statement: str
    status: Status
    reason: str = ""
    message: str = ""
    departure: Departure | None = None
    diagnosis: Diagnosis | None = None
    judged: int = 0


def check_implementation(
    impl: Implementation,
    *,
    expected_failures: Mapping[str, str] | None = None,
    select: Iterable[str] | None = None,
    progress: Callable[[Sequence[BoundCheck]], Iterable[BoundCheck]] = iter,
) -> list[CheckResult]:
    """Run the checks of an implementation, all or those whose names or tags `select` holds.

    `expected_failures`: check → reason. A check that passes against its expectation is an "unexpected pass".
    Errors: DomainError for an unknown name, an empty reason or an empty selection.
    """
    judged = judge_all([impl], expected_failures=expected_failures, select=select, progress=progress)
    return judged[0].results


@dataclass(frozen=True)
class Judgement:
    """The results of an implementation's checks, and the session that they came from: what a report is made of."""

    session: Session
    results: list[CheckResult]

    @property
    def status(self) -> Literal["passed", "failed", "unusable"]:
        """Whether it could not be judged, failed a check (or passed one against its expectation), or passed.

        One of which every check that was run was skipped has not been judged.
        """
        found = {result.status for result in self.results}
        if self.session.unusable is not None or found == {"skipped"}:
            return "unusable"
        return "failed" if found & {"failed", "unexpected pass"} else "passed"

    def count(self, status: Status) -> int:
        """Return how many checks have that status."""
        return sum(result.status == status for result in self.results)


def judge_all(
    implementations: Sequence[Implementation],
    *,
    expected_failures: Mapping[str, str] | None = None,
    select: Iterable[str] | None = None,
    progress: Callable[[Sequence[BoundCheck]], Iterable[BoundCheck]] = iter,
) -> list[Judgement]:
    """Return a judgement an implementation, of those that have any of the checks selected.

    The arguments are those of `check_implementation`; a name counts for every implementation that has the check.
    Errors: DomainError, of `check_implementation` and of `bound_checks`.
    """
    bound = bound_checks(implementations)
    expected = checked_names(bound, expected_failures or {})
    found: dict[int, Judgement] = {}
    for check in progress(chosen(bound, select)):
        judgement = found.setdefault(id(check.session), Judgement(check.session, []))
        judgement.results.append(result(check, expected.get(check.name)))
    return list(found.values())


def bound_checks(implementations: Sequence[Implementation]) -> list[BoundCheck]:
    """Return the checks of all implementations. Errors: DomainError for none, or two of a method under one name."""
    if not implementations:
        raise DomainError("there is no implementation to check", argument="implementations")
    for (method, name), times in Counter((impl.method, impl.name) for impl in implementations).items():
        if times > 1:
            message = f"{times} implementations of {method} are called {name!r}; each needs a name of its own"
            raise DomainError(message, argument="name", value=name)
    return [check for impl in implementations for check in conformance_checks(impl)]


def chosen(bound: Sequence[BoundCheck], select: Iterable[str] | None) -> list[BoundCheck]:
    """Return the checks whose name or tag is in `select`, all if it is None. Errors: DomainError."""
    if select is None:
        return list(bound)
    wanted = list(select)
    if not wanted:
        raise DomainError("select is empty: it names no check", argument="select")
    known = {check.name for check in bound} | {check.eq for check in bound}
    for word in wanted:
        if word not in known:
            methods = ", ".join(dict.fromkeys(check.session.impl.method for check in bound))
            message = f"select = {word!r} is no check or tag of {methods}"
            raise DomainError(f"{message}; there are: {', '.join(sorted(known))}", argument="select", value=word)
    return [check for check in bound if check.name in wanted or check.eq in wanted]


def checked_names(bound: Sequence[BoundCheck], expected: Mapping[str, str]) -> Mapping[str, str]:
    """Return the expected failures, each a known check with a reason. Errors: DomainError."""
    known = list(dict.fromkeys(check.name for check in bound))
    for name, reason in expected.items():
        if name not in known:
            message = f"expected_failures names {name!r}, which is no check; there are: {', '.join(known)}"
            raise DomainError(message, argument="expected_failures", value=name)
        if not isinstance(reason, str) or not reason.strip():
            message = f"expected_failures gives no reason for {name}"
            raise DomainError(message, argument="expected_failures", value=reason)
    return expected


def result(check: BoundCheck, expected: str | None) -> CheckResult:
    """Run one check and return what came of it."""

    def made(status: Status, **more: Any) -> CheckResult:
        return CheckResult(check.name, check.eq, check.check.statement, status, **more)

    try:
        judged = check()
    except Skipped as reason:
        return made("skipped", reason=str(reason))
    except AdapterError as error:
        return made("unusable", message=str(error))
    except ConformanceError as error:
        more: dict[str, Any] = {
            "message": str(error),
            "departure": error.departure,
            "diagnosis": error.diagnosis,
        }
        return made("failed", **more) if expected is None else made("expected failure", reason=expected, **more)
    if expected is not None:
        return made("unexpected pass", reason=expected, judged=judged)
    return made("passed", judged=judged)


# WITH PYTEST


def parametrize_with_checks(
    implementations: Sequence[Implementation],
    *,
    expected_failures: Mapping[str, str] | None = None,
    xfail_strict: bool = True,
) -> Callable[[Callable[..., Any]], Any]:
    """Decorate a test function of one argument, `check`, with every check of every implementation.

    @parametrize_with_checks([Implementation(…)])
    def test_conformance(check):
        check()

    `expected_failures`: check → reason, xfail marks, strict unless told otherwise; a name marks the check of every
    implementation that has it. Errors: DomainError for a name that is no check of any implementation, a name without
    a reason, two implementations of a method under one name; MissingExtraError without pytest.
    """
    try:
        import pytest
    except ImportError as error:
        raise MissingExtraError("parametrize_with_checks needs pytest: pip install 'mtlref[test]'") from error
    bound = bound_checks(implementations)
    expected = checked_names(bound, expected_failures or {})

    def param(check: BoundCheck) -> Any:
        marks = []
        if check.name in expected:
            marks.append(pytest.mark.xfail(reason=expected[check.name], strict=xfail_strict))
        return pytest.param(Skipping(check), id=f"{check.session.impl.name}-{check.name}", marks=marks)

    decorator: Callable[[Callable[..., Any]], Any] = pytest.mark.parametrize("check", [param(c) for c in bound])
    return decorator


@dataclass(frozen=True)
class Skipping:
    """A bound check that tells pytest, where it does not apply, that it was skipped."""

    bound: BoundCheck

    @property
    def name(self) -> str:
        """The check's name."""
        return self.bound.name

    @property
    def eq(self) -> str:
        """The tag of its equation."""
        return self.bound.eq

    @property
    def needs(self) -> tuple[str, ...]:
        """The observables that it reads."""
        return self.bound.needs

    def __call__(self) -> None:
        """Run the check."""
        __tracebackhide__ = True
        import pytest

        try:
            self.bound()
        except Skipped as reason:
            pytest.skip(str(reason))
