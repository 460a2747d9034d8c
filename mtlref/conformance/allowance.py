"""Allowances: how far a right implementation may be from the specification.

An answer is right if it is that of inputs within `ROUNDINGS` roundings of the given ones, give or take as many
roundings of the answer itself. The second part is free to compute. The first, `spread`, moves every loss, every entry
of the Jacobian and every number of the state at random by that much, `SAMPLES` times, and takes `SAFETY` times the
largest change of the specification's answer; it is computed only where the second part is exceeded.

At a discontinuity (a gradient norm within rounding of its target) the spread is as wide as the jump: there either
side is right, and the case decides nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np

from mtlref.conformance.problem import Problem, following, shaken
from mtlref.notation import Array, MtlrefError
from mtlref.state import State

ROUNDINGS = 64
"""Units of the type's eps that an input, or the answer, may be off: sums over a few hundred terms, and roots,
exponentials and products of a few factors, stay well within."""

SAMPLES = 24
"""How many random moves of all inputs the spread is taken from."""

SAFETY = 4
"""The factor on the largest change seen: the moves are random, the worst one is not among them."""


def plain(expected: Array, eps: float) -> float:
    """Return the allowance that needs no evaluation: `ROUNDINGS` roundings of the largest entry."""
    return ROUNDINGS * eps * float(abs(np.asarray(expected)).max(initial=0.0))


def spread(
    problem: Problem,
    state: State,
    eps: float,
    before: Sequence[tuple[Problem, Mapping[str, Any]]] = (),
    matrixwise: bool = False,
) -> dict[str, Array]:
    """Return, for every observable of a step, how far rounding of the inputs moves it.

    Of a run, `before` holds the problems before it, with what was answered to each, and `state` comes before the
    first of them: what a method remembers carries their rounding along. Moves that leave the domain are left out.
    `matrixwise`: a method that solves a system in the inner products has them moved by a share of the
    largest, times K.
    """
    rng = np.random.default_rng(0)
    centre = walked(problem, state, before, rng, 0.0, matrixwise)
    widest = {name: np.zeros(np.shape(value)) for name, value in centre.items()}
    for _ in range(SAMPLES):
        try:
            found = walked(problem, state, before, rng, ROUNDINGS * eps, matrixwise)
        except MtlrefError:
            continue
        for name, value in found.items():
            widest[name] = np.maximum(widest[name], np.abs(value - centre[name]))
    return {name: SAFETY * value for name, value in widest.items()}


def walked(
    problem: Problem,
    state: State,
    before: Sequence[tuple[Problem, Mapping[str, Any]]],
    rng: np.random.Generator,
    by: float,
    matrixwise: bool,
) -> Mapping[str, Any]:
    """Return the observables of a step after those `before` it, all inputs and states on the way moved by `by`."""
    for earlier, answered in before:
        state = following(moved_problem(earlier, rng, by, matrixwise), moved(state, rng, by), answered)
    return answer(moved_problem(problem, rng, by, matrixwise), moved(state, rng, by))


def answer(problem: Problem, state: State) -> Mapping[str, Any]:
    """Return the specification's observables of one step."""
    return problem.observables(state)


def moved_problem(problem: Problem, rng: np.random.Generator, by: float, matrixwise: bool = False) -> Problem:
    """Return the problem with losses and Jacobian moved; for methods that read inner products, those as well."""
    shifted = problem.moved(rng, by)
    J = shifted.jacobian
    if problem.method.reads == "gram":
        noise = np.where(rng.random((problem.n_tasks, problem.n_tasks)) < 0.5, -1.0, 1.0)
        lengths = np.sqrt(np.einsum("kd,kd->k", J, J))
        unit = J / np.where(lengths > 0, lengths, 1.0)[:, None]
        reach = np.full(len(J), len(J) * np.max(lengths)) if matrixwise else lengths
        J = J + by * reach[:, None] * (np.triu(noise) + np.triu(noise, 1).T) @ unit / 2
    return replace(shifted, jacobian=J)


def moved(value: Any, rng: np.random.Generator, by: float) -> Any:
    """Return the arrays of a state or of states, or an array, with every entry moved by a share `by` of itself,
    up or down."""
    if isinstance(value, tuple):
        return tuple(moved(item, rng, by) for item in value)
    if isinstance(value, State):
        return replace(value, **{field.name: moved(getattr(value, field.name), rng, by) for field in fields(value)})
    if isinstance(value, np.ndarray):
        return shaken(value, rng, by)
    return value
