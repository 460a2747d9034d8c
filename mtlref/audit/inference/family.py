"""A family of settings: the choices of a method that are made, and the numbers that a log gives with them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from mtlref.audit.inference.numbers import Estimate, simplest, widths
from mtlref.audit.readers import Log, part
from mtlref.methods import METHODS
from mtlref.notation import Array
from mtlref.settings import left_open

SEARCHED = 1024
"""How many rows, from the first, settings are searched on. What is found is judged on all rows."""

FEW = 128
"""How many, where inner products are logged: their steps are taken one by one, and each asks for a solver."""

Span = tuple[float, float]
"""The ends of what a log leaves open of a number; the upper one may be infinite."""


@dataclass(frozen=True)
class Family:
    """Settings of the method `stem`: `choices` as they are, `numbers` near estimates, `spans` anywhere between two.

    A number `optimiser.beta` is that of the optimiser. `defect` names the known defect with which alone they stand.
    """

    choices: Mapping[str, Any] = field(default_factory=dict)
    numbers: Mapping[str, Estimate] = field(default_factory=dict)
    spans: Mapping[str, Span] = field(default_factory=dict)
    defect: str | None = None

    def members(self, stem: str) -> Iterator[dict[str, Any]]:
        """Yield the settings from the simplest on: those with numbers farthest from their estimates first."""
        seen: list[dict[str, Any]] = []
        for width in widths():
            settings = dict(self.choices)
            for name, ends in self.spans.items():
                put(settings, name, within(stem, name, ends))
            for name, estimate in self.numbers.items():
                put(settings, name, estimate.near(width))
            if settings not in seen:
                seen.append(settings)
                yield settings


def put(settings: dict[str, Any], name: str, value: float) -> None:
    """Set a number, that of the optimiser if its name says so."""
    whole, dot, part = name.partition(".")
    settings[whole] = {**settings[whole], part: value} if dot else value


def within(stem: str, name: str, ends: Span) -> float:
    """Return the default of a number if it lies between the ends, else the simplest number that does."""
    default = getattr(METHODS[stem], name, None)
    if isinstance(default, float) and ends[0] <= default <= ends[1]:
        return default
    return simplest(ends[0], ends[1] if np.isfinite(ends[1]) else 2 * ends[0] + 1)


def defaults(stem: str) -> dict[str, Any]:
    """Return the settings of a method that have a default, and their values."""
    cls = METHODS[stem]
    return {name: getattr(cls, name) for name in left_open(cls) if hasattr(cls, name)}


def beginning(log: Log, rows: int) -> Log:
    """Return the log's first rows, in memory, up to where another run starts."""
    cut = part(log, 0, min(rows, *log.starts[1:2], len(log.rows)))
    held = {name: values for name, values in vars(cut).items() if isinstance(values, np.ndarray)}
    return replace(cut, **{name: np.array(values) for name, values in held.items()})  # type: ignore[arg-type]


def off(log: Log, kind: str, values: Array) -> Array:
    """Return how far logged numbers of a kind may be off."""
    return log.precision[kind].of(np.asarray(values))


def finite_rows(*columns: Array) -> Array:
    """Return which rows are finite in every column."""
    good = np.ones(len(columns[0]), dtype=bool)
    for values in columns:
        good &= np.isfinite(values).reshape(len(values), -1).all(axis=1)
    return good
