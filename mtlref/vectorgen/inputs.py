"""The inputs that are not written out one by one: short decimals by explicit formulas, the same on every machine.

Every formula gives a whole number over a power of ten, so that the nearest double prints as that decimal.
Tasks differ in size by up to a hundredfold, rows point in all directions, and no two entries repeat.
"""

from __future__ import annotations

SIZES = (1.0, 0.2, 5.0, 0.5, 10.0, 0.1, 2.0, 3.0)
"""The size of each task's gradients."""

BASES = (2.5, 0.2, 11.0, 0.7, 40.0, 1.3, 0.05, 6.0)
"""Each task's loss at the start."""

KEPT = (0.31, 0.86, 0.52, 1.17, 0.08, 0.7, 0.95, 0.43)
"""The share of its loss that each task keeps in the long run; one grows."""


def losses(K: int, t: int = 0, salt: int = 0) -> list[float]:
    """Return the losses of step t: they fall towards their share along t / (t + 4), with a ripple of 3 per cent."""
    row = []
    for i in range(K):
        ripple = ((7 * t + 5 * i + 3 * salt) % 13 - 6) / 200 if t else 0.0
        row.append(round(BASES[i] * (1 - (1 - KEPT[(i + salt) % 8]) * t / (t + 4) + ripple), 4))
    return row


def gradients(K: int, D: int, t: int = 0, salt: int = 0, scale: float = 1.0) -> list[list[float]]:
    """Return the Jacobian of step t, rounded to four decimals.

    Entry (i, d) is scale size_i ((17i + 29d + 11t + 7id + 13 salt) mod 41 - 20) / 20.
    """
    return [[round(scale * SIZES[i] * entry(i, d, t, salt) / 20, 4) for d in range(D)] for i in range(K)]


def entry(i: int, d: int, t: int, salt: int) -> int:
    """Return a whole number from -20 to 20 for row i and column d of step t."""
    return (17 * i + 29 * d + 11 * t + 7 * i * d + 13 * salt) % 41 - 20


def weights(K: int, salt: int = 0) -> list[float]:
    """Return unequal positive weights that sum to K: 1 and a step up or down, the last takes what is left."""
    row = [round(1 + ((5 * i + 3 * salt) % 7 - 3) / 10, 1) for i in range(K - 1)]
    return [*row, round(K - sum(row), 1)]


def losses_run(K: int, steps: int, salt: int = 0) -> list[list[float]]:
    """Return the losses of a run."""
    return [losses(K, t, salt) for t in range(steps)]


def gradients_run(K: int, D: int, steps: int, salt: int = 0, scale: float = 1.0) -> list[list[list[float]]]:
    """Return the Jacobians of a run."""
    return [gradients(K, D, t, salt, scale) for t in range(steps)]


def diagonal(*sizes: float) -> list[list[float]]:
    """Return the square Jacobian with these norms and orthogonal rows."""
    return [[size if i == d else 0.0 for d in range(len(sizes))] for i, size in enumerate(sizes)]
