"""Curves: one long run of an implementation beside the specification's, as numbers and as SVG.

The lines are two runs of the same problems from the same start, each led by its own weights. The errors are those of
the checks: every step judged on its own, from the weights that the implementation had.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from mtlref.conformance.allowance import plain
from mtlref.conformance.implementation import EVERYWHERE, AdapterError, observed_names
from mtlref.conformance.problem import Case
from mtlref.conformance.runner import Session
from mtlref.conformance.strategies import Shape, battery, decided, make, method_of, sizes
from mtlref.conformance.trial import Trial
from mtlref.drawing import COLOURS, Axes, departure, plot
from mtlref.notation import Array

LONG = 40
"""The steps of the run that is drawn."""

SEEDS = 20
"""How many runs are tried until the method has an answer at every step of one."""


class NoCurve(Exception):
    """There is nothing to draw, for the reason that the message gives."""


@dataclass(frozen=True)
class Curves:
    """The observable `name` over a run of T steps, n numbers a step.

    `got` (T, n): the implementation's; `own` (T, n): those of the specification's own run; `error`, `allowed` (T,):
    of each step's worst entry, the error and its allowance, after the first departure that of rounding alone, since
    the spread of every step behind it would take long; `first`: the first step that departs and its worst entry.
    """

    case: Case
    name: str
    got: Array
    own: Array
    error: Array
    allowed: Array
    first: tuple[int, int] | None


def curves(session: Session, departed: Iterable[str] = ()) -> Curves:
    """Return the curves of the weights, or of another vector among the observables `departed` if that departs.

    Errors: NoCurve.
    """
    if session.unusable is not None:
        raise NoCurve("the implementation could not be used")
    if session.impl.own_order:
        raise NoCurve("the implementation draws its own orders, so its run is not the specification's")
    with np.errstate(all="ignore"):
        case = long_case(session)
        trial = Trial(session.answers, case)
        try:
            names = vectors(session, trial)
        except AdapterError as error:
            raise NoCurve(f"the run of {len(case.steps)} steps was not answered: {error}") from error
        if min(len(trial.got), len(trial.expected)) < 2:
            raise NoCurve("the specification cannot go on from what the implementation gives at the first step")
        suspects = [name for name in names if name in set(departed)]
        found = next((drawn for name in suspects if (drawn := curve(trial, name)).first is not None), None)
        return found or curve(trial, names[0])


def long_case(session: Session) -> Case:
    """Return the run to draw: `LONG` steps of the plainest problems, of live code a live run. Errors: NoCurve."""
    impl, plan = session.impl, session.plan
    if plan.live or "run" not in impl.kinds:
        found = battery(plan, impl, impl.kinds[-1], 1)[0]
        if len(found.steps) < 2:
            raise NoCurve("its cases are single steps")
        return found
    K = min(sizes(plan, impl), key=lambda K: abs(K - 3))
    D = min(plan.dimensions, key=lambda D: abs(D - 5))
    shape = Shape(plan.settings[0], K, D, plan.gradients[0], plan.losses[0], 0)
    method = method_of(plan, impl, shape.settings, K)
    for seed in range(SEEDS):
        case = make(method, shape, seed, "run", f"long run {seed}", LONG)
        if case is not None and decided(plan, impl, case):
            return case
    raise NoCurve(f"the specification has no answer somewhere in each of {SEEDS} runs of {LONG} steps")


def vectors(session: Session, trial: Trial) -> list[str]:
    """Return the observables that are vectors as the specification has them, weights first.

    Errors: NoCurve if there are none, AdapterError.
    """
    K = trial.case.n_tasks
    expected = trial.expected[0] if trial.expected else {}
    names = dict.fromkeys((session.plan.mandatory, *EVERYWHERE, *observed_names(trial.case)))
    found = [
        name
        for name in names
        if np.ndim(expected.get(name, 0)) == 1
        and all(name in row and row[name].shape == np.shape(expected[name]) for row in trial.got)
    ]
    if not found:
        raise NoCurve("it gives no vector that the specification has too")
    return sorted(found, key=lambda name: len(expected[name]) != K)


def curve(trial: Trial, name: str) -> Curves:
    """Return the curves of one observable."""
    T = min(len(trial.got), len(trial.expected))
    error, allowed, first = np.zeros(T), np.zeros(T), None
    for t in range(T):
        got, wanted = trial.got[t][name], np.asarray(trial.expected[t][name], dtype=np.float64)
        rounding = np.full(wanted.shape, plain(wanted, trial.answers.impl.eps))
        limit = trial.allowed(name, t, got, wanted) if first is None else rounding
        off = np.where(np.isfinite(got), np.abs(got - wanted), np.inf)
        at = int(np.argmax(off - limit))
        error[t], allowed[t] = off[at], limit[at]
        if first is None and not error[t] <= allowed[t]:
            first = (t, at)
    got = np.array([row[name] for row in trial.got[:T]])
    return Curves(trial.case, name, got, specified(trial.case, name)[:T], error, allowed, first)


def specified(case: Case, name: str) -> Array:
    """Return an observable of the specification's own run, (T, n)."""
    state, rows = case.state, []
    for problem in case.steps:
        rows.append(problem.observables(state)[name])
        state = problem.step(state).state
    return np.array(rows, dtype=np.float64)


# SVG


def lines(found: Curves) -> str:
    """Return the plot of the implementation's numbers over those of the specification."""
    values = np.concatenate([found.got.ravel(), found.own.ravel()])
    values = values[np.isfinite(values)]
    low, high = float(np.min(values)), float(np.max(values))
    pad = 0.06 * (high - low) or 0.5 * abs(high) or 1.0

    def marks(axes: Axes) -> Iterable[str]:
        yield from (axes.line(column, "spec") for column in found.own.T)
        yield from (axes.line(column, f"s s{i % COLOURS}") for i, column in enumerate(found.got.T))
        if found.first is not None:
            yield departure(axes, found.first[0], float(found.got[found.first]))

    title = f"{found.name} of the implementation and of the specification by step"
    return plot(title, Axes(len(found.got), low - pad, high + pad), marks)


def errors(found: Curves) -> str:
    """Return the plot of the errors and their allowances, on a scale of powers of ten."""
    values = np.concatenate([found.error, found.allowed])
    values = np.log10(values[(values > 0) & np.isfinite(values)])
    low, high = (np.floor(np.min(values)) - 1, np.ceil(np.max(values)) + 1) if len(values) else (-17, 0)

    def marks(axes: Axes) -> Iterable[str]:
        yield axes.line(found.allowed, "spec")
        yield axes.line(found.error, "s s0")
        if found.first is not None:
            yield departure(axes, found.first[0], float(found.error[found.first[0]]))

    title = f"largest error of {found.name} by step, and its allowance"
    return plot(title, Axes(len(found.error), float(low), float(high), log=True), marks)
