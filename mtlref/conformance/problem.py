"""Problems: what an implementation is asked to do, with every number it needs.

A `Problem` is one step: K losses, their K×D Jacobian and, where the method draws, the draw. A `Run` is a sequence of
problems from the method's own start, for code that keeps its state to itself. A `Case` is the kit's side of either:
the problems, and the state that comes before them.

An implementation receives copies: what it does to them is noticed (`Implementation.take`), and harms nobody else.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mtlref.contract import Method, Step
from mtlref.defects.defect import Defect
from mtlref.notation import Array
from mtlref.state import State
from mtlref.vectors.replay import observables


@dataclass(frozen=True, eq=False)
class Given:
    """What is handed to implementations, by the copy: problems, runs, and their live kinds."""


@dataclass(frozen=True)
class Problem(Given):
    """One step to take.

    `method`: the specification with its hyper-parameters (`problem.method.alpha`); `losses` (K,); `jacobian` (K, D):
    row i the gradient of the unweighted loss i; `draw`: what a random method draws, None elsewhere. A method that
    steps once an epoch also gets the losses of the epoch's batches, `batches` (B, K), with mean `losses`.
    `evaluation` (K,): losses of a validation that follows the step and must change nothing; None where none follows.
    """

    method: Method
    losses: Array
    jacobian: Array
    draw: NDArray[Any] | None = None
    batches: Array | None = None
    evaluation: Array | None = None

    @property
    def n_tasks(self) -> int:
        """K."""
        return len(self.losses)

    def step(self, state: State) -> Step:
        """Return the specification's own step from `state`."""
        more: dict[str, Any] = {} if self.draw is None else {"draw": self.draw}
        return self.method.step(state, self.losses, self.jacobian, **more)

    def taken(self, state: State) -> tuple[Step, Mapping[str, Any]]:
        """Return the specification's own step from `state`, and its observables."""
        out = self.step(state)
        return out, observables(out, self.jacobian)

    def observables(self, state: State) -> Mapping[str, Any]:
        """Return the specification's observables of the step from `state`."""
        return self.taken(state)[1]

    @property
    def asked(self) -> Any:
        """What an implementation is handed: the problem itself, or the network that it comes from."""
        return self

    def bare(self) -> Problem:
        """Return the problem as numbers alone."""
        return self

    def moved(self, rng: np.random.Generator, by: float) -> Problem:
        """Return the problem with its losses and its Jacobian moved by a share `by` of themselves."""
        return replace(self, losses=shaken(self.losses, rng, by), jacobian=shaken(self.jacobian, rng, by))


@dataclass(frozen=True)
class Run(Given):
    """A sequence of problems, to be taken in turn from the method's own start: `for problem in run`."""

    steps: tuple[Problem, ...]

    def __iter__(self) -> Iterator[Problem]:
        return iter(self.steps)

    def __len__(self) -> int:
        return len(self.steps)

    @property
    def method(self) -> Method:
        """The specification with its hyper-parameters."""
        return self.steps[0].method

    @property
    def n_tasks(self) -> int:
        """K."""
        return self.steps[0].n_tasks


@dataclass(frozen=True)
class Case:
    """Problems and the `state` before the first of them; `injected` if that is not the method's own start.

    `label` says where the case comes from; `expected`, one mapping a step, holds the values of a golden vector, which
    stand in place of the specification's. `live`: its problems come from networks; `plumbing`: known defects of live
    code that are put in between the method and what the network descends.
    """

    steps: tuple[Problem, ...]
    state: State
    injected: bool
    label: str
    expected: tuple[Mapping[str, Any], ...] | None = None
    live: bool = False
    plumbing: tuple[Defect, ...] = ()

    @property
    def method(self) -> Method:
        """The specification with its hyper-parameters."""
        return self.steps[0].method

    @property
    def n_tasks(self) -> int:
        """K."""
        return self.steps[0].n_tasks

    def under(self, method: Method) -> Case:
        """Return the same case for another method, or for the same with other settings; nothing is expected of it."""
        steps = tuple(replace(problem, method=method) for problem in self.steps)
        return replace(self, steps=steps, expected=None)


def following(problem: Problem, state: State, terms: Mapping[str, ArrayLike]) -> State:
    """Return the state after a step, with the weights that somebody else had made for the next one, if `terms` has
    them.

    So each step is judged on its own: rounding does not add up, and a fault is found where it happens.
    """
    return problem.method.followed(problem.step(state).state, terms)


def shaken(array: Array, rng: np.random.Generator, by: float) -> Array:
    """Return an array with every entry moved by a share `by` of itself, up or down."""
    return array * np.where(rng.random(array.shape) < 0.5, 1 - by, 1 + by)


# COPIES


def copied(value: Any) -> Any:
    """Return a deep copy of a problem, a run, a state or an array; what holds no array is itself."""
    if isinstance(value, np.ndarray):
        return value.copy()
    if isinstance(value, tuple):
        return tuple(copied(item) for item in value)
    if isinstance(value, Given | State):
        return type(value)(**{field.name: copied(getattr(value, field.name)) for field in fields(value)})
    return value


def same(a: Any, b: Any) -> bool:
    """Return whether two problems, runs, states or arrays hold the same bits."""
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, Given | State):
        return type(a) is type(b) and all(same(getattr(a, f.name), getattr(b, f.name)) for f in fields(a))
    return bool(a is b or a == b)
