"""Trial: one case put to an implementation, beside what the specification says of it.

Of a run, each step is judged on its own: the specification takes it from the weights that the implementation itself
had then, so that rounding does not add up and a fault is found where it happens.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from mtlref.conformance import outcomes
from mtlref.conformance.allowance import plain, spread
from mtlref.conformance.implementation import AdapterError, Answers
from mtlref.conformance.problem import Case, Problem
from mtlref.notation import Array, MtlrefError
from mtlref.state import State
from mtlref.vectors.replay import numbers


class Departure(AssertionError):
    """An observable is not what it has to be: everything that a report needs to say so."""

    def __init__(
        self, case: Case, observable: str, step: int, got: Array, expected: Array, allowed: Array, law: str = ""
    ) -> None:
        super().__init__(f"{observable} at step {step}")
        self.case, self.observable, self.step, self.law = case, observable, step, law
        self.got, self.expected, self.allowed = got, expected, allowed

    @property
    def error(self) -> Array:
        """|got − expected|, infinite where `got` is not a number."""
        with np.errstate(invalid="ignore"):
            error = np.abs(self.got - self.expected)
        return np.asarray(np.where(np.isfinite(self.got), error, np.inf))

    @property
    def task(self) -> int:
        """The first index of the entry that exceeds its allowance by most."""
        excess = np.atleast_1d(self.error - self.allowed)
        return int(np.unravel_index(int(np.argmax(excess)), excess.shape)[0])


class Undecided(Exception):
    """The specification has no answer to the case that a law needs."""


@dataclass(frozen=True)
class Trial:
    """What an implementation answers to `case`: `got`, one mapping a step."""

    answers: Answers
    case: Case
    widths: dict[int, dict[str, Array]] = field(default_factory=dict, init=False, compare=False, repr=False)
    """The spreads that have been needed, by step."""

    @cached_property
    def got(self) -> list[dict[str, Array]]:
        """The implementation's observables. Errors: AdapterError."""
        return self.answers.observe(self.case)

    @cached_property
    def expected(self) -> list[Mapping[str, Any]]:
        """The specification's observables; those of a golden vector where the case comes from one."""
        if self.case.expected is not None and not self.answers.impl.own_order:
            return self.led([{name: numbers(value) for name, value in row.items()} for row in self.case.expected])
        found = list(self.rows())
        for defect in self.case.plumbing:
            if "descended" in defect.replaces:
                found = defect.replaces["descended"](self.case, found)
        return found

    def led(self, golden: list[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        """Return a golden run up to the first weights that the implementation departs from, then the specification's
        steps from its own."""
        for t, (row, got) in enumerate(zip(golden[:-1], self.got, strict=False)):
            for name in row:
                if name.endswith("_next") and name in got and got[name].shape == np.shape(row[name]):
                    try:
                        self.equal(name, t, got[name], row[name])
                    except Departure:
                        return golden[: t + 1] + list(self.rows())[t + 1 :]
        return golden

    def rows(self) -> Iterator[Mapping[str, Any]]:
        """Yield the specification's observables of each step, up to the first that it has no answer to.

        Each step is taken from the weights that the implementation had then.
        """
        state = self.case.state
        for t, (problem, got) in enumerate(zip(self.case.steps, self.got, strict=False)):
            try:
                out, row = problem.taken(state)
                yield self.drawn(problem, state, row, t) if self.answers.impl.own_order else row
                state = problem.method.followed(out.state, got)
            except MtlrefError:
                return

    def drawn(self, problem: Problem, state: State, row: Mapping[str, Any], t: int) -> Mapping[str, Any]:
        """Return what is expected of an implementation that draws for itself: the outcome nearest to its own.

        Errors: Undecided if there are too many outcomes to list.
        """
        if outcomes.count(problem) > outcomes.MOST:
            raise Undecided
        kept = {name: row[name] for name in ("head_weights", "direction")}
        given = self.got[t].get("direction")
        if given is None or given.shape != np.shape(row["direction"]) or not np.isfinite(given).all():
            return kept
        return {**kept, "direction": outcomes.nearest(problem, state, given)}

    def answered(self) -> None:
        """Ask the implementation. Errors: Undecided if it does not answer, which another check reports."""
        try:
            _ = self.got
        except AdapterError as error:
            raise Undecided from error

    def repeats(self) -> None:
        """Ask the implementation once more. Errors: AdapterError if it does not answer, or not as it did."""
        first, again = self.got, self.answers.fresh(self.case)
        if self.answers.impl.own_order:
            return
        for t, (before, after) in enumerate(zip(first, again, strict=True)):
            for name, value in before.items():
                other = after.get(name)
                if other is None or not np.array_equal(value, other, equal_nan=True):
                    message = f"{self.answers.impl.name} gives another {name} at step {t} when it is asked again"
                    raise AdapterError("flaky", message)

    def matches(self, name: str) -> None:
        """Compare an observable with the specification's at every step. Errors: Departure, AdapterError."""
        for t, row in enumerate(self.expected):
            if name in row:
                self.equal(name, t, self.value(name, t), row[name])
        if not self.expected:
            raise Undecided

    def value(self, name: str, t: int = 0) -> Array:
        """Return an observable of step t. Errors: AdapterError if it is missing or has another shape."""
        if name not in self.got[t]:
            raise AdapterError("names", f"{self.answers.impl.name} gives no {name} at step {t}")
        value = self.got[t][name]
        known = self.expected[t] if t < len(self.expected) else {}
        if name in known and value.shape != np.shape(known[name]):
            message = f"{name} has the shape {value.shape}; {np.shape(known[name])} is expected"
            raise AdapterError("shape", message)
        return value

    def equal(self, name: str, t: int, got: ArrayLike, expected: ArrayLike, law: str = "", factor: float = 1) -> None:
        """Compare two arrays under the allowance of the observable `name` at step t, times `factor` ≥ 1.

        Errors: Departure.
        """
        found, wanted = np.asarray(got, dtype=np.float64), np.asarray(expected, dtype=np.float64)
        if within(found, wanted, self.least(t, wanted, factor)):
            return
        allowed = self.allowed(name, t, found, wanted, law, factor)
        if not within(found, wanted, allowed):
            raise Departure(self.case, name, t, found, wanted, allowed, law)

    def least(self, t: int, wanted: Array, factor: float = 1) -> Array:
        """Return the allowance of `equal` without a spread."""
        least = factor * plain(wanted, self.answers.impl.eps)
        if self.answers.impl.own_order:  # the spread is that of the draw given: another may cancel more
            J = self.case.steps[t].jacobian
            least += len(J) * plain(J, self.answers.impl.eps)
        return np.full(wanted.shape, least)

    def allowed(self, name: str, t: int, found: Array, wanted: Array, law: str = "", factor: float = 1) -> Array:
        """Return the allowance of `equal`: with the spread of the observable `name` only where `found` needs it."""
        allowed = self.least(t, wanted, factor)
        if within(found, wanted, allowed):
            return allowed
        width = self.spreads(t).get(name)
        if width is not None:
            wide = width if width.shape == wanted.shape and not law else np.sum(width)
            allowed = allowed + factor * wide
        return allowed

    def spreads(self, t: int) -> dict[str, Array]:
        """Return how far rounding of the inputs moves each observable of step t: found once, for all checks."""
        if t not in self.widths:
            before = tuple(zip(self.case.steps[:t], self.got, strict=False))
            eps, matrixwise = self.answers.impl.eps, self.answers.matrixwise
            self.widths[t] = spread(self.case.steps[t], self.case.state, eps, before, matrixwise)
        return self.widths[t]

    def on(self, case: Case) -> Trial:
        """Return the trial of another case with the same implementation. Errors: Undecided if it has no answer."""
        other = Trial(self.answers, case)
        other.answered()
        if len(other.expected) < len(self.expected):
            raise Undecided
        return other


def within(got: Array, expected: Array, allowed: Array) -> bool:
    """Return whether every entry of `got` is a number within `allowed` of the expected one."""
    with np.errstate(invalid="ignore"):
        return bool((abs(got - expected) <= allowed).all())
