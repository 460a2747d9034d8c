"""Uncertainty Weighting (Kendall, Gal, Cipolla, CVPR 2018): 50-digit exponentials and logarithms.

A task's negative log-likelihood, without constants, in s:

- gaussian: (1/2) e^(-s) L + (D/2) s, where L is a squared error and e^s the variance.
- softmax: e^(-s) L + (D/2) s, where L is a cross-entropy and e^s the temperature.
- laplace: e^(-s/2) L + (D/2) s, where L is an absolute error and e^(s/2) the density's scale.

`step` gives the weights, the objective, its slope and a plain gradient step. Each task's part is written out on
its own, and its slope is differentiated by hand. `scaled_softmax_loss` and `log_ratio` are the exact
classification likelihood.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from fractions import Fraction
from typing import TypedDict

from mtlref.exact import DIGITS, WORKING_DIGITS, Number, context, decimal, exponential, fraction, fractions


class Step(TypedDict):
    """What one step computes, to 50 digits."""

    w: tuple[Decimal, ...]
    objective: Decimal
    ds: tuple[Decimal, ...]
    s_next: tuple[Decimal, ...]


def task(likelihood: str, s: Fraction, L: Fraction, D: Fraction) -> tuple[Fraction, Fraction, Fraction]:
    """Return the weight of a task, its part of the objective and the part's slope in s."""
    if likelihood == "gaussian":
        precision = Fraction(exponential(-s))
        return precision / 2, (precision * L + D * s) / 2, (D - precision * L) / 2
    if likelihood == "softmax":
        precision = Fraction(exponential(-s))
        return precision, precision * L + D * s / 2, D / 2 - precision * L
    if likelihood == "laplace":
        inverse = Fraction(exponential(-s / 2))
        return inverse, inverse * L + D * s / 2, (D - inverse * L) / 2
    raise ValueError(f"the likelihood {likelihood!r} is not known")


def step(
    log_variances: Sequence[Number],
    losses: Sequence[Number],
    *,
    likelihoods: Sequence[str],
    lr: Number,
    dimensions: Sequence[Number] | None = None,
) -> Step:
    """Return one step of plain gradient descent on the log-variances."""
    s, L = fractions(log_variances), fractions(losses)
    D = (Fraction(1),) * len(s) if dimensions is None else fractions(dimensions)
    parts = [task(*given) for given in zip(likelihoods, s, L, D, strict=True)]
    rate = fraction(lr)
    return Step(
        w=tuple(decimal(w, DIGITS) for w, _, _ in parts),
        objective=decimal(sum((part for _, part, _ in parts), Fraction(0)), DIGITS),
        ds=tuple(decimal(slope, DIGITS) for _, _, slope in parts),
        s_next=tuple(decimal(s_i - rate * slope, DIGITS) for s_i, (_, _, slope) in zip(s, parts, strict=True)),
    )


def logarithm(value: Fraction) -> Fraction:
    """Return the natural logarithm of value > 0, to the working digits."""
    carried = WORKING_DIGITS + 10
    return Fraction(context(WORKING_DIGITS).ln(decimal(value, carried)))


def log_sum(logits: Sequence[Fraction]) -> Fraction:
    """Return log sum_k exp(f_k)."""
    return logarithm(sum((Fraction(exponential(f)) for f in logits), Fraction(0)))


def scaled_softmax_loss(logits: Sequence[Number], label: int, s: Number) -> Decimal:
    """Return -log of the softmax of logits / e^s at `label`."""
    tau = Fraction(exponential(-fraction(s)))
    scaled = [tau * f for f in fractions(logits)]
    return decimal(log_sum(scaled) - scaled[label], DIGITS)


def log_ratio(logits: Sequence[Number], s: Number) -> Decimal:
    """Return log( sum_k exp(f_k / e^s) / (sum_k exp f_k)^(1 / e^s) )."""
    tau, f = Fraction(exponential(-fraction(s))), fractions(logits)
    return decimal(log_sum([tau * x for x in f]) - tau * log_sum(f), DIGITS)


def entropy(logits: Sequence[Number]) -> Decimal:
    """Return the entropy of the softmax of `logits`, in nats: -sum_k p_k log p_k."""
    terms = [Fraction(exponential(f)) for f in fractions(logits)]
    shares = [term / sum(terms, Fraction(0)) for term in terms]
    return decimal(-sum((p * logarithm(p) for p in shares), Fraction(0)), DIGITS)
