"""CoV-Weighting (Groenendijk et al., WACV 2021): exact statistics and 50-digit coefficients of variation.

Everything up to the variances is rational, so it is exact. There are two ways to it:

1. `history`: from the definitions. The mean of a list and its population variance, with weights beta^(t-k)
   where there is a decay, each formed afresh from all values of the list.
2. `step`: the recursions as the paper prints them, from whatever statistics are given.

That the two agree is Welford's identity, and a test of it. `weights` takes the roots and divides by the sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import TypedDict

from mtlref.exact import Exact, Number, UndefinedError, exact_root, fraction, fractions, shown, square_root


class Statistics(TypedDict):
    """The statistics after some steps, a number a task."""

    t: int
    ratio: tuple[Fraction, ...]
    mu_L: tuple[Fraction, ...]
    mu_ratio: tuple[Fraction, ...]
    M: tuple[Fraction, ...]


def moments(values: Sequence[Fraction], decay: Fraction | None) -> tuple[Fraction, Fraction]:
    """Return the mean of `values` and their population variance, both by their definitions.

    With a decay the k-th of n values has the weight decay^(n-k) over the sum of all weights.
    """
    n = len(values)
    shares = [Fraction(1) if decay is None else decay ** (n - 1 - k) for k in range(n)]
    total = sum(shares, Fraction(0))
    mean = sum((s * x for s, x in zip(shares, values, strict=True)), Fraction(0)) / total
    spread = sum((s * (x - mean) ** 2 for s, x in zip(shares, values, strict=True)), Fraction(0)) / total
    return mean, spread


def history(
    losses: Sequence[Sequence[Number]], *, decay: Number | None = None, observed: str = "ratio"
) -> list[Statistics]:
    """Return the statistics after each row of `losses`, formed from all rows so far by their definitions."""
    beta = None if decay is None else fraction(decay)
    columns = [fractions(column) for column in zip(*losses, strict=True)]
    seen: list[list[Fraction]] = [[] for _ in columns]
    result = []
    for t in range(1, len(losses) + 1):
        for task, column in enumerate(columns):
            seen[task].append(observation(column[:t], task, beta, observed))
        means = tuple(moments(column[:t], beta)[0] for column in columns)
        both = [moments(values, beta) for values in seen]
        result.append(
            Statistics(
                t=t,
                ratio=tuple(values[-1] for values in seen),
                mu_L=means,
                mu_ratio=tuple(mean for mean, _ in both),
                M=tuple(spread for _, spread in both),
            )
        )
    return result


def observation(column: Sequence[Fraction], task: int, decay: Fraction | None, observed: str) -> Fraction:
    """Return what the last loss of `column` is observed as: its ratio to the mean of those before, or itself."""
    if observed == "loss":
        return column[-1]
    if len(column) == 1:
        return Fraction(1)
    mean = moments(column[:-1], decay)[0]
    if mean == 0:
        raise UndefinedError(f"the ratio divides by the mean loss of task {task}, which is 0")
    return column[-1] / mean


def step(
    t: int,
    mu_L: Sequence[Number] | None,
    mu_ratio: Sequence[Number],
    M: Sequence[Number],
    losses: Sequence[Number],
    *,
    decay: Number | None = None,
    observed: str = "ratio",
) -> Statistics:
    """Return the statistics after one more step, by the printed recursions, from those after `t` steps.

    `mu_L` None: no mean loss is known yet, and the ratios are 1.
    """
    L, mean, spread = fractions(losses), fractions(mu_ratio), fractions(M)
    share = newest_share(t + 1, None if decay is None else fraction(decay))
    base = L if mu_L is None else fractions(mu_L)
    for task, value in enumerate(base):
        if value == 0 and mu_L is not None and observed == "ratio":
            raise UndefinedError(f"the ratio divides by mu_L[{task}] = 0")
    if observed == "loss":
        ratio = L
    elif mu_L is None:
        ratio = (Fraction(1),) * len(L)
    else:
        ratio = tuple(now / before for now, before in zip(L, base, strict=True))
    moved = tuple((1 - share) * m + share * x for m, x in zip(mean, ratio, strict=True))
    rows = zip(spread, ratio, mean, moved, strict=True)
    return Statistics(
        t=t + 1,
        ratio=ratio,
        mu_L=tuple((1 - share) * m + share * x for m, x in zip(base, L, strict=True)),
        mu_ratio=moved,
        M=tuple((1 - share) * v + share * (x - before) * (x - after) for v, x, before, after in rows),
    )


def newest_share(t: int, decay: Fraction | None) -> Fraction:
    """Return the share of the t-th value in the mean: 1/t, or 1 / (1 + decay + … + decay^(t-1))."""
    if decay is None:
        return Fraction(1, t)
    return 1 / sum((decay**k for k in range(t)), Fraction(0))


def weights(M: Sequence[Number], mu_ratio: Sequence[Number]) -> tuple[Exact, ...]:
    """Return alpha_i = c_i / sum c_j with c_i = sqrt(M_i) / mu_i, and 1/K if all c are 0."""
    spread, mean = fractions(M), fractions(mu_ratio)
    for task, value in enumerate(mean):
        if value == 0:
            raise UndefinedError(f"the coefficient of variation divides by mu_ratio[{task}] = 0")
    c = [square_root(v) / m for v, m in zip(spread, mean, strict=True)]
    total = sum(c, Fraction(0))
    if total == 0:
        return (Fraction(1, len(c)),) * len(c)
    return shown([x / total for x in c], all(exact_root(v, 2) is not None for v in spread))
