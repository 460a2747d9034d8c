"""A run in the order of its rows: one step noted down as a straight line of NumPy calls, and gone along row by row.

Where each step hangs on the one before it, rows cannot be taken at once. What a lifted step (`mtlref.audit.lift`)
does beside its arithmetic can be spared, though: `noted` takes a step on values that note what is done with them, and
the calls are then made again for every row, on the same arrays. What hangs on the row's own numbers alone is taken
out and done for many rows at once. The arithmetic is the equations' own, call by call, so the numbers are the same to
the last bit.

A question that the equations ask, `if total <= 0`, is asked again at every row. A row that answers otherwise, or on
which the numbers leave their range, ends the line; that row is stepped by the method, and the line is noted anew.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtlref.audit.lift import FAILS, SEALED, Norms, Trouble, numbers, step_rows
from mtlref.audit.noting import Call, Noted, Notes, behind, place_of
from mtlref.audit.rows import Rows, Split, leaves, mapped, spread_out, with_leaves
from mtlref.notation import Array
from mtlref.state import State

Indices = NDArray[np.int64]

AT_ONCE = 1 << 16
"""How many numbers of one kind are prepared at once."""

LONGEST = 64
"""After how many rows at the latest a step is noted again where it could not be."""


class Course:
    """Replays side by side in the order of the rows, `state` theirs before the next one, as rows."""

    def __init__(self, light: Any, state: Any, which: Sequence[Indices]) -> None:
        """Start from the states of m replays; `which` (m,) of a row's losses, and of its norms, are each one's."""
        self.light, self.state, self.which = light, state, which
        self.line: Line | None = None
        self.wait = self.patience = 0

    def through(self, rows: Sequence[Array]) -> Array:
        """Return the weights in use (n, m, K) on the next rows, losses and norms (N, …, K), and go on to behind them.

        They end before a row on which the lifted method cannot be asked.
        """
        (N, _, K), m = rows[0].shape, len(self.which[0])
        size, done, found = max(1, AT_ONCE // (m * K)), 0, [np.empty((0, m, K))]
        while done < N:
            if self.line is not None:
                part = [values[done : done + size] for values in rows]
                weights, self.state = self.line.along(self.state, part)
                found.append(weights)
                done += len(weights)
                if len(weights) == len(part[0]):
                    continue
            here = [values[done, which] for values, which in zip(rows, self.which, strict=True)]
            self.note(here)
            try:
                with np.errstate(**SEALED):
                    norms = Rows(here[1]) if len(here) == 2 else None
                    out = step_rows(self.light, self.state, Rows(here[0]), norms)
            except FAILS:
                break
            found.append(np.array(numbers(out.weights, m))[None])
            self.state, done = spread_out(out.state, m), done + 1
        return np.concatenate(found)

    def note(self, row: Sequence[Array]) -> None:
        """Note the step on a row; where that is in vain, try again one row later, then two, four and so on."""
        self.line, self.wait = None, self.wait - 1
        if self.wait > 0:
            return
        self.line = noted(self.light, self.state, row, self.which)
        self.patience = 0 if self.line else min(LONGEST, 2 * self.patience or 1)
        self.wait = self.patience


# NOTED STEPS


def noted(light: Any, before: Any, row: Sequence[Array], which: Sequence[Indices]) -> Line | None:
    """Return the line of a lifted step from `before`, the states of m replays, on a row's losses and norms (m, K).

    None where it cannot be noted, or leads to states of another kind.
    """
    notes = Notes()
    try:
        with np.errstate(**SEALED):
            state = mapped(before, lambda rows: notes.add(None, rows.values))
            read = [notes.add(None, values) for values in row]
            norms: Any = Norms(read[1]) if len(read) == 2 else None
            out = light.step(state, read[0], norms)
        after = spread_out(out.state, len(row[0]))
        if kinds(after) != kinds(before):
            return None
        return Line(notes, {x.place: each for x, each in zip(read, which, strict=True)}, out.weights, after)
    except (*FAILS, Split):
        return None


def kinds(tree: Any) -> Any:
    """Return what a tree of rows is made of, without its numbers."""
    if isinstance(tree, Rows):
        return tree.values.shape, tree.values.dtype
    if isinstance(tree, tuple):
        return tuple(map(kinds, tree))
    if isinstance(tree, State):
        return type(tree), [(name, kinds(item)) for name, item in vars(tree).items()]
    return tree


# MAKING THE CALLS AGAIN


class Line:
    """The calls of a step, to be made again row by row.

    Values are of three kinds, known by their places among the notes: those that `stay`, which are the states' that a
    step hands on as they are, and what follows from these; those `of_row`, which follow from the row's numbers; and
    all others, which hang on the state. Of these every row writes to the arrays in `held`.
    """

    def __init__(self, notes: Notes, read: dict[int, Indices], weights: Any, after: Any) -> None:
        ends = list[Rows]()
        mapped(after, ends.append)
        self.notes, self.read, self.weights = notes, read, weights
        self.m, self.start = len(next(iter(read.values()))), range(len(ends))
        self.stay = {at for at, end in enumerate(ends) if place_of(end) == at}
        self.of_row = set(read)
        self.held = [np.array(values) for values in notes.values]
        self.moving: list[tuple[list[Any], int, int, int]] = []
        self.calls: list[tuple[Callable[..., Any], list[Any]]] = []
        needed = {place_of(x) for x in (weights, *ends)} | {at for at, _ in notes.answers}
        for place in reversed(range(len(notes.calls))):
            call = notes.calls[place]
            needed |= {place_of(x) for x in call.inputs} if call and place in needed else set()
        for place, call in enumerate(notes.calls):
            if place in needed:
                self.sort(place, call)
        asked = [(at, yes) for at, yes in notes.answers if at not in self.stay | self.of_row]
        self.asked = [(self.held[at], np.full_like(self.held[at], yes).tobytes()) for at, yes in asked]
        changed = [(at, end) for at, end in enumerate(ends) if at not in self.stay]
        self.given = [(self.held[at], place_of(end)) for at, end in changed if place_of(end) in self.of_row]
        self.saved = [(self.held[at], self.kept(end)) for at, end in changed if place_of(end) not in self.of_row]

    def sort(self, place: int, call: Call | None) -> None:
        """Say of what kind a value is; note how it is made again if it hangs on the state."""
        if call is None:
            return
        used = {x.place for x in call.inputs if isinstance(x, Noted)}
        if used <= self.stay:
            self.stay.add(place)
        elif used <= self.stay | self.of_row:
            self.of_row.add(place)
        elif call.kind == "part":
            (whole,) = used
            self.held[place] = self.held[whole][part_of(call, 1)]
        else:
            inputs = list[Any]()
            for x in call.inputs:
                if isinstance(x, Noted) and x.place in self.of_row:
                    self.moving.append((inputs, len(inputs), x.place, call.depth))
                inputs.append(self.fixed(self.number(x, call), call.depth))
            self.calls.append(made(call, inputs, self.held[place]))

    def fixed(self, x: Any, depth: int) -> Any:
        """Return an input as the array that is held of it; a number as an array, so that it is made one only once."""
        if isinstance(x, Rows):
            return widened(self.held[x.place] if isinstance(x, Noted) else x.values, depth, 1)
        return np.asarray(x)

    def number(self, x: Any, call: Call) -> Any:
        """Return a number beside floats as one of them, which is what NumPy would make of it at every call."""
        floats = all(self.fixed(one, 0).dtype == np.float64 for one in call.inputs if isinstance(one, Rows))
        return np.float64(x) if type(x) is int and floats else x

    def kept(self, end: Rows) -> NDArray[Any]:
        """Return the array that a state is taken from after a row: a copy, if it is another state's."""
        place = place_of(end)
        if place not in self.start:
            return self.held[place] if place >= 0 else np.array(end.values)
        copy: NDArray[Any] = self.held[place].copy()
        self.calls.append((np.copyto, [copy, self.held[place]]))
        return copy

    def along(self, before: Any, rows: Sequence[Array]) -> tuple[Array, Any]:
        """Return the weights in use (n, m, K) and the states behind n rows: all, or those before one that fails."""
        for at, values in zip(self.start, leaves(before), strict=True):
            self.held[at][...] = values
        count, found = self.prepared(rows)
        moving = [(args, at, widened(found[place].each(), depth, 2)) for args, at, place, depth in self.moving]
        given = [(to, found[place].each()) for to, place in self.given]
        place, done = place_of(self.weights), 0
        of_row = place in self.of_row
        weights = found[place].each() if of_row else np.empty((count, self.m, rows[0].shape[2]))
        w = self.held[place] if place >= 0 else numbers(self.weights, self.m)
        try:
            with np.errstate(**SEALED):
                while done < count:
                    for args, at, values in moving:
                        args[at] = values[done]
                    for function, args in self.calls:
                        function(*args)
                    for answers, yes in self.asked:
                        if answers.tobytes() != yes:
                            raise Trouble
                    if not of_row:
                        weights[done] = w
                    for to, value in self.saved:
                        to[...] = value
                    for to, values in given:
                        to[...] = values[done]
                    done += 1
        except FAILS:
            pass
        return weights[:done], with_leaves(before, [self.held[at].copy() for at in self.start])

    def prepared(self, rows: Sequence[Array]) -> tuple[int, dict[int, Shared]]:
        """Return how many rows can be gone along, and the values that follow from their numbers."""
        count = len(rows[0])
        while count:
            try:
                found = self.of_rows([values[:count] for values in rows])
            except FAILS:
                count //= 2
                continue
            good = np.ones(count, dtype=bool)
            for at, yes in self.notes.answers:
                if at in self.of_row:
                    good &= (found[at].values == yes).reshape(count, -1).all(axis=1)
            return (count if good.all() else int(np.argmin(good))), found
        return 0, {at: Shared(np.empty((0, *self.held[at].shape))) for at in self.of_row}

    def of_rows(self, rows: Sequence[Array]) -> dict[int, Shared]:
        """Return the values that follow from rows' numbers. Errors: those of their arithmetic."""
        given = zip(self.read.items(), rows, strict=True)
        found = {place: Shared(values, which) for (place, which), values in given}
        with np.errstate(**SEALED):
            for place in sorted(self.of_row - set(self.read)):
                call = self.notes.calls[place]
                assert call is not None
                which = self.shared([x for x in call.inputs if isinstance(x, Rows)], found)
                inputs = [self.input(x, call.depth, found, which) for x in call.inputs]
                if call.kind == "part":
                    result = inputs[0][part_of(call, 2)]
                elif call.kind == "reduce":
                    result = call.function(inputs[0], axis=behind(call.depth))
                else:
                    result = (np.where if call.kind == "where" else call.function)(*inputs)
                found[place] = Shared(result, which)
        return found

    def shared(self, inputs: Sequence[Rows], found: dict[int, Shared]) -> Indices | None:
        """Return which of fewer values are the replays', where all inputs are so shared, else None."""
        of_row = [found[place_of(x)].which for x in inputs if place_of(x) in found]
        which = of_row[0]
        if which is None or any(other is not which for other in of_row):
            return None
        first = np.unique(which, return_index=True)[1]
        others = (self.fixed(x, 0) for x in inputs if place_of(x) not in found)
        return which if all(np.array_equal(values[first[which]], values) for values in others) else None

    def input(self, x: Any, depth: int, found: dict[int, Shared], which: Indices | None) -> Any:
        """Return an input of a call that follows from rows' numbers: one a replay, or fewer that they share."""
        if place_of(x) in found:
            return widened(found[x.place].values if which is not None else found[x.place].each(), depth, 2)
        values = self.fixed(x, depth)
        if which is None or not isinstance(x, Rows):
            return values
        return values[np.unique(which, return_index=True)[1]]


@dataclass(frozen=True)
class Shared:
    """Values on rows, (n, m, …), or fewer that replays share: `which` (m,) of them is each one's."""

    values: NDArray[Any]
    which: Indices | None = None

    def each(self) -> NDArray[Any]:
        """Return each replay's, the numbers of a row side by side in memory."""
        return self.values if self.which is None else np.take(self.values, self.which, axis=1)


def made(call: Call, inputs: list[Any], out: NDArray[Any]) -> tuple[Callable[..., Any], list[Any]]:
    """Return a function and its arguments, `inputs` first, that make a call again and write to `out`."""
    if call.kind == "reduce":
        inputs += [behind(call.depth), None, out]
        return call.function, inputs
    if call.function in (np.maximum, np.minimum):  # which take `out` by its name only
        return partial(call.function, out=out), inputs
    inputs.append(out)
    return (chosen if call.kind == "where" else call.function), inputs


def part_of(call: Call, lead: int) -> tuple[Any, ...]:
    """Return the index of a part, of values with so many axes that the equations do not see."""
    return (slice(None),) * lead + tuple(call.function)


def chosen(condition: Any, yes: Any, no: Any, out: NDArray[Any]) -> None:
    """Write np.where to `out`."""
    np.copyto(out, no)
    np.copyto(out, yes, where=condition)


def widened(values: NDArray[Any], depth: int, lead: int) -> NDArray[Any]:
    """Return the values with `depth` axes behind the `lead` first ones, set as NumPy sets them beside deeper ones."""
    return values.reshape(*values.shape[:lead], *(1,) * (depth - values.ndim + lead), *values.shape[lead:])
