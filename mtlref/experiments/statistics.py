"""The statistics of the experiments: intervals of a mean, paired differences, ranks and how far apart they must be.

- `interval`: mean ± t s/√n, with Student's t at 97.5 % and n − 1 degrees of freedom: 95 % if the values are normal.
- `ranks`, `friedman`, `critical_difference`: Demšar, "Statistical Comparisons of Classifiers over Multiple Data
  Sets", JMLR 7, 2006. With N blocks and k arms, χ² = 12 N / (k (k + 1)) (Σ_j R_j² − k (k + 1)²/4) for the mean ranks
  R_j, and two arms differ where |R_i − R_j| ≥ q √(k (k + 1) / (6 N)), q the 95 % point of the studentised range of
  k values with infinite degrees of freedom, divided by √2 (Nemenyi).
- `holm`: which of several hypotheses fall when the chance of a single false rejection is to stay below 5 %.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from mtlref.notation import Array, DomainError, matrix, vector

LEVEL = 0.05
"""The chance of error of every interval and test."""


@dataclass(frozen=True)
class Interval:
    """A mean of n values, and its 95 % interval; without one for a single value."""

    mean: float
    low: float | None
    high: float | None
    n: int

    @property
    def half(self) -> float | None:
        """Half the interval's width."""
        return None if self.low is None or self.high is None else (self.high - self.low) / 2

    @property
    def above(self) -> bool:
        """Whether the whole interval lies above 0; False without one."""
        return self.low is not None and self.low > 0

    @property
    def below(self) -> bool:
        """Whether the whole interval lies below 0; False without one."""
        return self.high is not None and self.high < 0


def interval(sample: ArrayLike) -> Interval:
    """Return the mean of a sample and its 95 % interval. Errors: ShapeError, DomainError."""
    x = vector("sample", sample)
    n, mean = len(x), float(np.mean(x))
    if n == 1:
        return Interval(mean, None, None, 1)
    from scipy.special import stdtrit

    half = float(stdtrit(n - 1, 1 - LEVEL / 2) * np.std(x, ddof=1) / np.sqrt(n))
    return Interval(mean, mean - half, mean + half, n)


def paired(a: ArrayLike, b: ArrayLike) -> Interval:
    """Return the interval of the mean difference a − b, seed by seed."""
    x = vector("a", a)
    return interval(x - vector("b", b, len(x)))


def p_value(a: ArrayLike, b: ArrayLike) -> float:
    """Return the two-sided p of the paired t-test of a mean difference of 0; 1 where all differences are 0."""
    from scipy.special import stdtr

    d = vector("a", a) - vector("b", b)
    if len(d) < 2 or not np.any(d):
        return 1.0
    error = np.std(d, ddof=1) / np.sqrt(len(d))
    return float(2 * stdtr(len(d) - 1, -abs(np.mean(d)) / error)) if error > 0 else 0.0


def holm(p: Sequence[float]) -> list[bool]:
    """Return which of the hypotheses with these p fall, by Holm's step-down procedure."""
    fall, order = [False] * len(p), np.argsort(p, kind="stable")
    for place, i in enumerate(order):
        if p[i] > LEVEL / (len(p) - place):
            break
        fall[i] = True
    return fall


def ranks(scores: ArrayLike) -> Array:
    """Return the ranks (N, k) of the scores (N, k) in each row, 1 the least; equal ones share their mean rank."""
    x = matrix("scores", scores)
    less = (x[:, :, None] > x[:, None, :]).sum(axis=2)
    same = (x[:, :, None] == x[:, None, :]).sum(axis=2)
    return np.asarray(less + (same + 1) / 2)


def friedman(scores: ArrayLike) -> float:
    """Return p of Friedman's test that the arms' ranks are alike, for scores (N, k) with k ≥ 3."""
    from scipy.stats import friedmanchisquare

    x = matrix("scores", scores)
    if x.shape[1] < 3 or len(x) < 2:
        raise DomainError(f"Friedman's test needs 3 arms and 2 blocks; the scores are {x.shape}", argument="scores")
    return float(friedmanchisquare(*x.T).pvalue)


@functools.cache
def critical_difference(k: int, N: int) -> float:
    """Return the distance from which on the mean ranks of two of k arms over N blocks differ (Nemenyi)."""
    from scipy.stats import studentized_range

    q = float(studentized_range.ppf(1 - LEVEL, k, np.inf)) / np.sqrt(2)
    return float(q * np.sqrt(k * (k + 1) / (6 * N)))
