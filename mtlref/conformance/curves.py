"""Curves: one long run of an implementation beside the specification's, as numbers and as SVG.

The lines are two runs of the same problems from the same start, each led by its own weights. The errors are those of
the checks: every step judged on its own, from the weights that the implementation had.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from html import escape

import numpy as np

from mtlref.conformance.allowance import plain
from mtlref.conformance.implementation import EVERYWHERE, AdapterError, observed_names
from mtlref.conformance.problem import Case
from mtlref.conformance.runner import Session
from mtlref.conformance.strategies import Shape, battery, decided, make, method_of, sizes
from mtlref.conformance.trial import Trial
from mtlref.notation import Array

LONG = 40
"""The steps of the run that is drawn."""

SEEDS = 20
"""How many runs are tried until the method has an answer at every step of one."""

COLOURS = 8
"""The colours of the lines, `s0` and on; a ninth line has the first again."""

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 480, 270, 56, 12, 22, 38
"""The size of a plot and its margins."""


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


@dataclass(frozen=True)
class Axes:
    """Steps to the right, values upwards between `low` and `high`; of logarithms, if `log`, base 10."""

    steps: int
    low: float
    high: float
    log: bool = False

    def x(self, t: float) -> float:
        """Where step t is."""
        return LEFT + (WIDTH - LEFT - RIGHT) * t / max(self.steps - 1, 1)

    def y(self, value: float) -> float:
        """Where a value is; one that is off the scale is at its edge."""
        with np.errstate(divide="ignore"):
            height = float(np.log10(value)) if self.log else value
        share = (min(max(height, self.low), self.high) - self.low) / (self.high - self.low)
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * share

    def frame(self) -> str:
        """The grid, its numbers and the steps."""
        rows, end = [], WIDTH - RIGHT
        for tick in ticks(self.low, self.high, whole=self.log):
            y = self.y(10.0**tick if self.log else tick)
            text = f"1e{tick:.0f}" if self.log else f"{tick:.4g}"
            rows.append(f'<line class="grid" x1="{LEFT}" x2="{end}" y1="{y:.3f}" y2="{y:.3f}"/>')
            rows.append(f'<text class="y" x="{LEFT - 6}" y="{y:.3f}" dy="4" text-anchor="end">{text}</text>')
        for tick in ticks(0, self.steps - 1, whole=True):
            x, y = self.x(tick), HEIGHT - BOTTOM + 16
            rows.append(f'<text class="x" x="{x:.3f}" y="{y}" text-anchor="middle">{tick:.0f}</text>')
        middle = (LEFT + end) / 2
        return "".join([*rows, f'<text x="{middle}" y="{HEIGHT - 4}" text-anchor="middle">step</text>'])

    def line(self, values: Array, kind: str) -> str:
        """A line of the class `kind` through the values, broken where one is not a number."""
        parts: list[list[str]] = [[]]
        for t, value in enumerate(values):
            if np.isnan(value) or (np.isinf(value) and not self.log):
                parts.append([])
            else:
                parts[-1].append(f"{self.x(t):.3f},{self.y(value):.3f}")
        return "".join(f'<polyline class="{kind}" points="{" ".join(part)}"/>' for part in parts if part)


def ticks(low: float, high: float, whole: bool = False) -> list[float]:
    """Return four to nine round numbers from `low` to `high`; whole ones alone, if `whole`, then perhaps fewer."""
    width = high - low
    size = 10.0 ** np.floor(np.log10(width / 4)) if width > 0 else 1.0
    step = max(factor * size for factor in (1, 2, 5) if factor == 1 or 4 * factor * size <= width)
    step = max(step, 1.0) if whole else step
    return [float(step * i) for i in range(int(np.ceil(low / step)), int(np.floor(high / step + 1e-9)) + 1)]


def plot(title: str, axes: Axes, marks: Callable[[Axes], Iterable[str]]) -> str:
    """Return a plot as an SVG element."""
    body = "".join([axes.frame(), *marks(axes)])
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">{body}</svg>'


def departure(axes: Axes, step: int, value: float) -> str:
    """Return the mark of the first departure: a line at its step, and a ring around the value if it is a number."""
    x = axes.x(step)
    side, shift = ("end", -5) if step > axes.steps / 2 else ("start", 5)
    place = f'x="{x + shift:.3f}" y="{TOP - 8}" text-anchor="{side}"'
    text = f'<text class="bad" {place}>first departure: step {step}</text>'
    ring = f'<circle cx="{x:.3f}" cy="{axes.y(value):.3f}" r="5"/>' if np.isfinite(value) else ""
    return f'<line class="bad" x1="{x:.3f}" x2="{x:.3f}" y1="{TOP - 16}" y2="{HEIGHT - BOTTOM}"/>{text}{ring}'


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
