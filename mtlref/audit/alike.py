"""Which variants of a method leave the same numbers on a log: known from one step on each row, without their replay.

A variant that starts as the method does, and takes every step from the method's own states as the method takes it,
to the last bit, has the method's states all along. So a defect that never comes to bear, a constant gain where there
is no decay, is told from the states that the method's replay has found.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mtlref.audit.lift import numbers
from mtlref.audit.replay import FAILS, SEALED, Replay, Steps, in_question, stacked
from mtlref.audit.rows import Rows, same
from mtlref.contract import Method


class Alike:
    """Variants by name, of which those stay that have taken each step so far as the method has."""

    def __init__(self, variants: Mapping[str, Method]) -> None:
        self.variants = dict(variants)
        self.left = set(variants)
        self.next = 0

    def add(self, replay: Replay, done: Steps) -> None:
        """Take in a block of the method's replay; blocks come in order, and row 0 is the first of a run."""
        if replay.light is None or done.start not in (0, self.next):
            self.left.clear()  # past a gap what is remembered may differ
        if not len(done.expected):
            return
        for name in sorted(self.left):
            try:
                if not alike(replay, Replay(self.variants[name], replay.log), done):
                    self.left.discard(name)
            except FAILS:
                self.left.discard(name)
        self.next = done.start + len(done.expected)


def alike(replay: Replay, other: Replay, done: Steps) -> bool:
    """Return whether `other`, from the same states, takes the steps as `replay` does. Errors: those of the steps."""
    if not isinstance(done.before, list):
        return equal(replay, other, done.start, done.before, done.before, len(done.expected))
    for at, state in enumerate(done.before):
        here = stacked([state])
        first = done.start + at == 0
        own = stacked([other.method.init(len(replay.log.tasks))]) if first else here
        if not equal(replay, other, done.start + at, here, own, 1):
            return False
    return True


def equal(replay: Replay, other: Replay, start: int, before: Any, own: Any, count: int) -> bool:
    """Return whether steps from the states `before` and the other's `own` decide and remember the same."""
    with np.errstate(**SEALED):
        out, after = replay.after(start, start + count, before, True)
        there, later = other.after(start, start + count, own, True)
    decided = [Rows(numbers(in_question(r.method, o), count)) for r, o in ((replay, out), (other, there))]
    return same(*decided) and same(out.weights, there.weights) and same(after, later)
