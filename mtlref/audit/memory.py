"""The memory's allowance: what the rounding of all earlier numbers can do to what a method remembers.

A running mean of losses that a tracker printed to four decimals is off by what each of them was rounded. Let e(t)
be how far the numbers of the state before row t may be off, entry by entry, nothing at the start of a run. To first
order

    e(t+1) ≤ |∂F/∂x| e(t) + Σ_k |ΔF_k(t)|,

F the method's step from the state x, and ΔF_k its change when the row's k-th number (a loss, a norm, a logged weight)
is moved by what it may be off. The answer's allowance is Σ |∂ answer / ∂x| e(t). All is measured with the method's
own step, a block of rows at once. An entry that belongs to a task is taken to hand on to that task's entries alone,
as it does in every method that is lifted; the weights, which do not, are the log's own at every row.

It is asked for only where a row's own numbers do not suffice, and then follows the replay from its start.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from itertools import islice
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from mtlref.audit.allowance import columns_of, directions, set_against, sides, together
from mtlref.audit.lift import FAILS, SEALED, numbers, step_rows
from mtlref.audit.march import scan
from mtlref.audit.readers import Log
from mtlref.audit.replay import Replay, Steps, in_question, states_in
from mtlref.audit.rows import Rows, leaves, spread_out, take, with_leaves
from mtlref.audit.spool import BLOCK
from mtlref.contract import Method
from mtlref.notation import Array

T = TypeVar("T")

NUDGE = 2.0**-20
"""By what share of itself an entry of the state is moved for a slope."""


class Memory:
    """How far what a replay remembers may be off, from the start of a run on."""

    def __init__(self, method: Method, log: Log) -> None:
        self.method, self.log = method, log
        self.light: Any = Replay(method, log).light
        self.empty = self.light is None or set(vars(method.init(len(log.tasks)))) <= {"weights"}
        self.asked = False
        self.off: list[Array] | None = None
        self.latest: tuple[Steps, list[tuple[int, Any, list[Array]]]] | None = None

    def passed(self, done: Steps) -> None:
        """Take in a block of which nothing is asked."""
        if self.asked:
            self.follow(done)

    def allowed(self, done: Steps, chosen: NDArray[np.intp]) -> Array:
        """Return what the rounding of the rows before may do to the answers of the chosen steps of a block (m, K)."""
        if len(done.expected) == 1 and done.start == 0:
            return np.zeros(done.expected.shape)  # a run's first step remembers nothing
        if not self.asked and not self.empty:
            self.asked = True
            for earlier in Replay(self.method, self.log).blocks():
                if earlier.start >= done.start:
                    break
                self.follow(earlier)
        found, parts = np.zeros(done.expected.shape), self.follow(done)
        wanted = np.zeros(len(found), dtype=bool)
        wanted[chosen] = True
        for start, before, off in parts:
            here = np.flatnonzero(wanted[start : start + len(off[0])])
            if len(here):
                rows = done.start + start + here
                found[start + here] = self.answers(rows, take(before, here), [e[here] for e in off])
        return found[chosen]

    def follow(self, done: Steps) -> list[tuple[int, Any, list[Array]]]:
        """Return how far the states before a block's steps may be off, in parts, and go on to the block's end.

        A part has its place in the block, the states (n, …) and what their leaves may be off.
        """
        if self.empty:
            return []
        if self.latest is not None and self.latest[0] is done:
            return self.latest[1]
        parts: list[tuple[int, Any, list[Array]]] = []
        try:
            for start, before in states_in(done):
                known = leaves(before)
                off = self.off
                if off is None or len(off) != len(known):  # the first row of a run: nothing is remembered yet
                    off = [np.zeros(values.shape[1:]) for values in known]
                errors = self.along(done.start + start + np.arange(len(known[0])), before, off)
                parts.append((start, before, [e[: len(known[0])] for e in errors[: len(known)]]))
                self.off = [e[-1] for e in errors]
        except FAILS:
            self.empty = True
        self.latest = done, parts
        return parts

    def along(self, rows: NDArray[np.intp], before: Any, start: list[Array]) -> list[Array]:
        """Return how far the states before the rows and after the last may be off (n + 1, …), from `start` on.

        A first row's state has less to remember than the one after it, and nothing to be off by. What the steps hand
        on as the array that it was, an L(0), no number of theirs moves.
        """
        columns, weights = columns_of(self.log, rows), position(before)
        at_rest = {key: values for key, (values, _) in columns.items()}
        now, after = leaves(before), self.after(before, at_rest)[1]
        if len(now) == len(after) and all(a is b or a is now[weights] for a, b in zip(now, after, strict=True)):
            return [np.broadcast_to(e, (len(rows) + 1, *e.shape)) for e in start]
        own = [np.zeros(values.shape) for values in after]
        each = self.after_each(before, ((now, moved) for moved in self.moves(columns)), after)
        for (_, one), (_, other) in in_pairs(each):
            for total, a, b, leaf in zip(own, one, other, after, strict=True):
                total += np.fmax(0, np.fmax(np.abs(a - leaf), np.abs(b - leaf)))
        if self.light.reads == "norms":  # GradNorm alone has signs
            own = [one + more for one, more in zip(own, self.jumps(rows, before, columns, after, own), strict=True)]
        own[weights][:] = 0.0
        if len(now) != len(after):
            return [np.concatenate([np.zeros_like(e[:1]), e]) for e in own]
        return solved(start, own, list(self.slopes(before, at_rest, now, after)))

    def jumps(
        self,
        rows: NDArray[np.intp],
        before: Any,
        columns: dict[str, tuple[Array, Array]],
        after: list[Array],
        known: list[Array],
    ) -> list[Array]:
        """Return how much farther than `known` the states `after` the rows go if all the rows' numbers are off.

        They are moved as for an answer (`leaps`): a sign that they turn together stays in an optimiser's moments. The
        first row's losses are set against themselves.
        """
        now, earlier = leaves(before), set_against(self.log, rows)
        moves = ((now, moved) for moved in together(columns, earlier * (len(now) == len(after))))
        each, more = self.after_each(before, moves, after), [np.zeros(values.shape) for values in known]
        for _ in sides(len(self.log.tasks)):
            found = [
                functools.reduce(np.fmax, [np.abs(a - b) for a in some])
                for some, b in zip(
                    zip(*(next(each)[1] for _ in directions(columns)), strict=True), after, strict=True
                )
            ]
            more = [total + np.maximum(x - own, 0.0) for total, x, own in zip(more, found, known, strict=True)]
        return more

    def slopes(
        self, before: Any, at_rest: dict[str, Array], now: list[Array], after: list[Array]
    ) -> Iterator[list[Array]]:
        """Yield, for each leaf before the rows, how much of a small change of it every leaf after them shows."""
        weights = position(before)
        nudges = [
            NUDGE * np.where(values != 0, np.abs(values), max(np.max(np.abs(values), initial=0.0), NUDGE))
            if values.dtype.kind == "f" and at != weights
            else np.zeros(values.shape)
            for at, values in enumerate(now)
        ]
        moved = (([*now[:at], now[at] + nudge, *now[at + 1 :]], at_rest) for at, nudge in enumerate(nudges))
        for nudge, (_, there) in zip(nudges, self.after_each(before, moved, after), strict=True):
            yield [
                np.nan_to_num(np.divide(np.abs(a - b), nudge, out=np.zeros(a.shape), where=nudge > 0))
                if a.shape == nudge.shape
                else np.zeros(a.shape)
                for a, b in zip(there, after, strict=True)
            ]

    def moves(self, columns: dict[str, tuple[Array, Array]]) -> Iterator[dict[str, Array]]:
        """Yield the rows' own numbers with one of them moved down, then up, for each in turn."""
        at_rest = {key: values for key, (values, _) in columns.items()}
        for name, (values, off) in columns.items():
            if (name == "w" and not self.light.lagged) or (name == "n" and self.light.reads != "norms"):
                continue
            for task in range(values.shape[1]):
                for sign in (-1, 1):
                    moved = values.copy()
                    moved[:, task] += sign * off[:, task]
                    if name != "w":  # what is above 0 is not moved below
                        moved[:, task] = np.where(values[:, task] >= 0, np.maximum(moved[:, task], 0), moved[:, task])
                    yield {**at_rest, name: moved}

    def answers(self, rows: NDArray[np.intp], before: Any, off: list[Array]) -> Array:
        """Return how far the answers on rows may be off for what the states before them may be, (m, K).

        An entry that may be off by so much that no step can be taken, a mean by itself, may make the weights any.
        """
        at_rest = {key: values for key, (values, _) in columns_of(self.log, rows).items()}
        (base, after), now = self.after(before, at_rest), leaves(before)

        def moved() -> Iterator[tuple[list[Array], dict[str, Array]]]:
            for at, (values, errors) in enumerate(zip(now, off, strict=True)):
                for entry in np.argwhere(np.any(errors > 0, axis=0)):
                    index = (slice(None), *entry)
                    for sign in (-1, 1):
                        changed = values.copy()
                        changed[index] += sign * errors[index]
                        yield [*now[:at], changed, *now[at + 1 :]], at_rest

        total, whole = np.zeros(base.shape), np.sum(np.abs(base), axis=1, keepdims=True)
        for (one, _), (other, _) in in_pairs(self.after_each(before, moved(), after)):
            largest = np.maximum(np.abs(one - base), np.abs(other - base))
            total += np.where(np.isnan(largest), whole, largest)
        return total

    def after_each(
        self, before: Any, changed: Iterator[tuple[list[Array], dict[str, Array]]], like: list[Array]
    ) -> Iterator[tuple[Array, list[Array]]]:
        """Yield `after` of each of the changed states and numbers of the rows, few rows many changes at a time."""
        count = len(leaves(before)[0])
        while group := list(islice(changed, max(1, BLOCK // count))):
            states = with_leaves(
                before, [np.concatenate(parts) for parts in zip(*(s for s, _ in group), strict=True)]
            )
            given = {key: np.concatenate([numbers_there[key] for _, numbers_there in group]) for key in group[0][1]}
            decided, after = self.after(states, given, like)
            for at in range(len(group)):
                here = slice(at * count, (at + 1) * count)
                yield decided[here], [leaf[here] for leaf in after]

    def after(
        self, before: Any, given: dict[str, Array], like: list[Array] | None = None
    ) -> tuple[Array, list[Array]]:
        """Return the answers and the states after steps on rows, leaf by leaf.

        Where the states are `like` others, a row on which no step can be taken has NaN; else it is an error.
        """
        light, n = self.light, given.get("n")
        count = len(given["L"])
        try:
            with np.errstate(**SEALED):
                state = light.resumed(before, Rows(given["w"])) if light.lagged else before
                out = step_rows(light, state, Rows(given["L"]), None if n is None else Rows(n))
                return numbers(in_question(light, out), count), leaves(spread_out(out.state, count))
        except FAILS:
            if like is None:
                raise
            if count == 1:
                return np.full(given["L"].shape, np.nan), [np.full((1, *leaf.shape[1:]), np.nan) for leaf in like]
        halves = np.array_split(np.arange(count), 2)
        parts = [self.after(take(before, half), {k: v[half] for k, v in given.items()}, like) for half in halves]
        (one, some), (other, more) = parts
        return np.concatenate([one, other]), [np.concatenate(pair) for pair in zip(some, more, strict=True)]


def in_pairs(found: Iterator[T]) -> Iterator[tuple[T, T]]:
    """Yield what is found two by two."""
    return zip(found, found, strict=True)


def position(state: Any) -> int:
    """Return which leaf of a state of rows its weights are."""
    at = 0
    for name, value in vars(state).items():
        if name == "weights":
            return at
        at += len(leaves(value))
    return -1


def solved(start: list[Array], own: list[Array], slopes: list[list[Array]]) -> list[Array]:
    """Return e (n + 1, …), leaf by leaf, with e(0) = start and e(t+1) = Σ slope(t) e(t) + own(t).

    `slopes[q][p]` (n, …) is how much of leaf q's error leaf p gets. The leaves' own recursions are solved in turn,
    with what they get from the others, until nothing changes: at most once for each leaf where none gets back what
    it gives.
    """
    count = len(own)
    found = [np.concatenate([e[None], r]) for e, r in zip(start, own, strict=True)]
    for _ in range(count + 1):
        before = [e.copy() for e in found]
        for p in range(count):
            others = [q for q in range(count) if q != p and own[q].shape == own[p].shape]
            given = own[p] + sum(slopes[q][p] * found[q][:-1] for q in others)
            factor = np.concatenate([slopes[p][p], np.zeros((1, *slopes[p][p].shape[1:]))])
            found[p] = scan(factor, np.concatenate([start[p][None], given]))
        if all(np.array_equal(a, b) for a, b in zip(before, found, strict=True)):
            break
    return found
