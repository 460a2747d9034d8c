"""PCGrad (Yu et al., NeurIPS 2020, Algorithm 1) in rational arithmetic: every sign is decided exactly.

The algorithm uses sums, products and one quotient, so a rational gradient stays rational. It is run here as it
is printed, on the vectors themselves, a task and a meeting at a time; beside each vector goes the list of its
coefficients on the original gradients.

- `project` takes one task through its meetings.
- `step` does so for all tasks, in given orders, and adds up.
- `outcomes` gives the result of a task for every order there is. Tasks do not see each other's projections,
  so any choice of one order a task is one choice from each task's list.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction
from itertools import permutations
from typing import TypedDict

from mtlref.exact import Number, fractions

Vector = tuple[Fraction, ...]


class Step(TypedDict):
    """What one step computes: the projected gradients, their coefficients, the weights and the direction."""

    projected: tuple[Vector, ...]
    coefficients: tuple[Vector, ...]
    w: Vector
    d: Vector


def inner(a: Iterable[Fraction], b: Iterable[Fraction]) -> Fraction:
    """Return the inner product of two vectors."""
    return sum((x * y for x, y in zip(a, b, strict=True)), Fraction(0))


def project(gradients: Sequence[Sequence[Number]], task: int, order: Iterable[int]) -> tuple[Vector, Vector]:
    """Return what the gradient of `task` becomes when it meets the others in `order`, and its coefficients."""
    g = [fractions(row) for row in gradients]
    vector = list(g[task])
    coefficients = [Fraction(int(j == task)) for j in range(len(g))]
    for j in order:
        dot = inner(vector, g[j])
        if dot < 0:
            factor = dot / inner(g[j], g[j])
            vector = [x - factor * y for x, y in zip(vector, g[j], strict=True)]
            coefficients[j] -= factor
    return tuple(vector), tuple(coefficients)


def step(gradients: Sequence[Sequence[Number]], orders: Sequence[Sequence[int]]) -> Step:
    """Return the step with `orders`, one a task. Errors: ValueError where there is not one a task."""
    if len(orders) != len(gradients):
        raise ValueError(f"there are {len(gradients)} gradients and {len(orders)} orders")
    done = [project(gradients, task, order) for task, order in enumerate(orders)]
    return Step(
        projected=tuple(vector for vector, _ in done),
        coefficients=tuple(row for _, row in done),
        w=tuple(sum(column, Fraction(0)) for column in zip(*(row for _, row in done), strict=True)),
        d=tuple(sum(column, Fraction(0)) for column in zip(*(vector for vector, _ in done), strict=True)),
    )


def outcomes(
    gradients: Sequence[Sequence[Number]], task: int, *, include_self: bool = False
) -> dict[tuple[int, ...], tuple[Vector, Vector]]:
    """Return, for every order in which `task` can meet the others, its projected gradient and coefficients."""
    others = [j for j in range(len(gradients)) if include_self or j != task]
    return {order: project(gradients, task, order) for order in permutations(others)}
