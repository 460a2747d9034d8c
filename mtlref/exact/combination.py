"""The combination of weighting methods in rational arithmetic, from the stages' weights as they are given.

The product of weights, with exponents, brought to a sum of K is a point of the positive orthant up to a factor. So it
is formed here from ratios to each stage's largest weight: K r_i / sum_j r_j, r_i = prod_m (w_i / max w)^beta_m. With
whole exponents, or bases that are powers, it is a rational.

An aggregator is run on the weighted gradients themselves, a vector a task. Its direction is a combination of them, so
the coefficient of the unweighted gradient is that of the weighted one times its weight.

- `combined`: the weights of the product; `scaled`: a stage's own weights, brought to a sum of K.
- `inverse`: the weights whose product with the given ones is equal weights.
- `epoch_mean`: the mean of the losses of an epoch so far.
- `surgery`, `balance`: the coefficients of PCGrad and of PE-LTR on weighted gradients.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from mtlref.exact import (
    Exact,
    Number,
    UndefinedError,
    exact_power,
    fraction,
    fractions,
    pcgrad,
    pe_ltr,
    power,
    shown,
    was_rounded,
)

Rows = Sequence[Sequence[Number]]


def scaled(weights: Sequence[Number]) -> tuple[Exact, ...]:
    """Return K w / sum(w) for weights of at least 0. Errors: UndefinedError if one is below 0, or all are 0."""
    w = fractions(weights)
    if min(w) < 0 or not any(w):
        raise UndefinedError("weights are brought to a sum of K if none is below 0 and one is above")
    return shown([len(w) * x / sum(w, Fraction(0)) for x in w], not was_rounded(weights))


def factors(stages: Rows, strengths: Sequence[Number]) -> tuple[Exact, ...]:
    """Return prod_m u_i^beta_m, with each stage's weights u brought to a sum of K; 0^0 is 1."""
    rows, exponents = [fractions(scaled(row)) for row in stages], fractions(strengths)
    found = []
    rational = not any(was_rounded(row) for row in stages)
    for task in range(len(rows[0])):
        value = Fraction(1)
        for row, exponent in zip(rows, exponents, strict=True):
            rational = rational and exact_power(row[task], exponent) is not None
            value *= power(row[task], exponent)
        found.append(value)
    return shown(found, rational)


def combined(stages: Rows, strengths: Sequence[Number]) -> tuple[Exact, ...]:
    """Return the weights of the product, with sum K. Errors: UndefinedError if all products are 0."""
    rows, exponents = [fractions(row) for row in stages], fractions(strengths)
    K = len(rows[0])
    rational = not any(was_rounded(row) for row in stages)
    ratios = []
    for task in range(K):
        value = Fraction(1)
        for row, exponent in zip(rows, exponents, strict=True):
            ratio = row[task] / max(row)
            rational = rational and exact_power(ratio, exponent) is not None
            value *= power(ratio, exponent)
        ratios.append(value)
    if not any(ratios):
        raise UndefinedError("every task has a weight of 0 in some stage")
    total = sum(ratios, Fraction(0))
    return shown([K * ratio / total for ratio in ratios], rational)


def inverse(weights: Sequence[Number]) -> tuple[Exact, ...]:
    """Return the weights of sum K in proportion to 1 / w."""
    w = fractions(weights)
    if min(w) <= 0:
        raise UndefinedError("only weights above 0 have an inverse")
    return scaled([1 / x for x in w])


def epoch_mean(sums: Sequence[Number], losses: Sequence[Number], steps: int) -> tuple[Fraction, ...]:
    """Return the mean of `losses` and of the `steps` losses before them, whose sums are given."""
    pairs = zip(fractions(sums), fractions(losses), strict=True)
    return tuple((total + loss) / (steps + 1) for total, loss in pairs)


def weighted(weights: Sequence[Number], gradients: Rows) -> tuple[tuple[Fraction, ...], ...]:
    """Return the rows w_i g_i."""
    rows = [fractions(row) for row in gradients]
    return tuple(tuple(w * x for x in row) for w, row in zip(fractions(weights), rows, strict=True))


def surgery(weights: Sequence[Number], gradients: Rows, orders: Sequence[Sequence[int]]) -> tuple[Fraction, ...]:
    """Return PCGrad's coefficients of the weighted gradients, for the sum of the projected ones."""
    return pcgrad.step(weighted(weights, gradients), orders)["w"]


def balance(
    weights: Sequence[Number], gradients: Rows, bounds: Sequence[Number] | None = None, *, solver: str = "published"
) -> tuple[Fraction, ...]:
    """Return PE-LTR's weights of the weighted gradients, with sum 1."""
    return pe_ltr.step(weighted(weights, gradients), bounds, solver=solver)["w_next"]


def on_unweighted(
    coefficients: Sequence[Number], weights: Sequence[Number], factor: Number = 1
) -> tuple[Fraction, ...]:
    """Return the coefficients of the unweighted gradients: those of the weighted ones, times weight and factor."""
    times = fraction(factor)
    pairs = zip(fractions(coefficients), fractions(weights), strict=True)
    return tuple(times * c * w for c, w in pairs)
