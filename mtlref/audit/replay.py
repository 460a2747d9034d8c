"""The replay: a logged run's losses and norms, fed through a method, beside the weights that the run used.

`blocks` re-synchronises at every row: the method's state is given the weights that the log holds there, takes one
step, and its weights are compared with the next row's. So each step is judged on its own, and a fault is found where
it happens. Nothing of a row's verdict hangs on another row's, but for what the method remembers beside its weights:
L(0), the last losses, running means. So many rows are stepped at once (`mtlref.audit.lift`): from a guess of what is
remembered at each, the steps give a better one, and a guess that a step leaves as it is, to the last bit, is what the
rows in turn would give. What takes more than a few guesses to find, a running mean, is found by `mtlref.audit.march`.

A row in which a number is missing or not finite decides nothing, and hides what a method would have remembered of
it. Two replays cross it, with two different numbers in its place: what they agree on does not hang on the row, and
judging goes on where they agree on all.

A difference counts only above the row's *allowance* (`mtlref.audit.allowance`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtlref.audit.lift import FAILS, SEALED, STEMS, AtOnce, Norms, lifted, numbers, step_rows
from mtlref.audit.march import march
from mtlref.audit.readers import Log
from mtlref.audit.rows import Rows, followed, remade, row, same, spread_out, take
from mtlref.audit.spool import BLOCK, let_go
from mtlref.contract import Method, Step, from_gram, weights_of
from mtlref.methods import Combination
from mtlref.methods.stages import EQUALISERS
from mtlref.notation import Array, MtlrefError
from mtlref.state import State

SIZES = (1, 64, BLOCK)
"""How many rows the first block has, the second, and every other. After the first step a state holds all that it ever
will; a wrong variant seldom gets further than the second block."""

GUESSES = 3
"""How often what is remembered is guessed before it is looked for by `march`."""

DIVIDED: Mapping[str, Callable[..., NDArray[np.bool_]]] = {"dwa": np.any, "gradnorm": np.all}
"""Of a row's losses, which must be 0 for a step to divide by 0: DWA-1 by each, GN-3 by their mean."""

CROSSING = 64
"""How many rows after a gap are tried until nothing hangs on it."""


@dataclass(frozen=True)
class Steps:
    """What the steps on the rows `start` to `start + len(expected)` give: the weights they decide (n, K).

    `before`: the states before them, a list, or one of rows; empty where the rows decide nothing.
    """

    start: int
    expected: Array
    before: State | list[State]


def feeds_back(method: Method) -> bool:
    """Return whether a method makes its next weights from those in use: only then can a run drift."""
    stages = [stage.method for stage in method.stages] if isinstance(method, Combination) else [method]
    return any(isinstance(stage, EQUALISERS) for stage in stages)


# ONE STEP


def gradients(log: Log, row: int) -> Array | None:
    """Return a K×K matrix that stands for the row's Jacobian (MTL-2): of norms alone, orthogonal rows."""
    if log.gram is not None:
        return from_gram(log.gram[row])
    return None if log.norms is None else np.diag(log.norms[row])


def drawn(log: Log, row: int) -> Array | None:
    """Return the row's draw, None if the log has none."""
    return None if log.draws is None else log.draws[row]


def taken(method: Method, log: Log, row: int, state: State) -> Step:
    """Return the method's step on the row, a lagged method's from the log's own weights.

    Errors: MtlrefError with the step's number in front.
    """
    try:
        state = method.resumed(state, logged_weights(log)[row]) if method.lagged else state
        return stepped(method, state, log.losses[row], gradients(log, row), drawn(log, row))
    except MtlrefError as error:
        raise type(error)(
            f"{log.source}, {method.cadence} {log.rows[row]}: {error}",
            argument=error.argument,
            task=error.task,
            value=error.value,
            equation=error.equation,
        ) from error


def stepped(method: Method, state: State, losses: Array, jacobian: Array | None, draw: Array | None) -> Step:
    """Return the method's step with `draw`; a random method without one has two tasks, and there is one draw only."""
    only = method.sample(np.random.default_rng(0), len(losses))
    draw = None if only is None else only if draw is None else draw
    return method.step(state, losses, jacobian, **({} if draw is None else {"draw": draw}))


def in_question(method: Method, out: Step) -> Array:
    """Return the weights that a step decides: the next ones of a lagged method, else its own."""
    return weights_of(out.state) if method.lagged else out.weights


def logged_weights(log: Log) -> Array:
    """Return the log's weights (N, K), which `read_run` has made sure of."""
    assert log.weights is not None
    return log.weights


def numbers_of(log: Log) -> list[Array]:
    """Return the arrays of the log's numbers."""
    kinds = (log.losses, log.norms, log.gram, log.weights, log.draws)
    return [values for values in kinds if values is not None]


def whole(method: Method, log: Log, start: int, stop: int, corrected: bool = True) -> NDArray[np.bool_]:
    """Return which rows hold a finite number wherever the method needs one; weights only where it is `corrected`.

    A loss that printing has rounded to 0 is no number for a method that divides by it.
    """
    weights = log.weights if method.lagged and corrected else None  # no other method reads them
    kinds = (log.losses, weights, log.draws, log.norms if method.reads == "norms" else None)
    good = np.ones(stop - start, dtype=bool)
    for values in (*kinds, log.gram if method.reads == "gram" else None):
        if values is not None:
            good &= np.isfinite(values[start:stop]).reshape(stop - start, -1).all(axis=1)
    if log.precision["losses"].absolute > 0:
        for stage in [stage.method for stage in method.stages] if isinstance(method, Combination) else [method]:
            if stage.stem in DIVIDED:
                good &= ~DIVIDED[stage.stem](np.asarray(log.losses[start:stop]) == 0, axis=1)
    return good


# MANY STEPS


class Replay:
    """A method on a log, by blocks of rows. `light` is the lifted method, None for one that is not lifted."""

    def __init__(self, method: Method, log: Log) -> None:
        self.method, self.log = method, log
        self.light: Method | None = lifted(method) if method.stem in STEMS else None
        self.remembers_little, self.at_once = self.light is not None, AtOnce(self.light is not None)

    def blocks(self) -> Iterator[Steps]:
        """Yield the steps of all rows in order, re-synchronised with the log's weights at each.

        Errors: MtlrefError, with the step in the message, where the method cannot be evaluated on the log.
        """
        state, at, sizes = self.method.init(len(self.log.tasks)), 0, iter(SIZES)
        size = next(sizes)
        last = len(self.log.rows) - self.method.lagged
        if self.log.late:  # as after a row before its first
            at, state = self.crossed(0, last, *[self.stand_in(0, state, False, sign).state for sign in (1, -1)])
            yield Steps(at, np.empty((0, len(self.log.tasks))), [])
        while at < last:
            let_go(*numbers_of(self.log))
            good = whole(self.method, self.log, at, min(at + size, last))
            run = len(good) if good.all() else int(np.argmin(good))
            if run:
                done, state = self.steps(at, at + run, state)
                yield done
                at, size = at + len(done.expected), next(sizes, BLOCK)
            else:
                at, state = self.crossed(at, last, state, state)
                yield Steps(at, np.empty((0, len(self.log.tasks))), [])

    def steps(self, start: int, stop: int, state: State) -> tuple[Steps, State]:
        """Return the steps of rows that are whole, and the state after them.

        They end before a row on which no step can be taken. Errors: MtlrefError where that is the first.
        """
        if start > 0 and stop - start > 1:
            found = self.at_once.tried(lambda: self.together(start, stop, state))
            if found is not None:
                return found
        expected, before = np.empty((stop - start, len(self.log.tasks))), list[State]()
        for at in range(start, stop):
            try:
                out = self.single(at, state)
            except MtlrefError:
                if at == start:
                    raise
                return Steps(start, expected[: at - start], before), state
            before.append(state)
            expected[at - start] = in_question(self.method, out)
            state = out.state
        return Steps(start, expected, before), state

    def single(self, at: int, state: State) -> Step:
        """Return one row's step: the lifted method's, or where that fails the method's own. Errors: MtlrefError."""
        light = self.light
        if light is not None:
            try:
                with np.errstate(**SEALED):
                    state_here = light.resumed(state, logged_weights(self.log)[at]) if light.lagged else state
                    return light.step(state_here, self.log.losses[at], self.norms_at(at))
            except FAILS:
                pass
        return taken(self.method, self.log, at, state)

    def norms_at(self, at: int) -> Any:
        """Return what stands for the row's Jacobian in a lifted step."""
        return None if self.log.norms is None else Norms(self.log.norms[at])

    def together(self, start: int, stop: int, state: State) -> tuple[Steps, State]:
        """Return the steps of all rows at once. Errors: Trouble if no states are found, and those of `step_rows`."""
        found = None
        if self.remembers_little:
            found = self.guessed(start, stop, state)
            self.remembers_little = found is not None
        if found is None:
            first = spread_out(state, stop - start)
            found = march(lambda before: self.after(start, stop, before, True)[1], state, first)
        out, after = self.after(start, stop, found, True)
        expected = numbers(in_question(self.method, out), stop - start)
        return Steps(start, expected, found), row(after, stop - start - 1)

    def guessed(self, start: int, stop: int, state: State) -> Any:
        """Return the states before the rows, exact to the last bit; None if a few guesses do not find them."""
        w = Rows(np.asarray(logged_weights(self.log)[start:stop]))
        try:
            guess = self.given_weights(spread_out(state, stop - start), w)
            for _ in range(GUESSES):
                better = self.given_weights(followed(state, self.after(start, stop, guess, False)[1]), w)
                if same(guess, better):
                    return guess
                guess = better
        except FAILS:
            pass
        return None

    def after(self, start: int, stop: int, before: Any, corrected: bool) -> tuple[Step, Any]:
        """Return the steps on all rows from given states, `corrected` to the log's weights, and the states after."""
        assert self.light is not None
        log = self.log
        n = None if log.norms is None else Rows(np.asarray(log.norms[start:stop]))
        if corrected:
            before = self.given_weights(before, Rows(np.asarray(logged_weights(log)[start:stop])))
        out = step_rows(self.light, before, Rows(np.asarray(log.losses[start:stop])), n)
        return out, spread_out(out.state, stop - start)

    def given_weights(self, state: State, w: Rows) -> State:
        """Return the states of rows with the weights that the log holds at each."""
        assert self.light is not None
        if not self.light.lagged:
            return state
        return self.light.resumed(state, w)  # type: ignore[arg-type]

    def crossed(self, at: int, last: int, *both: State) -> tuple[int, State]:
        """Return where, after rows that are not whole, judging can go on, and the state there; `last` if nowhere.

        It goes on where two replays, from `both` states, decide the same and remember the same afterwards.
        """
        log, tried = self.log, 0
        if not self.any_whole(at, last):
            return last, both[0]
        while at < last and tried <= CROSSING:
            here = bool(whole(self.method, log, at, at + 1)[0])
            try:
                outs = [self.stand_in(at, one, here, sign) for sign, one in zip((1, -1), both, strict=True)]
            except MtlrefError:
                return last, both[0]
            decided = [in_question(self.method, out) for out in outs]
            if here and np.array_equal(decided[0], decided[1]) and outs[0].state == outs[1].state:
                return at, both[0]
            both, at, tried = tuple([out.state for out in outs]), at + 1, tried + here
        return last, both[0]

    def any_whole(self, at: int, last: int) -> bool:
        """Return whether a row is whole from `at` on."""
        starts = range(at, last, BLOCK)
        return any(whole(self.method, self.log, start, min(start + BLOCK, last)).any() for start in starts)

    def stand_in(self, at: int, state: State, here: bool, sign: int) -> Step:
        """Return the step on a row that is `here`, else on numbers from 1 to 2 in its place, or on 1 over these.

        The tasks' are different, for equal ones may give what any equal ones do. Gradients are those that the log has
        there, of different lengths and none longer, so that the step is none that a run could not take.
        """
        if here:
            return taken(self.method, self.log, at, state)
        K = len(self.log.tasks)
        losses = np.power((K + 2.0 + np.arange(K)) / (K + 1), sign)
        known = gradients(self.log, at)
        jacobian = np.eye(K) if known is None or not np.isfinite(known).all() else known
        return stepped(self.method, state, losses, losses[:, None] / np.max(losses) * jacobian, None)


def states_of(before: State | list[State], chosen: NDArray[np.intp]) -> Any:
    """Return the states before the chosen steps, as one of rows."""
    if isinstance(before, list):
        return stacked([before[i] for i in chosen])
    return take(before, chosen)


def states_in(done: Steps) -> Iterator[tuple[int, Any]]:
    """Yield the states before a block's steps as rows, with their place: all at once, a run's first one by one."""
    if not isinstance(done.before, list):
        if len(done.expected):
            yield 0, done.before
        return
    if done.start > 0 and done.before:
        try:
            together = stacked(done.before)
        except (TypeError, ValueError):
            pass
        else:
            yield 0, together
            return
    for at, state in enumerate(done.before):
        yield at, stacked([state])


def stacked(states: list[Any]) -> Any:
    """Return states as one of rows. Errors: TypeError if they differ in more than their numbers."""
    first = states[0]
    if isinstance(first, State):
        return remade(first, lambda name, _: stacked([getattr(state, name) for state in states]))
    if isinstance(first, tuple):
        return tuple(stacked(list(items)) for items in zip(*states, strict=True))
    if first is None:
        if any(state is not None for state in states):
            raise TypeError("states that hold nothing beside states that do")
        return None
    return Rows(np.array(states))
