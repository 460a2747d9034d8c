"""Drawings: plots over a run's steps as SVG, to be set in a page that needs nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from html import escape

import numpy as np

from mtlref.notation import Array

COLOURS = 8
"""The colours of the lines, `s0` and on; a ninth line has the first again."""

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 480, 270, 56, 12, 22, 38
"""The size of a plot and its margins."""


@dataclass(frozen=True)
class Axes:
    """Steps to the right, from `first` on, values upwards from `low` to `high`; of logarithms, if `log`, base 10."""

    steps: int
    low: float
    high: float
    log: bool = False
    first: float = 0.0
    label: str = "step"

    def x(self, t: float) -> float:
        """Where step t is."""
        return LEFT + (WIDTH - LEFT - RIGHT) * (t - self.first) / max(self.steps - 1, 1)

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
        for tick in ticks(self.first, self.first + self.steps - 1, whole=True):
            x, y = self.x(tick), HEIGHT - BOTTOM + 16
            rows.append(f'<text class="x" x="{x:.3f}" y="{y}" text-anchor="middle">{tick:.0f}</text>')
        middle = (LEFT + end) / 2
        return "".join([*rows, f'<text x="{middle}" y="{HEIGHT - 4}" text-anchor="middle">{self.label}</text>'])

    def line(self, values: Array, kind: str, steps: Array | None = None) -> str:
        """A line of the class `kind` through the values, broken where one is not a number; `steps`: 0 and on."""
        parts: list[list[str]] = [[]]
        for t, value in zip(range(len(values)) if steps is None else steps, values, strict=True):
            if np.isnan(value) or (np.isinf(value) and not self.log):
                parts.append([])
            else:
                parts[-1].append(f"{self.x(t):.3f},{self.y(value):.3f}")
        return "".join(f'<polyline class="{kind}" points="{" ".join(part)}"/>' for part in parts if part)

    def band(self, steps: Array, low: Array, high: Array, kind: str) -> str:
        """A band of the class `kind` from the low to the high values at the steps, broken where there is none."""
        known = np.isfinite(low) & np.isfinite(high)
        cuts = np.flatnonzero(np.diff(known.astype(int))) + 1
        parts = [part for part in np.split(np.arange(len(steps)), cuts) if len(part) and known[part[0]]]
        there = [[f"{self.x(steps[i]):.2f},{self.y(high[i]):.2f}" for i in part] for part in parts]
        back = [[f"{self.x(steps[i]):.2f},{self.y(low[i]):.2f}" for i in part[::-1]] for part in parts]
        return "".join(
            f'<polygon class="band {kind}" points="{" ".join(one + other)}"/>'
            for one, other in zip(there, back, strict=True)
        )


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
    side, shift = ("end", -5) if step - axes.first > axes.steps / 2 else ("start", 5)
    place = f'x="{x + shift:.3f}" y="{TOP - 8}" text-anchor="{side}"'
    text = f'<text class="bad" {place}>first departure: {axes.label} {step}</text>'
    ring = f'<circle cx="{x:.3f}" cy="{axes.y(value):.3f}" r="5"/>' if np.isfinite(value) else ""
    return f'<line class="bad" x1="{x:.3f}" x2="{x:.3f}" y1="{TOP - 16}" y2="{HEIGHT - BOTTOM}"/>{text}{ring}'
