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
from mtlref.contract import Method, Step, from_gram, weights_of
from mtlref.notation import Array, MtlrefError
from mtlref.state import State

ROUNDINGS = 16
"""How many units of its precision a logged number may be off: a pairwise sum of the squares of D gradient entries
errs by at most about log₂ D of them, 16 up to D = 65,536; shorter sums, products and roots by a few."""

SAMPLES, SAFETY = 12, 4
"""How often logged inner products are moved, and the factor on the largest change: the worst is not among them."""

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
    if log.gram is not None:
        return from_gram(log.gram[row])
    return None if log.norms is None else np.diag(log.norms[row])


def transitions(method: Method, log: Log) -> Iterator[Transition]:
    """Yield each row's weights against the method's, which has been given the log's own weights up to the row before.

    A lagged method's weights at a row come from the row before; the first row's are those it starts with.
    Errors: MtlrefError, with the step in the message, where the method cannot be evaluated on the log.
    """
    weights = logged_weights(log)
    state = method.init(len(log.tasks))
    if method.lagged:
        got, expected = weights[0], weights_of(state)
        yield Transition(0, got, expected, ROUNDINGS * log.unit * np.abs(expected), False)
    for row in range(len(weights) - method.lagged):
        out = taken(method, log, row, state)
        yield judged(method, log, row, state, in_question(method, out))
        state = out.state


def taken(method: Method, log: Log, row: int, state: State) -> Step:
    """Return the method's step on the row, a lagged method's from the log's own weights.

    Errors: MtlrefError with the step's number in front.
    """
    try:
        state = method.resumed(state, logged_weights(log)[row]) if method.lagged else state
        return stepped(method, state, log.losses[row], gradients(log, row))
    except MtlrefError as error:
        raise type(error)(
            f"{log.source}, {method.cadence} {log.rows[row]}: {error}",
            argument=error.argument,
            task=error.task,
            value=error.value,
            equation=error.equation,
        ) from error


def stepped(method: Method, state: State, losses: Array, jacobian: Array | None) -> Step:
    """Return the method's step; for two tasks, where there is one draw only, with that draw."""
    draw = method.sample(np.random.default_rng(0), len(losses))
    return method.step(state, losses, jacobian, **({} if draw is None else {"draw": draw}))


def in_question(method: Method, out: Step) -> Array:
    """Return the weights that a step decides: the next ones of a lagged method, else its own."""
    return weights_of(out.state) if method.lagged else out.weights


def judged(method: Method, log: Log, row: int, state: State, expected: Array) -> Transition:
    """Return the comparison that the step on `row` decides; the dear allowance only where the plain one fails."""
    at = row + method.lagged
    got = logged_weights(log)[at]
    plain = np.full(len(got), ROUNDINGS * log.unit * float(np.max(np.abs(expected))))
    if np.all(np.abs(got - expected) <= plain):
        return Transition(at, got, expected, plain, False)
    allowance = plain + spread(method, log, row, state, expected)
    return Transition(at, got, expected, allowance, bool(np.any(allowance > KINK * plain)))


def spread(method: Method, log: Log, row: int, state: State, expected: Array) -> Array:
    """Return how far the logged numbers' rounding moves the answer: Σ over the numbers of the larger change, (K,).

    A loss counts twice: for itself, and for the earlier loss it is set against, L(0) or L(t−1). Of a Jacobian, the
    rows are moved, as their norms would be.
    """
    J, total = gradients(log, row), np.zeros(len(expected))
    columns = {"w": logged_weights(log)[row], "L": log.losses[row], "n": np.ones(len(expected))}
    for name in columns if J is not None else ("w", "L"):
        for task in range(len(expected)):
            changes = [np.zeros(len(expected))]
            for sign in (-1, 1):
                moved = {key: column.copy() for key, column in columns.items()}
                moved[name][task] *= 1 + sign * ROUNDINGS * log.unit
                before = method.resumed(state, moved["w"]) if method.lagged else state
                try:
                    out = stepped(method, before, moved["L"], None if J is None else moved["n"][:, None] * J)
                except MtlrefError:
                    continue
                changes.append(np.abs(in_question(method, out) - expected))
            total += np.max(changes, axis=0) * (2 if name == "L" else 1)
    return total if log.gram is None or J is None else total + gram_spread(method, log, row, state, J, expected)


def gram_spread(method: Method, log: Log, row: int, state: State, J: Array, expected: Array) -> Array:
    """Return how far the rounding of logged inner products moves the answer, (K,): `SAFETY` times the most seen.

    A method that solves a system in them errs with the largest, so each is moved by that share of the largest, up or
    down at random, `SAMPLES` times.
    """
    rng, K = np.random.default_rng(0), len(J)
    before = method.resumed(state, logged_weights(log)[row]) if method.lagged else state
    lengths = np.sqrt(np.einsum("kd,kd->k", J, J))
    unit = J / np.where(lengths > 0, lengths, 1.0)[:, None]
    widest = np.zeros(K)
    for _ in range(SAMPLES):
        signs = np.triu(rng.choice((-1.0, 1.0), (K, K)))
        moved = J + ROUNDINGS * log.unit * K * np.max(lengths) * (signs + np.triu(signs, 1).T) @ unit / 2
        try:
            out = stepped(method, before, log.losses[row], moved)
        except MtlrefError:
            continue
        widest = np.maximum(widest, np.abs(in_question(method, out) - expected))
    return SAFETY * widest


def free_run(method: Method, log: Log) -> Array:
    """Return the weights of a run that starts with the log's first weights and is never corrected again.

    They are (N, K), or fewer rows if the method cannot go on: its own weights may lead where the log's did not.
    """
    state = method.init(len(log.tasks))
    state = method.resumed(state, logged_weights(log)[0]) if method.lagged else state
    free = []
    for row in range(len(log.rows)):
        try:
            out = stepped(method, state, log.losses[row], gradients(log, row))
        except MtlrefError:
            if method.lagged:
                free.append(weights_of(state))
            break
        free.append(out.weights)
        state = out.state
    return np.array(free)


def logged_weights(log: Log) -> Array:
    """Return the log's weights (N, K), which `read_run` has made sure of."""
    assert log.weights is not None
    return log.weights
