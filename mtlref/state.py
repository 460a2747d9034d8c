"""State: what a method or an optimiser remembers between two steps, and its journey through plain JSON.

A state is a frozen dataclass of arrays, whole numbers, other states, non-empty tuples of states and None. `to_json`
writes it as text that any language reads: an object a state with its class under `"state"`, arrays as nested lists of
numbers, tuples of states as lists of objects.
Python prints a float64 in its shortest round-trip form, so `from_json` returns the same bits.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, TypeVar

import numpy as np

from mtlref.notation import DomainError, real

S = TypeVar("S", bound="State")


@dataclass(frozen=True)
class State:
    """The base of every state. A subclass is a frozen dataclass and is known to `from_json` by its name."""

    KINDS: ClassVar[dict[str, type[State]]] = {}

    def __init_subclass__(cls) -> None:
        State.KINDS[cls.__name__] = cls

    def to_json(self) -> str:
        """Return this state as JSON text that `from_json` reads back without losing a bit."""
        return json.dumps(_plain(self), allow_nan=False)

    @classmethod
    def from_json(cls: type[S], text: str | Mapping[str, Any]) -> S:
        """Return the state that `to_json` wrote: `text`, or the object that a JSON reader made of it.

        Errors: DomainError if it is not JSON, not a state of this class, or has other fields than the class.
        """
        try:
            plain = json.loads(text) if isinstance(text, str) else text
        except ValueError as error:
            raise DomainError(f"text is not JSON: {error}", argument="text") from error
        state = _state(plain)
        if not isinstance(state, cls):
            message = f"text holds a {type(state).__name__}, not a {cls.__name__}"
            raise DomainError(message, argument="text", value=type(state).__name__)
        return state

    def __eq__(self, other: object) -> bool:
        """Two states are equal when they are of one class and every field has the same value."""
        if not isinstance(other, State) or type(self) is not type(other):
            return NotImplemented
        return all(_same(getattr(self, f.name), getattr(other, f.name)) for f in fields(self))

    def __hash__(self) -> int:
        return hash(self.to_json())


def own(state: State, kind: type[S]) -> S:
    """Return `state`, which must be of the `kind` that its method or optimiser steps. Errors: DomainError."""
    if not isinstance(state, kind):
        message = f"state must be of kind {kind.__name__}; it is of kind {type(state).__name__}"
        raise DomainError(message, argument="state", value=type(state).__name__)
    return state


def _same(a: object, b: object) -> bool:
    if a is None or b is None:
        return a is b
    if isinstance(a, tuple):
        return isinstance(b, tuple) and a == b
    return a == b if isinstance(a, State) else bool(np.array_equal(np.asarray(a), np.asarray(b)))


def _plain(value: object) -> object:
    """Return a field's value as what the json module writes."""
    if isinstance(value, State):
        items = {f.name: _plain(getattr(value, f.name)) for f in fields(value)}
        return {"state": type(value).__name__, **items}
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, tuple) and value and all(isinstance(item, State) for item in value):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, int | float | str):
        return value
    raise DomainError(f"a state cannot hold a {type(value).__name__}", value=value)


def _state(plain: object) -> State:
    """Return the state of one JSON object."""
    kind = plain.get("state") if isinstance(plain, Mapping) else None
    if not isinstance(plain, Mapping) or not isinstance(kind, str) or kind not in State.KINDS:
        known = ", ".join(sorted(State.KINDS))
        raise DomainError(f"text holds no known state ({known}); its kind is {kind!r}", argument="text")
    cls = State.KINDS[kind]
    given, wanted = set(plain) - {"state"}, {f.name for f in fields(cls)}
    if given != wanted:
        message = f"a {kind} has the fields {sorted(wanted)}; the text has {sorted(given)}"
        raise DomainError(message, argument="text", value=sorted(given))
    return cls(**{name: _field(name, plain[name]) for name in wanted})


def _field(name: str, plain: object) -> object:
    """Return a field's value from JSON: an object is a state, a list of objects a tuple of them, a list an array."""
    if isinstance(plain, Mapping):
        return _state(plain)
    if isinstance(plain, list) and plain and isinstance(plain[0], Mapping):
        return tuple(_state(item) for item in plain)
    if isinstance(plain, list):
        ndim = 1
        inner: object = plain
        while isinstance(inner, list) and inner and isinstance(inner[0], list):
            ndim, inner = ndim + 1, inner[0]
        return real(name, plain, ndim)
    return plain


def to_json(state: State) -> str:
    """Return `state` as JSON text: `state.to_json()`."""
    return state.to_json()


def from_json(text: str | Mapping[str, Any]) -> State:
    """Return the state, of whatever class, that `to_json` wrote. Errors: DomainError."""
    return State.from_json(text)
