"""From a method to one whose checks are made once for a block of rows, not once a step: its own equations, unchanged.

A step spends most of its time on checks that a log's rows pass all alike: of types, shapes, signs, finite results.
`lifted` makes the method's functions anew over a copy of their modules' names, as the defects are made, in which
the checks of `mtlref.notation` are replaced: those of types and shapes by nothing, for a log's columns have them;
those of a domain by `Trouble`, raised where a row fails. The equations are the same code objects. Whoever meets
`Trouble`, or a floating-point exception, steps that row with the method itself, which says what is wrong.

The lifted method takes arrays (K,), or `Rows` of them: many steps in one call. Norms come as `Norms`, which stands
for a Jacobian whose rows are orthogonal (MTL-2).
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from dataclasses import dataclass
from types import FunctionType, ModuleType
from typing import Any, TypeVar

import numpy as np

from mtlref import contract, notation, optimisers, state
from mtlref.audit.rows import Rows, Split, joined, take
from mtlref.contract import Method, Step
from mtlref.notation import Array, MtlrefError
from mtlref.state import State

M = TypeVar("M")
T = TypeVar("T")

STEMS = ("equal", "fixed", "gradnorm", "uncertainty", "dwa", "cov")
"""The methods that are lifted: those of one module each, which read losses or norms."""

FAILURES = 4
"""How many blocks of rows may fail in a row until the rows are stepped one by one."""

DEEPEST = 8
"""How often rows may part within one step."""


class Trouble(Exception):
    """A row lies outside an equation's domain, or its numbers leave the range."""


FAILS = (Trouble, MtlrefError, ArithmeticError, TypeError, ValueError, AttributeError, LookupError)
"""What may come of a lifted step where the method itself has to be asked."""

SEALED: Any = {"over": "raise", "divide": "raise", "invalid": "raise", "under": "ignore"}
"""How floating-point exceptions are treated in a lifted step, as in an equation."""


@dataclass(frozen=True)
class Norms:
    """Stands for a Jacobian of which only the rows' norms (K,) are known: orthogonal rows, one entry each (MTL-2)."""

    n: Array | Rows

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *_: Any, **options: Any) -> Norms:
        if ufunc is not np.absolute or method != "__call__" or options:
            raise TypeError(f"{ufunc.__name__} of a Jacobian of which only the norms are known")
        return self

    def __array_function__(self, function: Any, _: Any, args: Any, options: Any) -> Array | Rows:
        if function is not np.sum or len(args) != 1 or options != {"axis": 1}:
            raise TypeError(f"{function.__name__} of a Jacobian of which only the norms are known")
        return self.n


# CHECKS


def given(_: str, value: Any, *__: Any, **___: Any) -> Any:
    """Return an argument as it is: in place of `vector`, `matrix`, `count`, `real`."""
    return value


def require(holds: Any, *_: Any) -> None:
    """Raise Trouble where a condition is not met."""
    if not holds.all():
        raise Trouble


def norms(jacobian: Any, equation: str = "GN-1") -> Any:
    """Return the norms of the rows."""
    return jacobian.n if isinstance(jacobian, Norms) else notation.norms(jacobian, equation)


def same_tasks(known: Any, _: Any, weights: str = "weights") -> Any:
    """Return a state and its weights."""
    return known, getattr(known, weights)


def as_float(value: Any) -> Any:
    """Return a number as a float, a number of each row as it is."""
    return value if isinstance(value, Rows) else float(value)


REPLACED: dict[Any, Any] = {
    notation.vector: given,
    notation.matrix: given,
    notation.unseen_matrix: given,
    notation.count: given,
    notation.real: given,
    notation.require: require,
    notation.norms: norms,
    contract.same_tasks: same_tasks,
    state.own: lambda known, _: known,
    optimisers.same_shape: lambda **arrays: list(arrays.values()),
}
"""The checks, and what stands in their place."""


# LIFTING

NUMPY = ModuleType("numpy")
"""NumPy as lifted functions see it: `asarray`, which they call for a type's sake, leaves rows as they are."""
vars(NUMPY).update(vars(np), asarray=lambda x, *args: x if isinstance(x, Rows) else np.asarray(x, *args))

NAMES: dict[str, dict[str, Any]] = {}
"""The names of the modules that have been lifted."""


@functools.lru_cache(maxsize=8)
def lifted(method: M) -> M:
    """Return `method`, a method or an optimiser, with its functions lifted; its hyper-parameters are shared."""
    names: dict[int, dict[str, Any]] = {}
    cls: Any = type(method)
    body: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        if issubclass(base, Method | optimisers.Optimiser) and base not in (Method, optimisers.Optimiser):
            functions = {name: f for name, f in vars(base).items() if isinstance(f, FunctionType)}
            body.update({name: raised(f, names) for name, f in functions.items() if not name.startswith("__")})
    if isinstance(getattr(method, "rule", None), optimisers.Optimiser):
        body["rule"] = lifted(method.rule)  # type: ignore[attr-defined]
    light: M = object.__new__(type(cls.__name__, (cls,), body))
    for name, value in vars(method).items():
        if name != "rule":
            object.__setattr__(light, name, value)
    return light


def raised(function: FunctionType, names: dict[int, dict[str, Any]]) -> Any:
    """Return a function of the package over lifted names, without the wrapper that an equation has."""
    inner: Any = getattr(function, "__wrapped__", function)
    over = raised_names(inner.__globals__, names)
    copy = FunctionType(inner.__code__, over, inner.__name__, inner.__defaults__, inner.__closure__)
    copy.__kwdefaults__ = inner.__kwdefaults__
    return copy


def raised_names(module: dict[str, Any], names: dict[int, dict[str, Any]]) -> dict[str, Any]:
    """Return a module's names with its functions, and those it has from the package, lifted. Modules are kept."""
    kept = sys.modules.get(module["__name__"])
    real = kept is not None and vars(kept) is module
    known = NAMES.get(module["__name__"]) if real else names.get(id(module))
    if known is not None:
        return known
    over = {**module, "float": as_float}
    if over.get("np") is np:
        over["np"] = NUMPY
    if real:
        NAMES[module["__name__"]] = over
    else:
        names[id(module)] = over
    for name, value in module.items():
        if isinstance(value, FunctionType) and value.__module__.startswith("mtlref."):
            over[name] = REPLACED[value] if value in REPLACED else raised(value, names)
    return over


# STEPS


class AtOnce:
    """Whether many rows are tried at once: if that is `possible`, until it has failed `FAILURES` times in a row."""

    def __init__(self, possible: bool) -> None:
        self.left = FAILURES if possible else 0

    def tried(self, steps: Callable[[], T]) -> T | None:
        """Return what the steps on many rows give; None where they fail, or are not tried: then go row by row."""
        if not self.left:
            return None
        try:
            with np.errstate(**SEALED):
                found = steps()
        except FAILS:
            self.left -= 1
            return None
        self.left = FAILURES
        return found


def step_rows(light: Method, before: State, losses: Rows, norms: Rows | None, depth: int = 0) -> Step:
    """Return the lifted method's step on many rows; where they part, each part is stepped by itself.

    Errors: Trouble, and whatever comes of a value that cannot be taken row by row.
    """
    try:
        return light.step(before, losses, None if norms is None else Norms(norms))  # type: ignore[arg-type]
    except Split as parted:
        if depth == DEEPEST:
            raise Trouble from parted
        mask = parted.mask
    parts = []
    for chosen in (mask, ~mask):
        part = take(before, chosen), take(losses, chosen), take(norms, chosen)
        parts.append(step_rows(light, *part, depth + 1))
    one, other = parts
    return Step(
        joined(mask, one.weights, other.weights),
        joined(mask, one.head_weights, other.head_weights),
        joined(mask, one.state, other.state),
        {},
    )


def numbers(value: Any, count: int) -> Array:
    """Return what a step gave for each of `count` rows as an array: rows, or one value for all of them."""
    return value.values if isinstance(value, Rows) else np.broadcast_to(value, (count, *np.shape(value)))
