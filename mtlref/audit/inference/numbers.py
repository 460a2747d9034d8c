"""Numbers from logs: the slope that noisy pairs agree on, and the simplest decimal near an estimate."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from mtlref.notation import Array

WIDTHS = (4.0, 1.0, 2.0**-2, 2.0**-4, 2.0**-6, 2.0**-8, 0.0)
"""How far from an estimate a simpler number is looked for, in units of what its tightest row says."""


@dataclass(frozen=True)
class Estimate:
    """A number as a log gives it: `value`, and `half`, by how much the log's tightest row would notice a change."""

    value: float
    half: float

    def near(self, width: float) -> float:
        """Return the simplest number within `width` times `half`."""
        return simplest(self.value - width * self.half, self.value + width * self.half)


def simplest(low: float, high: float) -> float:
    """Return the number with the fewest significant digits from `low` to `high`; 0 if it lies there.

    Of several, the one nearest to the middle. Only digits that a float64 can hold are tried: then it is the middle.
    """
    if low <= 0 <= high:
        return 0.0
    middle = low / 2 + high / 2
    for digits in range(17):
        number = float(f"{middle:.{digits}e}")
        if low <= number <= high:
            return number
    return middle


def slope(x: Array, y: Array, off: Array) -> Estimate | None:
    """Return θ with y ≈ θ x, by least squares weighted by what each y may be `off`; None if every x is 0."""
    use = np.isfinite(x) & np.isfinite(y) & (off > 0)
    x, y, off = x[use], y[use], off[use]
    size = np.max(np.abs(x) / off, initial=0.0)
    if not 0 < size < math.inf:
        return None
    a, b = x / off / size, y / off / size
    theta = float(np.sum(a * b) / np.sum(a * a))
    return Estimate(theta, float(1 / size)) if math.isfinite(theta) else None


def inverse(estimate: Estimate) -> Estimate:
    """Return the estimate of 1/θ, θ above 0."""
    return Estimate(1 / estimate.value, estimate.half / estimate.value**2)


def span(estimate: Estimate, least: float = 0.0) -> tuple[float, float]:
    """Return the ends of what an estimate leaves open, none below `least`."""
    return max(estimate.value - estimate.half, least), estimate.value + estimate.half


def widths() -> Iterator[float]:
    """Yield how far from the estimates to look, the widest first."""
    yield from WIDTHS
