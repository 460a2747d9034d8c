"""The replay of a log that starts as the log starts and is not corrected again: its weights, a block at a time."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from mtlref.audit.lift import numbers
from mtlref.audit.line import Course
from mtlref.audit.march import march
from mtlref.audit.readers import Log
from mtlref.audit.replay import SIZES, Replay, drawn, gradients, logged_weights, numbers_of, stepped, whole
from mtlref.audit.rows import Rows, followed, row, spread_out, take
from mtlref.audit.spool import BLOCK, let_go
from mtlref.contract import Method, weights_of
from mtlref.notation import Array, MtlrefError
from mtlref.state import State


def stretches(method: Method, log: Log) -> Iterator[tuple[int, int]]:
    """Yield the blocks of rows, first and last, that such a replay goes through, to the first that lacks a number."""
    at, sizes = 0, iter(SIZES)
    while at < len(log.rows):
        let_go(*numbers_of(log))
        stop = min(at + next(sizes, BLOCK), len(log.rows))
        good = whole(method, log, at, stop, corrected=False)
        if not good.all():
            stop = at + int(np.argmin(good))
            if stop > at:
                yield at, stop
            return
        yield at, stop
        at = stop


def blocks(method: Method, log: Log) -> Iterator[Array]:
    """Yield the replay's weights (n, K), a block of rows at a time, to the last row that it reaches."""
    free = Free(method, log)
    for start, stop in stretches(method, log):
        weights = free.through(start, stop)
        if len(weights):
            yield weights
        if free.ended:
            return


class Free:
    """The replay that is not corrected: `ended` where the method cannot go on.

    The log's own weights are a guess of what is remembered at its rows. Where it leads nowhere, rows go in turn.
    """

    def __init__(self, method: Method, log: Log) -> None:
        self.replay, self.ended = Replay(method, log), False
        self.state: State = method.init(len(log.tasks))
        if method.lagged and np.isfinite(logged_weights(log)[0]).all():
            self.state = method.resumed(self.state, logged_weights(log)[0])
        alone = [np.zeros(1, dtype=np.int64)] * len(read(log, 0, 0))
        light = self.replay.light
        self.course = None if light is None else Course(light, spread_out(self.state, 1), alone)

    def through(self, start: int, stop: int) -> Array:
        """Return the weights in use (n, K) on the rows from `start`, to `stop` or where it ends."""
        if start > 0 and stop - start > 1:
            found = self.replay.at_once.tried(lambda: self.guessed(start, stop))
            if found is not None:
                return found
        return self.in_turn(start, stop)

    def guessed(self, start: int, stop: int) -> Array:
        """Return the weights in use on rows from a guess. Errors: Trouble if it leads nowhere, those of a step."""
        replay, n = self.replay, stop - start
        logged = np.asarray(logged_weights(replay.log)[start:stop])
        w = Rows(np.where(np.isfinite(logged), logged, weights_of(self.state) if replay.method.lagged else 0.0))
        later = replay.given_weights(spread_out(self.state, n), w)
        guess = followed(self.state, take(later, np.append(np.arange(1, n), 0)))
        found = march(lambda before: replay.after(start, stop, before, False)[1], self.state, guess, divided=True)
        out, after = replay.after(start, stop, found, False)
        self.state = row(after, n - 1)
        return numbers(out.weights, n)

    def in_turn(self, start: int, stop: int) -> Array:
        """Return the weights in use on rows, one after the other."""
        found, at, course = list[Array](), start, self.course
        while at < stop and not self.ended:
            if course is not None and at > 0:
                course.state = spread_out(self.state, 1)
                part = course.through([x[:, None] for x in read(self.replay.log, at, stop)])
                found.append(part[:, 0])
                self.state, at = row(course.state, 0), at + len(part)
            if at < stop:
                weights = self.single(at)
                found += [] if weights is None else [weights[None]]
                at += 1
        return np.concatenate([np.empty((0, len(self.replay.log.tasks))), *found])

    def single(self, at: int) -> Array | None:
        """Take one step and return the weights in use; where none can be taken, the state's, if it has them."""
        replay, log = self.replay, self.replay.log
        try:
            out = stepped(replay.method, self.state, log.losses[at], gradients(log, at), drawn(log, at))
        except MtlrefError:
            self.ended = True
            return weights_of(self.state) if replay.method.lagged else None
        self.state = out.state
        return out.weights


def read(log: Log, start: int, stop: int) -> list[Array]:
    """Return the losses, and the norms if there are any, on rows."""
    kinds = [log.losses] if log.norms is None else [log.losses, log.norms]
    return [np.asarray(values[start:stop]) for values in kinds]
