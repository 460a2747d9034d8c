"""Fixed weights in rational arithmetic: the weights as they are given, and the total loss that they make."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from mtlref.exact import Number, fraction, fractions


def weights(given: Number | Sequence[Number], tasks: int) -> tuple[Fraction, ...]:
    """Return the weight of each of `tasks` tasks; a single number is the weight of all."""
    if not isinstance(given, Sequence):
        return (fraction(given),) * tasks
    if len(given) != tasks:
        raise ValueError(f"there are {len(given)} weights for {tasks} tasks")
    return fractions(given)


def total(given: Number | Sequence[Number], losses: Sequence[Number]) -> Fraction:
    """Return sum_i w_i L_i."""
    pairs = zip(weights(given, len(losses)), fractions(losses), strict=True)
    return sum((w * L for w, L in pairs), Fraction(0))
