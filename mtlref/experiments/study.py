"""What an experiment is: a frozen dataclass of settings, with arms that are run for many seeds, and what they show.

    experiment = LossToy(steps=500)
    outcome = experiment.run("gradnorm", seed=3)        # one run: numbers, curves, and perhaps the audit's log
    summary = experiment.summary(runs)                  # a table, and claims that hold or do not

A run depends on the settings, the arm and the seed alone. `executed` is what a worker carries out, wherever it is.
"""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import numpy as np

from mtlref.experiments.statistics import Interval, interval
from mtlref.notation import Array, DomainError, MissingExtraError, MtlrefError, NonFiniteError, count
from mtlref.training import History

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Log:
    """The audit's log of a run: its columns, and the side file's method and settings, None if no method is known."""

    columns: Mapping[str, Array]
    side: Mapping[str, Any] | None

    @classmethod
    def of(
        cls, history: History, stem: str | None, settings: Mapping[str, object], tasks: Sequence[str], gram: bool
    ) -> Log:
        """Return the log of a training run; `gram`: whether the method reads inner products."""
        side = None if stem is None else {"method": stem, "settings": dict(settings)}
        return cls(history.columns(tasks, gram), side)


@dataclass(frozen=True)
class Outcome:
    """What a run gave: `metrics`, numbers by name; `curves`, lists of numbers by name, for the figure; `log`."""

    metrics: Mapping[str, float]
    curves: Mapping[str, Sequence[float]] = field(default_factory=dict)
    log: Log | None = None


@dataclass(frozen=True)
class Run:
    """A finished run: its arm, its seed, its metrics and curves."""

    arm: str
    seed: int
    metrics: Mapping[str, float]
    curves: Mapping[str, Sequence[float]]

    def text(self) -> str:
        """Return the run as JSON, every float in its shortest round-trip form."""
        return json.dumps(asdict(self), allow_nan=False) + "\n"

    @classmethod
    def read(cls, text: str) -> Run:
        """Return the run that `text` wrote."""
        return cls(**json.loads(text))


@dataclass(frozen=True)
class Claim:
    """A statement that the runs bear out or do not: what it says, whether it holds, and the numbers for it.

    `published`: whether the source says it; what the source does not say is a finding, and no part of the verdict.
    """

    says: str
    holds: bool
    evidence: str
    published: bool = True


@dataclass(frozen=True)
class Summary:
    """A table, a row an arm, whose cells are words, numbers, intervals or None; and the claims."""

    table: Sequence[Mapping[str, str | float | Interval | None]]
    claims: Sequence[Claim]

    @property
    def verdict(self) -> str:
        """`reproduced` if every published claim holds, `not reproduced` if none does, else `partly reproduced`."""
        held = [claim.holds for claim in self.claims if claim.published]
        return "reproduced" if all(held) else "partly reproduced" if any(held) else "not reproduced"


E = TypeVar("E", bound="Experiment")


class Experiment(ABC):
    """An experiment. Subclasses are frozen dataclasses whose fields are its settings, each with a default."""

    name: ClassVar[str]
    """What `mtlref reproduce` calls it; the page derivations/experiments/NAME.md has the same name."""
    title: ClassVar[str]
    source: ClassVar[str]
    seeds: ClassVar[int]
    """How many seeds are run if nothing is said."""
    formats: ClassVar[str] = "svg"
    """The format of the figure."""

    @property
    @abstractmethod
    def arms(self) -> tuple[str, ...]:
        """The names of what is compared, in the order of the table."""

    @abstractmethod
    def run(self, arm: str, seed: int) -> Outcome:
        """Run one arm with one seed."""

    @abstractmethod
    def summary(self, runs: Sequence[Run]) -> Summary:
        """Return what the runs show: all arms of every seed, in the order of the arms and then of the seeds."""

    @abstractmethod
    def draw(self, figure: Figure, runs: Sequence[Run], summary: Summary) -> None:
        """Draw the figure."""

    def needs(self) -> None:  # noqa: B027  (most experiments need nothing)
        """Raise MissingExtraError if a package is missing that the runs need."""

    def plain(self) -> dict[str, Any]:
        """Return the settings as plain JSON."""
        settings: dict[str, Any] = json.loads(json.dumps({f.name: getattr(self, f.name) for f in fields(self)}))  # type: ignore[arg-type]
        return settings

    @classmethod
    def built(cls: type[E], settings: Mapping[str, object]) -> E:
        """Return the experiment with `settings`; what they leave out has its default. Errors: DomainError."""
        defaults = {f.name: f.default for f in fields(cls)}  # type: ignore[arg-type]
        given: dict[str, Any] = {}
        for name, value in settings.items():
            if name not in defaults:
                message = f"{cls.name} has no setting {name!r}; it has: {', '.join(defaults)}"
                raise DomainError(message, argument=name, value=value)
            given[name] = alike(name, value, defaults[name])
        return cls(**given)


def alike(name: str, value: Any, default: object) -> Any:
    """Return a setting's value in the type of its default. Errors: DomainError."""
    if isinstance(default, tuple) and isinstance(value, list | tuple) and value:
        return tuple(alike(name, item, default[0]) for item in value)
    if isinstance(default, int) and not isinstance(value, bool) and isinstance(value, int):
        return count(name, value)
    if isinstance(default, float) and not isinstance(value, bool) and isinstance(value, int | float):
        return float(value)
    if isinstance(default, str) and isinstance(value, str):
        return value
    kind = "a list of numbers or words" if isinstance(default, tuple) else f"like {default!r}"
    raise DomainError(f"{name} = {value!r} must be {kind}", argument=name, value=value)


def chosen(name: str, value: str, allowed: Iterable[str]) -> None:
    """Raise DomainError unless a setting is one of the values allowed."""
    allowed = list(allowed)
    if value not in allowed:
        message = f"{name} = {value!r} must be one of {', '.join(allowed)}"
        raise DomainError(message, argument=name, value=value)


def executed(experiment: Experiment, arm: str, seed: int, logged: bool) -> tuple[Run, Log | None]:
    """Carry out one run, and return it with its log if that is asked for: what a worker does.

    Errors: those of the run, with the arm and the seed in the message.
    """
    try:
        outcome = experiment.run(arm, seed)
    except MissingExtraError:
        raise
    except MtlrefError as error:
        raise MtlrefError(f"{experiment.name}, {arm}, seed {seed}: {error}", equation=error.equation) from error
    metrics = {name: float(value) for name, value in outcome.metrics.items()}
    for name, value in metrics.items():
        if not math.isfinite(value):
            message = f"{experiment.name}, {arm}, seed {seed}: {name} is {value}"
            raise NonFiniteError(message, argument=name, value=value)
    curves = {name: [float(value) for value in values] for name, values in outcome.curves.items()}
    return Run(arm, seed, metrics, curves), outcome.log if logged else None


# WHAT EXPERIMENTS SHARE


def generator(seed: int, *purpose: int) -> np.random.Generator:
    """Return the generator of one seed for one purpose: data, parameters, batches, draws."""
    return np.random.default_rng([seed, *purpose])


def values(runs: Iterable[Run], arm: str, metric: str) -> Array:
    """Return a metric of all runs of an arm, by seed."""
    return np.array([run.metrics[metric] for run in runs if run.arm == arm])


def in_words(found: Interval) -> str:
    """Return an interval in words: 0.123 ± 0.004."""
    return f"{found.mean:.3f}" if found.half is None else f"{found.mean:.3f} ± {found.half:.3f}"


def mean_curve(runs: Iterable[Run], arm: str, curve: str) -> Array:
    """Return the mean over the seeds of a curve of an arm."""
    return np.asarray(np.mean([run.curves[curve] for run in runs if run.arm == arm], axis=0))


def rows(runs: Sequence[Run], arms: Sequence[str], metrics: Sequence[str]) -> list[dict[str, Any]]:
    """Return a row an arm: its name, and the interval of the mean of each metric that it has."""
    return [
        {
            "arm": arm,
            **{
                metric: interval(values(runs, arm, metric))
                for metric in metrics
                if any(run.arm == arm and metric in run.metrics for run in runs)
            },
        }
        for arm in arms
    ]
