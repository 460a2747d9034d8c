"""Which variants of a method leave the same numbers on a log: known from one step on each row, without their replay.

A variant that starts as the method does, and takes every step from the method's own states as the method takes it,
to the last bit, has the method's states all along. So a defect that never comes to bear, a constant gain where there
is no decay, is told from the states that the method's replay has found.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mtlref.audit.lift import FAILS, SEALED, numbers
from mtlref.audit.replay import Replay, Steps, in_question, stacked, states_in
from mtlref.audit.rows import Rows, leaves, same
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
        if len(done.expected) and self.left:
            self.compare(replay, done)
        self.next = done.start + len(done.expected)

    def compare(self, replay: Replay, done: Steps) -> None:
        """Drop the variants that take one of the block's steps otherwise, or cannot be asked many rows at once."""
        others = {name: Replay(self.variants[name], replay.log) for name in self.left}
        for start, before in states_in(done):
            own = stepped(replay, done.start + start, before)
            for name in sorted(self.left):
                other = others[name]
                first = done.start + start == 0
                here = stacked([other.method.init(len(replay.log.tasks))]) if first else before
                there = stepped(other, done.start + start, here)
                if own is None or there is None or not same(own, there):
                    self.left.discard(name)


def stepped(replay: Replay, start: int, before: Any) -> tuple[Any, ...] | None:
    """Return what steps from the states before rows decide, use and remember; None if they are not taken at once."""
    count = len(leaves(before)[0])
    try:
        with np.errstate(**SEALED):
            out, after = replay.after(start, start + count, before, True)
            return Rows(numbers(in_question(replay.method, out), count)), Rows(numbers(out.weights, count)), after
    except FAILS:
        return None
