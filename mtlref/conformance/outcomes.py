"""Outcomes: what an implementation that draws its own orders may answer.

A draw holds one order a task, and each order acts on its own task's gradient alone. So the directions that a problem
allows are sums of one part a task: ((K − 1)!)^K of them, fewer where orders agree.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations
from math import factorial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtlref.conformance.problem import Problem
from mtlref.contract import direction
from mtlref.notation import Array
from mtlref.state import State

MOST = 5000
"""The most outcomes that are listed: (3!)⁴ for four tasks."""


def projected(problem: Problem, state: State) -> Array:
    """Return what each order of each task makes of the direction, less what the first order of all makes of it,
    (K, orders, D)."""
    some = sample(problem)
    first = directed(problem, state, some)
    answers = []
    for i, row in enumerate(some.tolist()):
        orders = [np.vstack([some[:i], [order], some[i + 1 :]]) for order in list(permutations(row))[1:]]
        answers.append([0 * first, *(directed(problem, state, draw) - first for draw in orders)])
    return np.array(answers)


def directed(problem: Problem, state: State, draw: NDArray[Any]) -> Array:
    """Return the direction that a draw gives."""
    return direction(replace(problem, draw=draw).step(state).weights, problem.jacobian)


def directions(problem: Problem, state: State) -> Array:
    """Return every direction that some draw gives, as often as draws give it, (outcomes, D)."""
    found = directed(problem, state, sample(problem))[None]
    for rows in projected(problem, state):
        found = (found[:, None, :] + rows[None, :, :]).reshape(-1, found.shape[1])
    return found


def count(problem: Problem) -> int:
    """Return how many outcomes there are to list, which is no more than `MOST` where they can be."""
    length: int = sample(problem).shape[1]
    found: int = factorial(length) ** problem.n_tasks
    return min(found, MOST + 1)


def sample(problem: Problem) -> NDArray[Any]:
    """Return one draw of the method, for the shape of its draws and what their rows hold."""
    draw = problem.method.sample(np.random.default_rng(0), problem.n_tasks)
    assert draw is not None
    return draw


def nearest(problem: Problem, state: State, given: Array) -> Array:
    """Return the outcome that is nearest to the `given` one."""
    found = directions(problem, state)
    nearest: Array = found[int(np.argmin(np.max(np.abs(found - given), axis=1)))]
    return nearest
