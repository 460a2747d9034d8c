"""Transformations of a case that a method's laws speak of: tasks permuted, gradient space rotated,
gradients scaled."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtlref.conformance.problem import Case
from mtlref.notation import Array
from mtlref.state import State


def permuted(case: Case) -> tuple[Case, NDArray[np.intp]]:
    """Return the case with its tasks in another order, and that order: task i was task order[i].

    A draw's rows move with their tasks, and its entries name the same tasks as before.
    """
    order = np.arange(case.n_tasks)[::-1].copy()
    place = np.argsort(order)
    steps = tuple(
        replace(
            problem,
            losses=problem.losses[order],
            jacobian=problem.jacobian[order],
            draw=None if problem.draw is None else place[problem.draw[order]],
            batches=None if problem.batches is None else problem.batches[:, order],
            evaluation=None if problem.evaluation is None else problem.evaluation[order],
        )
        for problem in case.steps
    )
    return other(case, steps, reordered(case.state, order)), order


def reordered(value: Any, order: NDArray[np.intp]) -> Any:
    """Return a state, or states, with every array's tasks in another order."""
    if isinstance(value, tuple):
        return tuple(reordered(item, order) for item in value)
    if isinstance(value, State):
        return replace(value, **{field.name: reordered(getattr(value, field.name), order) for field in fields(value)})
    return value[order] if isinstance(value, np.ndarray) else value


def rotated(case: Case) -> Case:
    """Return the case with every Jacobian times one orthogonal matrix."""
    D = case.steps[0].jacobian.shape[1]
    Q = np.linalg.qr(np.random.default_rng(D).standard_normal((D, D)))[0]
    return other(case, tuple(replace(problem, jacobian=problem.jacobian @ Q) for problem in case.steps))


def scaled(case: Case, factor: float | Array) -> Case:
    """Return the case with its gradients times a number, or each task's times a number of its own."""
    column = np.reshape(factor, (-1, 1))
    return other(case, tuple(replace(problem, jacobian=problem.jacobian * column) for problem in case.steps))


def orthogonal(case: Case) -> Case:
    """Return the case with gradients of the same lengths along the axes of K dimensions."""
    lengths = (np.linalg.norm(problem.jacobian, axis=1) for problem in case.steps)
    rows = zip(case.steps, lengths, strict=True)
    return other(case, tuple(replace(problem, jacobian=np.diag(length)) for problem, length in rows))


def other(case: Case, steps: tuple[Any, ...], state: State | None = None) -> Case:
    """Return the case with other problems, and another state before them if one is given; no network gives them."""
    numbers = tuple(problem.bare() for problem in steps)
    start = case.state if state is None else state
    return replace(case, steps=numbers, state=start, label="", expected=None, live=False)
