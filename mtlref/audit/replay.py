"""The replay: a logged run's losses and norms, fed through a method, beside the weights that the run used.

`transitions` re-synchronises at every row: the method's state is given the weights that the log holds there, takes
one step, and its weights are compared with the next row's. So each step is judged on its own, and a fault is found
where it happens. `free_run` starts as the log starts and is not corrected again: it tells how far the run ends
from the method.

A difference counts only above the row's *allowance*: what the logged numbers' own rounding can do to the answer.
Every logged number is moved by `ROUNDINGS` units of its precision, one at a time, and the changes of the answer are
added. Near a kink (a gradient norm within rounding of its target) the answer jumps when a number is moved, so
the allowance is as large as the jump: such a row decides nothing, and says so.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from mtlref.audit.readers import Log
from mtlref.contract import Method
from mtlref.notation import Array, MtlrefError
from mtlref.state import State

ROUNDINGS = 16
"""How many units of its precision a logged number may be off: a pairwise sum of the squares of D gradient entries
errs by at most about log₂ D of them, 16 up to D = 65,536; shorter sums, products and roots by a few."""

KINK = 100
"""A row whose allowance exceeds this many times the plain rounding of the answer lies at a kink."""


@dataclass(frozen=True)
class Transition:
    """One row of the log and what the method makes of it.

    `row` the weights' row; `got` the logged weights (K,), `expected` the method's (K,), `allowance` (K,);
    `kink` whether rounding alone can change the answer by more than rounding.
    """

    row: int
    got: Array
    expected: Array
    allowance: Array
    kink: bool

    @property
    def error(self) -> float:
        """The largest |got − expected| over the tasks."""
        return float(np.max(np.abs(self.got - self.expected)))

    @property
    def task(self) -> int:
        """The task with the largest error."""
        return int(np.argmax(np.abs(self.got - self.expected)))

    @property
    def agrees(self) -> bool:
        """Whether no task's error exceeds its allowance."""
        return bool(np.all(np.abs(self.got - self.expected) <= self.allowance))


def gradients(log: Log, row: int) -> Array | None:
    """Return a K×K matrix that stands for the row's Jacobian (MTL-2): of norms alone, orthogonal rows."""
    return None if log.norms is None else np.diag(log.norms[row])


def transitions(method: Method, log: Log) -> Iterator[Transition]:
    """Yield the first row's initial weights, and each later row's weights, against the method's.

    Errors: MtlrefError, with the row in the message, where the method cannot be evaluated on the log.
    """
    weights = logged_weights(log)
    state = method.init(len(log.tasks))
    yield initial(method, log)
    for row in range(len(weights) - 1):
        state = method.resumed(state, weights[row])
        try:
            state_next = method.step(state, log.losses[row], gradients(log, row)).state
        except MtlrefError as error:
            raise type(error)(
                f"{log.source}, step {log.rows[row]}: {error}",
                argument=error.argument,
                task=error.task,
                value=error.value,
                equation=error.equation,
            ) from error
        yield judged(method, log, row, state, state_weights(state_next))
        state = state_next


def initial(method: Method, log: Log) -> Transition:
    """Return the first row's weights against those that the method starts with."""
    got = logged_weights(log)[0]
    expected = state_weights(method.init(len(got)))
    return Transition(0, got, expected, ROUNDINGS * log.unit * np.abs(expected), False)


def judged(method: Method, log: Log, row: int, state: State, expected: Array) -> Transition:
    """Return the comparison of the row after `row`; the dear allowance is formed only where the plain one fails."""
    got = logged_weights(log)[row + 1]
    plain = np.full(len(got), ROUNDINGS * log.unit * float(np.max(np.abs(expected))))
    if np.all(np.abs(got - expected) <= plain):
        return Transition(row + 1, got, expected, plain, False)
    allowance = plain + spread(method, log, row, state, expected)
    return Transition(row + 1, got, expected, allowance, bool(np.any(allowance > KINK * plain)))


def spread(method: Method, log: Log, row: int, state: State, expected: Array) -> Array:
    """Return how far the logged numbers' rounding moves the answer: Σ over the numbers of the larger change, (K,).

    A loss counts twice: for itself, and for the earlier loss it is set against, L(0) or L(t−1).
    """
    w, L, n = logged_weights(log)[row], log.losses[row], log.norms
    total = np.zeros(len(w))
    columns = [w, L] if n is None else [w, L, n[row]]
    for which, column in enumerate(columns):
        for task in range(len(w)):
            changes = [np.zeros(len(w))]
            for sign in (-1, 1):
                moved = [c.copy() for c in columns]
                moved[which][task] = column[task] * (1 + sign * ROUNDINGS * log.unit)
                jacobian = None if n is None else np.diag(moved[2])
                try:
                    out = method.step(method.resumed(state, moved[0]), moved[1], jacobian)
                except MtlrefError:
                    continue
                changes.append(np.abs(state_weights(out.state) - expected))
            total += np.max(changes, axis=0) * (2 if column is L else 1)
    return total


def free_run(method: Method, log: Log) -> Array:
    """Return the weights of a run that starts with the log's first weights and is never corrected again.

    They are (N, K), or fewer rows if the method cannot go on: its own weights may lead where the log's did not.
    """
    weights = logged_weights(log)
    state = method.resumed(method.init(len(log.tasks)), weights[0])
    free = [state_weights(state)]
    for row in range(len(weights) - 1):
        try:
            state = method.step(state, log.losses[row], gradients(log, row)).state
        except MtlrefError:
            break
        free.append(state_weights(state))
    return np.array(free)


def state_weights(state: State) -> Array:
    """Return the weights that a state puts in use: every weighting method's state has them as a field."""
    weights: Array = state.weights  # type: ignore[attr-defined]
    return weights


def logged_weights(log: Log) -> Array:
    """Return the log's weights (N, K), which `read_run` has made sure of."""
    assert log.weights is not None
    return log.weights
