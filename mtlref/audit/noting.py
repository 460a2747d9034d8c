"""Rows that note what is done with them, so that it can be done again: what `mtlref.audit.line` goes along."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin
from numpy.typing import NDArray

from mtlref.audit.rows import Rows, where

REDUCTIONS: Mapping[Any, np.ufunc] = {
    np.sum: np.add,
    np.mean: np.add,
    np.max: np.maximum,
    np.min: np.minimum,
    np.prod: np.multiply,
    np.any: np.logical_or,
    np.all: np.logical_and,
}
"""NumPy's reductions, and the calls that they come to; a mean is then divided."""


@dataclass(frozen=True)
class Call:
    """A call that was made: its `kind`, its inputs, of which those that are `Noted` change from row to row.

    `depth`: how many axes the equations see of the deepest of them.
    """

    kind: str
    function: Any
    inputs: tuple[Any, ...]
    depth: int = 0


@dataclass
class Notes:
    """A step's values, the calls that made them, None for those that it was given, and its answers to questions."""

    values: list[NDArray[Any]] = field(default_factory=list)
    calls: list[Call | None] = field(default_factory=list)
    answers: list[tuple[int, bool]] = field(default_factory=list)
    known: dict[Any, Noted] = field(default_factory=dict)

    def add(self, call: Call | None, values: Any) -> Noted:
        """Note a call and return what it gave; one that was made before is not noted again."""
        if call is not None:
            inputs = tuple((place_of(x), None if isinstance(x, Noted) else id(x)) for x in call.inputs)
            key = call.kind, id(call.function), repr(call.function), inputs
            if key in self.known:
                return self.known[key]
        self.values.append(np.asarray(values))
        self.calls.append(call)
        found = Noted(self.values[-1], self, len(self.values) - 1)
        if call is not None:
            self.known[key] = found
        return found


class Noted(NDArrayOperatorsMixin, Rows):
    """Rows that note what is done with them; `place` is theirs among the notes. An operator is the ufunc's call."""

    __slots__ = ("notes", "place")

    def __init__(self, values: NDArray[Any], notes: Notes, place: int) -> None:
        super().__init__(values)
        self.notes, self.place = notes, place

    def __bool__(self) -> bool:
        return self.answered(super().__bool__())

    def all(self) -> bool:
        """Return whether all entries of all rows are true."""
        return self.answered(super().all())

    def answered(self, answer: bool) -> bool:
        """Note the answer to a question."""
        self.notes.answers.append((self.place, answer))
        return answer

    def any(self) -> Rows:
        """Return, for each row, whether any entry is true."""
        return self.reduced(np.any)

    def copy(self) -> Rows:
        """Return the rows as they are, for nothing writes into them."""
        return self

    def __getitem__(self, key: Any) -> Rows:
        found = super().__getitem__(key).values
        if not np.may_share_memory(found, self.values):
            raise TypeError("only slices are noted")
        return self.notes.add(Call("part", key if isinstance(key, tuple) else (key,), (self,)), found)

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        result = Rows.__array_ufunc__(self, ufunc, method, *inputs, **options)
        if not isinstance(result, Rows):
            raise TypeError(f"{ufunc.__name__} gives more than one value")
        return self.notes.add(Call("ufunc", ufunc, inputs, result.ndim), result.values)

    def __array_function__(self, function: Any, types: Any, args: Sequence[Any], options: Mapping[str, Any]) -> Any:
        if function in REDUCTIONS and len(args) == 1 and not options:
            return self.reduced(function)
        if function is np.where and len(args) == 3 and not options:
            result = where(*args)
            return self.notes.add(Call("where", None, tuple(args), result.ndim), result.values)
        if function is not np.clip:
            raise TypeError(f"{function.__name__} is not noted")
        return super().__array_function__(function, types, args, options)

    def reduced(self, function: Any) -> Noted:
        """Return a reduction of all axes that the equations see."""
        if not self.ndim:
            raise TypeError("a number is not reduced")
        reduce = REDUCTIONS[function].reduce
        total = self.notes.add(
            Call("reduce", reduce, (self,), self.ndim), reduce(self.values, axis=behind(self.ndim))
        )
        if function is not np.mean:
            return total
        size = int(np.prod(self.shape))
        return self.notes.add(Call("ufunc", np.true_divide, (total, size)), total.values / size)


def place_of(value: Any) -> int:
    """Return a value's place among the notes, −1 where it has none."""
    return value.place if isinstance(value, Noted) else -1


def behind(depth: int) -> tuple[int, ...]:
    """Return the last axes, as many as the equations see."""
    return tuple(range(-depth, 0))
