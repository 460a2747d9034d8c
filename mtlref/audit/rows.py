"""Many rows of a log at once: values with an axis of rows in front that the equations do not see.

An equation is written for one step: losses (K,), a mean over the tasks. A `Rows` holds such a value for each of N
rows, (N, K) for a vector, (N,) for a number, and takes part in the equation's own NumPy calls as the single value
would: arithmetic goes row by row, `len` is K, a sum over everything is a sum over the tasks. So the equations of
`mtlref.methods` are evaluated as they stand, thousands of rows at a time.

Where an equation asks a question, `if total <= 0`, and the rows answer differently, `Split` says so, and the caller
goes on with each part by itself. What a `Rows` cannot do it refuses with a TypeError; nothing is guessed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtlref.notation import Array
from mtlref.state import State

NUMBERS = (float, np.ndarray, int, np.generic)
"""What a state holds its numbers as, beside rows."""


class Split(Exception):
    """The rows answer a question differently: `mask` (N,) says which of them with yes."""

    def __init__(self, mask: NDArray[np.bool_]) -> None:
        super().__init__("the rows part")
        self.mask = mask


def operators(ufunc: np.ufunc) -> tuple[Callable[[Rows, Any], Any], Callable[[Rows, Any], Any]]:
    """Return the methods of a binary operator, with the rows on its left and on its right."""
    return lambda x, y: by_row(ufunc, x, y), lambda y, x: by_row(ufunc, x, y)


class Rows:
    """A value for each of N rows: `values` (N, …), of which the equations see the axes after the first."""

    __slots__ = ("values",)

    def __init__(self, values: NDArray[Any]) -> None:
        self.values = values

    __add__, __radd__ = operators(np.add)
    __sub__, __rsub__ = operators(np.subtract)
    __mul__, __rmul__ = operators(np.multiply)
    __truediv__, __rtruediv__ = operators(np.true_divide)
    __pow__, __rpow__ = operators(np.power)
    __and__, __rand__ = operators(np.bitwise_and)
    __or__, __ror__ = operators(np.bitwise_or)
    __lt__, __gt__ = operators(np.less)[0], operators(np.greater)[0]
    __le__, __ge__ = operators(np.less_equal)[0], operators(np.greater_equal)[0]
    __eq__, __ne__ = operators(np.equal)[0], operators(np.not_equal)[0]

    def __neg__(self) -> Any:
        return by_row(np.negative, self)

    def __invert__(self) -> Any:
        return by_row(np.invert, self)

    def __abs__(self) -> Any:
        return by_row(np.absolute, self)

    def __len__(self) -> int:
        if self.values.ndim < 2:
            raise TypeError("a number has no length")
        return int(self.values.shape[1])

    def __bool__(self) -> bool:
        if self.values.ndim != 1:
            raise TypeError("the truth of more than one number")
        if self.values.all():
            return True
        if self.values.any():
            raise Split(self.values.astype(bool))
        return False

    @property
    def ndim(self) -> int:
        """The number of axes that the equations see."""
        return self.values.ndim - 1

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape that the equations see."""
        return self.values.shape[1:]

    def copy(self) -> Rows:
        """Return a copy."""
        return Rows(self.values.copy())

    def all(self) -> bool:
        """Return whether all entries of all rows are true."""
        return bool(self.values.all())

    def any(self) -> Rows:
        """Return, for each row, whether any entry is true."""
        return Rows(np.asarray(self.values.any(axis=tuple(range(1, self.values.ndim)))))

    def __getitem__(self, key: Any) -> Rows:
        keys = key if isinstance(key, tuple) else (key,)
        if any(isinstance(k, Rows) for k in keys):
            raise TypeError("rows cannot say which entries are meant")
        index: tuple[Any, ...] = (slice(None),) + keys  # noqa: RUF005
        return Rows(self.values[index])

    def __array__(self, *_: Any, **__: Any) -> NDArray[Any]:
        raise TypeError("rows are not an array")

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        if method != "__call__" or options:
            raise TypeError(f"{ufunc.__name__}.{method} is not done row by row")
        return by_row(ufunc, *inputs)

    def __array_function__(self, function: Any, _: Any, args: Sequence[Any], options: Mapping[str, Any]) -> Any:
        if function not in BY_ROW:
            raise TypeError(f"{function.__name__} is not done row by row")
        return BY_ROW[function](*args, **options)


def by_row(ufunc: Callable[..., Any], *inputs: Any) -> Any:
    """Return a ufunc of rows, and of arrays and numbers that are the same for every row."""
    result = ufunc(*aligned(inputs))
    return Rows(result) if type(result) is not tuple else tuple(map(Rows, result))


def aligned(inputs: Sequence[Any]) -> list[Any]:
    """Return the inputs, rows as their values with as many axes after the first as the deepest of the inputs has."""
    values, depths = [], []
    for x in inputs:
        of_rows = isinstance(x, Rows)
        values.append(x.values if of_rows else x)
        depths.append(x.values.ndim - 1 if of_rows else 0 if type(x) is float else np.ndim(x))
    depth = max(depths)
    for i, x in enumerate(inputs):
        if depths[i] < depth and isinstance(x, Rows):
            values[i] = x.values.reshape(len(x.values), *(1,) * (depth - depths[i]), *x.values.shape[1:])
    return values


def over_all(function: Callable[..., Any]) -> Callable[[Rows], Rows]:
    """Return what reduces the axes that the equations see, all of them."""

    def reduce(rows: Rows) -> Rows:
        if not rows.ndim:
            raise TypeError("a number is not reduced")
        return Rows(np.asarray(function(rows.values, axis=tuple(range(1, rows.ndim + 1)))))

    return reduce


def where(condition: Any, yes: Any, no: Any) -> Rows:
    """Return np.where, row by row."""
    return Rows(np.where(*aligned((condition, yes, no))))


BY_ROW: Mapping[Any, Callable[..., Any]] = {
    **{function: over_all(function) for function in (np.mean, np.any, np.all, np.prod)},
    np.sum: over_all(np.add.reduce),
    np.max: over_all(np.maximum.reduce),
    np.min: over_all(np.minimum.reduce),
    np.cumsum: lambda rows: Rows(np.cumsum(rows.values.reshape(len(rows.values), -1), axis=1)),
    np.where: where,
    np.clip: lambda rows, low, high: np.minimum(np.maximum(rows, low), high),
}
"""NumPy's functions that are done row by row, beside the ufuncs."""


def take(value: Any, index: Any) -> Any:
    """Return the part of a tree of states, tuples and rows that an index of rows, or a mask, selects."""
    return mapped(value, lambda rows: Rows(rows.values[index]))


def row(value: Any, at: int) -> Any:
    """Return the tree of one row: arrays and numbers in place of rows."""
    return mapped(value, lambda rows: rows.values[at] if rows.ndim else rows.values[at].item())


def spread_out(value: Any, count: int) -> Any:
    """Return the tree with every array, (K,), and every number as `count` rows that are all alike."""
    if isinstance(value, NUMBERS):
        return Rows(np.broadcast_to(np.asarray(value), (count, *np.shape(value))))
    return mapped(value, lambda rows: rows, lambda leaf: spread_out(leaf, count))


def mapped(value: Any, of_rows: Callable[[Rows], Any], of_array: Callable[[Any], Any] = lambda leaf: leaf) -> Any:
    """Return the tree with `of_rows` applied to its rows, `of_array` to its arrays and numbers; its shape stays."""
    if isinstance(value, Rows):
        return of_rows(value)
    if isinstance(value, NUMBERS):
        return of_array(value)
    if isinstance(value, tuple):
        return tuple(mapped(item, of_rows, of_array) for item in value)
    return remade(value, lambda _, item: mapped(item, of_rows, of_array)) if isinstance(value, State) else value


def remade(state: State, change: Callable[[str, Any], Any]) -> Any:
    """Return the state with every item changed, by its name and what it was, and no check made."""
    changed = object.__new__(type(state))
    vars(changed).update({name: change(name, item) for name, item in vars(state).items()})
    return changed


def joined(mask: NDArray[np.bool_], yes: Any, no: Any) -> Any:
    """Return the tree whose rows are those of `yes` where the mask is true and those of `no` elsewhere."""
    if isinstance(yes, Rows) or isinstance(no, Rows) or isinstance(yes, np.ndarray):
        one, other = (x.values if isinstance(x, Rows) else np.asarray(x)[None] for x in (yes, no))
        values = np.empty((len(mask), *one.shape[1:]), np.result_type(one, other))
        values[mask], values[~mask] = one, other
        return Rows(values)
    if isinstance(yes, tuple):
        return tuple(joined(mask, a, b) for a, b in zip(yes, no, strict=True))
    if isinstance(yes, State):
        return remade(yes, lambda name, item: joined(mask, item, getattr(no, name)))
    if yes != no:
        raise TypeError(f"the rows part, and their states hold {yes!r} and {no!r}")
    return yes


def same(one: Any, other: Any) -> bool:
    """Return whether two trees hold the same numbers, to the last bit."""
    if isinstance(one, Rows) or isinstance(other, Rows) or isinstance(one, np.ndarray):
        a, b = (x.values if isinstance(x, Rows) else x for x in (one, other))
        return bool(np.all(np.equal(a, b)))
    if isinstance(one, tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, State):
        return type(one) is type(other) and all(same(item, getattr(other, name)) for name, item in vars(one).items())
    return bool(one == other)


def followed(first: Any, rest: Any) -> Any:
    """Return the tree whose first row is `first` and whose further rows are those of `rest` but its last one."""
    if isinstance(rest, Rows):
        start = np.asarray(first.values[0] if isinstance(first, Rows) else first)
        return Rows(np.concatenate([start[None], rest.values[:-1]]))
    if isinstance(rest, tuple):
        return tuple(map(followed, first, rest))
    return remade(rest, lambda name, item: followed(getattr(first, name), item)) if isinstance(rest, State) else rest


def leaves(tree: Any) -> list[Array]:
    """Return the numbers of a tree of rows, leaf by leaf."""
    found: list[Array] = []
    mapped(tree, lambda rows: found.append(rows.values))
    return found


def with_leaves(tree: Any, values: list[Array]) -> Any:
    """Return the tree with other numbers; whole ones stay whole."""
    rest = iter(values)

    def put(rows: Rows) -> Rows:
        new = next(rest)
        return Rows(np.rint(new).astype(rows.values.dtype) if rows.values.dtype.kind != "f" else new)

    return mapped(tree, put)
