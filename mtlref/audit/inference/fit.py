"""Settings that fit a log: proposals of closed forms, confirmed by the replay."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from mtlref.audit.compare import compared
from mtlref.audit.drift import free_run
from mtlref.audit.inference import gram, losses
from mtlref.audit.inference.family import FEW, SEARCHED, Family, Span, beginning, defaults
from mtlref.audit.inference.gradnorm import gradnorm
from mtlref.audit.inference.numbers import span
from mtlref.audit.inference.rough import rough
from mtlref.audit.inference.uncertainty import uncertainty
from mtlref.audit.readers import Log
from mtlref.audit.replay import feeds_back
from mtlref.audit.verdict import begins, explains
from mtlref.contract import Method
from mtlref.defects import DEFECTS, Defect
from mtlref.notation import MtlrefError
from mtlref.settings import build, left_open

Kind = Literal["given", "recovered", "ambiguous", "undecided", "with a defect", "nearest"]

PROPOSERS: Mapping[str, Callable[[Log, Mapping[str, Any]], Iterator[Family]]] = {
    "fixed": gram.fixed,
    "gradnorm": gradnorm,
    "pe_ltr": gram.pe_ltr,
    "pcgrad": gram.pcgrad,
    "uncertainty": uncertainty,
    "dwa": losses.dwa,
    "cov": losses.cov,
}
"""The methods that have something to infer, and who proposes it."""

ALIKE: Mapping[str, tuple[str, tuple[object, ...]]] = {
    "gradnorm": ("negative", ("keep", "clamp")),
    "pe_ltr": ("solver", ("published", "exact")),
    "pcgrad": ("include_self", (False, True)),
}
"""A choice of a method that many runs never come to: where no weight falls below zero, where there are two tasks."""

MOST = 96
"""How many families are looked at."""


@dataclass(frozen=True)
class Fit:
    """Settings, and how the log's first rows compare with them.

    `method` with `settings`, those that were inferred; `spans` what the log leaves open of a number; `alike` other
    values of a choice that give the same numbers; `defect` the known defect that it takes; of `steps` compared,
    `departures` depart, by `largest` at most.
    """

    method: Method
    settings: Mapping[str, Any]
    spans: Mapping[str, Span]
    alike: Mapping[str, tuple[object, ...]]
    defect: Defect | None
    steps: int
    departures: int
    largest: float


@dataclass(frozen=True)
class Inference:
    """What the search has found: `fits`, the simplest first, at least one; `rows` searched; `tried` settings."""

    stem: str
    kind: Kind
    fits: tuple[Fit, ...]
    rows: int
    tried: int

    @property
    def best(self) -> Fit:
        """The simplest settings that fit, or the nearest."""
        return self.fits[0]

    @property
    def fitting(self) -> bool:
        """Whether settings fit."""
        return self.kind in ("given", "recovered", "ambiguous")


def infer(stem: str, log: Log, given: Mapping[str, Any] | None = None, defects: bool = True) -> Inference:
    """Return the settings of the method `stem` that fit the log, beside those that are `given`.

    Where none fit, those that fit with one of the known `defects` are looked for, and otherwise the nearest.
    The log holds what the method reads (`mtlref.audit.read_run`). Errors: DomainError for what is given.
    """
    given = dict(given or {})
    first = build(stem, given) if stem != "fixed" or given else build(stem, {"weights": 1.0})
    read: Any = {"losses": {"norms": None, "gram": None}, "norms": {"gram": None}, "gram": {}}[first.reads]
    small = beginning(replace(log, **read), FEW if first.reads == "gram" else SEARCHED)
    sought = left_open(first, given)
    if not sought or stem not in PROPOSERS:
        found = fit_of(first, {}, Family(), small)
        kind: Kind = "given" if found.departures == 0 else "nearest"
        return Inference(stem, kind, (found,), len(small.rows), 1)
    search = _Search(stem, small, given)
    fits = search.fits()
    if fits:
        if not fits[0].steps:
            return Inference(stem, "undecided", (search.usual(),), len(small.rows), search.tried)
        anything = any(np.isinf(high) for _, high in fits[0].spans.values())
        kind = "ambiguous" if anything or len(fits) > 1 else "recovered"
        return Inference(stem, kind, fits, len(small.rows), search.tried)
    kind, best = search.without() if defects else ("nearest", search.usual())
    return Inference(stem, kind, (best,), len(small.rows), search.tried)


class _Search:
    """The search for one method's settings on one log."""

    def __init__(self, stem: str, log: Log, given: Mapping[str, Any]) -> None:
        self.stem, self.log, self.given, self.tried = stem, log, given, 0
        self.defective: list[Family] = []

    def fits(self) -> tuple[Fit, ...]:
        """Return what fits, the simplest first, each with its other values that are alike."""
        found: list[Fit] = []
        for family in self.proposed():
            if family.defect is not None:
                self.defective.append(family)
                continue
            fit = self.member(family)
            if fit is not None and all(fit.method != other.method for other in found):
                found.append(fit)
        starting = [fit for fit in found if self.begins(fit.method)]
        return self.merged(sorted(starting or found, key=self.complexity))

    def proposed(self) -> Iterator[Family]:
        """Yield the families that are proposed. What cannot be computed on the log's numbers proposes nothing."""
        families = PROPOSERS[self.stem](self.log, self.given)
        for _ in range(MOST):
            try:
                with np.errstate(all="ignore"):
                    family = next(families, None)
            except (MtlrefError, np.linalg.LinAlgError):
                return
            if family is None:
                return
            yield family

    def member(self, family: Family, defects: tuple[Defect, ...] = ()) -> Fit | None:
        """Return the simplest member of a family that fits, or else one whose steps do, None if there is none."""
        second: Fit | None = None
        for settings in family.members(self.stem):
            method = self.built(settings)
            if method is None or explains(method, self.log, defects) is None:
                continue
            fit = fit_of(method, settings, family, self.log, defects)
            if defects or self.follows(method):
                return fit
            second = second or fit
        return second

    def follows(self, method: Method) -> bool:
        """Return whether the whole run follows from its start; a start that cannot be replayed from says nothing."""
        try:
            return not feeds_back(method) or free_run(method, self.log).follows
        except MtlrefError:
            return True

    def begins(self, method: Method) -> bool:
        """Return whether the log begins as the method does."""
        try:
            return begins(method, self.log, ())
        except (MtlrefError, StopIteration):
            return False

    def built(self, settings: Mapping[str, Any]) -> Method | None:
        """Return the method with settings, None where they are out of range."""
        self.tried += 1
        try:
            return build(self.stem, {**self.given, **settings})
        except MtlrefError:
            return None

    def complexity(self, fit: Fit) -> tuple[int, int, int]:
        """Return by what fits are ordered: settings that are not the default's, the optimiser's parts, digits."""
        usual = defaults(self.stem)
        other = [value for name, value in fit.settings.items() if value != usual.get(name)]
        parts = sum(len(value) if isinstance(value, dict | tuple) else 1 for value in other)
        return len(other), parts, sum(len(repr(value)) for value in other)

    def merged(self, fits: list[Fit]) -> tuple[Fit, ...]:
        """Return the fits with what is alike in them counted once."""
        if self.stem not in ALIKE:
            return tuple(fits)
        name, values = ALIKE[self.stem]
        kept: list[Fit] = []
        for fit in fits:
            rest = {key: value for key, value in fit.settings.items() if key != name}
            if any(rest == {k: v for k, v in one.settings.items() if k != name} for one in kept):
                continue
            kept.append(self.with_alike(fit, name, values))
        return tuple(kept)

    def with_alike(self, fit: Fit, name: str, values: tuple[object, ...]) -> Fit:
        """Return the fit with the other values of a choice that fit as well."""
        if name in self.given:
            return fit
        same = []
        for value in values:
            other = self.built({**fit.settings, name: value})
            if value != getattr(fit.method, name) and other is not None and explains(other, self.log, ()) is not None:
                same.append(value)
        alike = {name: tuple(same)} if same else {}
        return Fit(fit.method, fit.settings, fit.spans, alike, None, fit.steps, fit.departures, fit.largest)

    def usual(self) -> Fit:
        """Return the defaults of what is not given."""
        settings = {name: value for name, value in defaults(self.stem).items() if name not in self.given}
        return fit_of(build(self.stem, {**self.given, **settings}), settings, Family(), self.log)

    def without(self) -> tuple[Kind, Fit]:
        """Return what fits with a known defect, or else the nearest of some rough settings."""
        for family in self.defective:
            defects = tuple(d for d in DEFECTS[self.stem] if d.name == family.defect)
            fit = self.member(family, defects)
            if fit is not None:
                return "with a defect", fit
        with np.errstate(all="ignore"):
            rest = [one for one in rough(self.stem, self.log, self.given) if self.built(one) is not None]
        methods = [(build(self.stem, {**self.given, **settings}), settings) for settings in rest]
        for method, settings in methods:
            for defect in DEFECTS[self.stem]:
                if explains(method, self.log, (defect,)) is not None:
                    return "with a defect", fit_of(method, settings, Family(), self.log, (defect,))
        found = [fit_of(method, settings, Family(), self.log) for method, settings in methods]
        return "nearest", min(found, key=lambda fit: (fit.departures, fit.largest))


def fit_of(
    method: Method, settings: Mapping[str, Any], family: Family, log: Log, defects: tuple[Defect, ...] = ()
) -> Fit:
    """Return how the log compares with a method, but for its first row where the method is lagged."""
    steps = departures = 0
    largest = 0.0
    spans = {**family.spans, **{name: span(estimate) for name, estimate in family.numbers.items()}}
    if not defects:
        try:
            for block in compared(method, log):
                if block.initial:
                    continue
                steps += len(block.rows)
                departures += int(np.sum(~block.agrees))
                largest = max(largest, float(np.max(np.abs(block.got - block.expected), initial=0.0)))
        except MtlrefError:
            steps, departures, largest = len(log.rows), len(log.rows), np.inf
    else:
        explained = explains(method, log, defects)
        steps, largest = (explained.steps, explained.largest) if explained is not None else (0, np.inf)
    return Fit(method, settings, spans, {}, defects[0] if defects else None, steps, departures, largest)
