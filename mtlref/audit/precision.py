"""How exactly a log's numbers are known: from the numbers themselves.

A number that a framework made in float32 or float64 carries the rounding of its arithmetic: `ROUNDINGS` units of
that precision. A tracker that prints `0.6931` has rounded it once more, by half a unit of the last digit it printed;
that is seen where many different numbers all end after the same number of decimals, or of significant digits, and
most of them use the last one. Numbers below 1 with six significant digits end after six decimals as well: of both,
what leaves a number less exact counts, so that 1.03192 beside 0.927482 is known to five. Of too few different
numbers nothing is seen, weights that hardly move; they are taken to be printed as the log's other numbers are, if
they have no digits more than these. Whether the run computed in float32 or float64 is then hidden, and float32 is
assumed. Where one kind of numbers is float32, the run's arithmetic is taken to be.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from mtlref.audit.spool import spans
from mtlref.notation import Array

ROUNDINGS = 16
"""How many units of its precision a logged number may be off: a pairwise sum of the squares of D gradient entries
errs by at most about log₂ D of them, 16 up to D = 65,536; shorter sums, products and roots by a few."""

SINGLE, DOUBLE = 2.0**-24, 2.0**-53
"""The unit roundoffs of float32 and float64."""

DIGITS = range(2, 10)
"""How many decimals, or significant digits, are taken for rounding. More are no less than float32."""

DISTINCT = 16
"""How many different numbers it takes to see a rounding."""

SMALLEST, LARGEST = 1e-280, 1e9
"""Between these a number is asked for its digits: its power of ten is in range, its decimals are in a float64."""


@dataclass(frozen=True)
class Precision:
    """What numbers of one kind may be off by; `words` says why.

    That is `relative` times their size, and `absolute` or, if that is more, half a unit of their last of so many
    significant `digits`.
    """

    relative: float
    absolute: float
    words: str
    digits: int | None = None

    def of(self, values: Array) -> Array:
        """Return how far each of `values` may be off."""
        return np.asarray(self.relative * np.abs(values) + self.printed(values))

    def printed(self, values: Array) -> Array:
        """Return how far printing may have moved each of `values`; one just below a power of ten, as one above it."""
        if self.digits is None:
            return np.full(np.shape(values), self.absolute)
        size = np.maximum(np.abs(values) * (1 + 10.0 ** (1 - self.digits)), SMALLEST)
        return np.maximum(self.absolute, half_of_digits(size, self.digits))

    @property
    def is_printed(self) -> bool:
        """Whether the numbers have been rounded to decimals or significant digits."""
        return self.absolute > 0 or self.digits is not None

    def holds(self, values: Array) -> bool:
        """Return whether all of these numbers end where printing to this precision would have ended them."""
        x = np.abs(values[np.isfinite(values) & (values != 0)])
        decimals = self.absolute > 0 and bool(ends(x, round(-math.log10(2 * self.absolute)), True).all())
        return decimals or (self.digits is not None and bool(ends(x, self.digits, False).all()))

    @property
    def share(self) -> float:
        """The largest share of its size that a number may be off by, `absolute` aside."""
        return self.relative + (0.0 if self.digits is None else 0.5 * 10.0 ** (1 - self.digits))


def half_of_digits(size: Array, digits: int) -> Array:
    """Return half a unit of the last of so many significant digits of numbers above 0."""
    return np.asarray(0.5 * 10.0 ** (np.floor(np.log10(size)) + 1 - digits))


def unit_of(*logged: Array | None) -> float:
    """Return 2^-24 if the numbers of one kind, `DISTINCT` at least, or of all kinds are float32 values, else 2^-53.

    A loop in float32 may log means and inner products that it made in float64 of float32 numbers.
    """
    kinds = [values for values in logged if values is not None]
    singles = [in_single(values) for values in kinds]
    told = any(single and varied(values) for single, values in zip(singles, kinds, strict=True))
    return SINGLE if told or all(singles) else DOUBLE


def blocks_of(values: Array) -> Iterator[Array]:
    """Yield the numbers, a block of rows at a time."""
    return (np.asarray(values[span]) for span in spans(len(values), reading=[values]))


def in_single(values: Array) -> bool:
    """Return whether all numbers are float32 values."""
    with np.errstate(all="ignore"):
        return all(np.array_equal(block.astype(np.float32), block, equal_nan=True) for block in blocks_of(values))


def varied(values: Array) -> bool:
    """Return whether a block of the numbers holds `DISTINCT` different ones that are not whole."""
    finite = (block[np.isfinite(block)] for block in blocks_of(values))
    return any(len(np.unique(numbers[numbers != np.floor(numbers)])) >= DISTINCT for numbers in finite)


def precisions(held: Mapping[str, Array], unit: float) -> dict[str, Precision]:
    """Return the precision of each kind of numbers; of few different ones, that of the first kind that is printed."""
    found = {kind: precision(values, unit) for kind, values in held.items()}
    printed = [known for known in found.values() if known.is_printed]
    for kind, values in held.items():
        if len(values) and not found[kind].is_printed and not varied(values):
            fitting = (known for known in printed if all(known.holds(block) for block in blocks_of(values)))
            found[kind] = next(fitting, found[kind])
    return found


def precision(values: Array, unit: float) -> Precision:
    """Return the precision of one kind of numbers, whose framework's unit is `unit` unless they were rounded."""
    named = "float32" if unit == SINGLE else "float64"
    if unit == SINGLE:
        return Precision(ROUNDINGS * unit, 0.0, named)
    decimals, digits = rounded(values, True), rounded(values, False)
    if decimals is None and digits is None:
        return Precision(ROUNDINGS * unit, 0.0, named)
    half = 0.0 if decimals is None else 0.5 * 10.0**-decimals
    if digits is None or (decimals is not None and half_of_digits(np.array(largest(values)), digits) < 2 * half):
        return Precision(ROUNDINGS * SINGLE, half, f"{decimals} decimals")
    return Precision(ROUNDINGS * SINGLE, half, f"{digits} significant digits", digits)


def arithmetic(unit: float, known: Mapping[str, Precision]) -> float:
    """Return the unit roundoff of the run's own arithmetic: float32's where a rounding hides it."""
    hidden = any(kind.words not in ("float32", "float64") for kind in known.values())
    return SINGLE if hidden else unit


def rounded(values: Array, absolute: bool) -> int | None:
    """Return after how many decimals, or significant digits, all numbers end, if they were rounded there.

    Whole numbers of which some have fewer digits were counted, not rounded.
    """
    digits, used, seen, distinct = DIGITS.start, 0, 0, 0
    whole, least = True, math.inf
    for block in blocks_of(values):
        x = np.unique(np.abs(np.asarray(block, dtype=np.float64)))  # 1.000 may come often, and uses no digit
        x = x[(x > SMALLEST) & (x < LARGEST)]
        distinct = max(distinct, len(x))
        whole, least = whole and bool(np.all(x == np.floor(x))), min([least, *x[:1].tolist()])
        while digits in DIGITS and not ends(x, digits, absolute).all():
            digits, used, seen = digits + 1, 0, 0
        if digits not in DIGITS:
            return None
        used += int(np.sum(~ends(x, digits - 1, absolute)))
        seen += len(x)
    counted = whole and least < 10.0 ** (digits - 1)
    return digits if distinct >= DISTINCT and 2 * used >= seen > 0 and not counted else None


def largest(values: Array) -> float:
    """Return the largest size of a finite number."""
    sizes = map(np.abs, blocks_of(values))
    return max(float(np.max(size, where=np.isfinite(size), initial=SMALLEST)) for size in sizes)


def ends(x: Array, digits: int, absolute: bool) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    """Return which of the numbers above 0 end after so many decimals, or significant digits."""
    exponent = digits if absolute else digits - 1 - np.floor(np.log10(x))
    scaled = x * 10.0**exponent
    return np.asarray(np.abs(scaled - np.round(scaled)) <= 4 * DOUBLE * scaled)
