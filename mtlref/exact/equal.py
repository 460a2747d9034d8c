"""Equal weights in rational arithmetic."""

from __future__ import annotations

from fractions import Fraction


def weights(tasks: int) -> tuple[Fraction, ...]:
    """Return the weight of each of `tasks` tasks."""
    return (Fraction(1),) * tasks
