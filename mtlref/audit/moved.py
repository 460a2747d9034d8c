"""Replays of a log with its numbers moved by what they may be off, side by side: how far rounding takes a run."""

from __future__ import annotations

from typing import Any

import numpy as np

from mtlref.audit.free import read
from mtlref.audit.lift import lifted
from mtlref.audit.line import Course
from mtlref.audit.readers import Log
from mtlref.audit.replay import logged_weights
from mtlref.audit.rows import Rows, spread_out
from mtlref.contract import Method, weights_of
from mtlref.notation import Array

RANDOM = 8
"""How many replays have every number moved at random."""

SIDE = 128
"""How many rows the replays go on at once."""


class Moved:
    """Replays of the log with its numbers moved, side by side: first with none, then the columns, then all at random.

    What a row's losses are moved to, or its norms, the replays share: the others leave them as they are.
    """

    def __init__(self, method: Method, log: Log) -> None:
        self.log, self.K, self.rng = log, len(log.tasks), np.random.default_rng(0)
        K, kinds = self.K, len(read(log, 0, 0))
        self.systematic = 2 * K * (1 + kinds)
        self.known = [log.precision[kind] for kind in ("losses", "norms")]
        self.signs = np.concatenate([np.zeros((1, K)), np.kron(np.eye(K), [[1.0], [-1.0]])])
        count = 1 + self.systematic + RANDOM
        which = np.zeros((1 + kinds, count), dtype=np.int64)
        for kind, each in enumerate(which):
            each[1 + 2 * K * kind :][: 2 * K] = 1 + np.arange(2 * K)
            each[1 + self.systematic :] = 1 + 2 * K + np.arange(RANDOM)
        which[0, 1 + self.systematic :] = 0
        light: Any = lifted(method)
        first = np.asarray(logged_weights(log)[0])
        first = first if np.isfinite(first).all() else weights_of(method.init(K))
        state: Any = spread_out(method.init(K), count)
        if light.lagged:
            state = light.resumed(state, Rows(first + self.signs[which[0]] * log.precision["weights"].of(first)))
        self.course, self.at, self.ended = Course(light, state, list(which[1:])), 0, False

    def spread(self, start: int, stop: int) -> Array:
        """Return how far rounding moves the replay's weights on rows, (n, K); infinite where they cannot go on."""
        while self.at < start:
            self.through(min(start, self.at + SIDE))
        return np.concatenate([self.through(min(at + SIDE, stop)) for at in range(start, stop, SIDE)])

    def through(self, stop: int) -> Array:
        """Return what the replays show on the next rows, up to `stop`, (n, K)."""
        n, columns = stop - self.at, 1 + self.systematic
        found = np.full((n, self.K), np.inf)
        if not self.ended:
            kinds = read(self.log, self.at, stop)
            random = self.rng.choice([-1.0, 1.0], (n, len(kinds), RANDOM, self.K))
            fixed = np.broadcast_to(self.signs, (n, *self.signs.shape))
            rows = [
                values[:, None] + np.concatenate([fixed, random[:, at]], axis=1) * known.of(values)[:, None]
                for at, (values, known) in enumerate(zip(kinds, self.known, strict=False))
            ]
            w = self.course.through(rows)
            changes = np.abs(w - w[:, :1])
            pairs = changes[:, 1:columns].reshape(len(w), -1, 2, self.K).max(axis=2).sum(axis=1)
            found[: len(w)] = pairs + 3 * changes[:, columns:].max(axis=1)
            self.ended = len(w) < n
        self.at = stop
        return found
