"""Replay: a vector put to a method of this package, and how far the method's answer is from the expected one.

`observed` gives every observable of a test: of a step the values, of a run a list of them, one a step. It raises
what the method raises, which is what an invalid vector asks for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, TypeVar

import numpy as np

from mtlref.contract import Method, Step, direction
from mtlref.notation import Array, DomainError
from mtlref.settings import build
from mtlref.state import State

S = TypeVar("S", bound=State)

STRINGS = {"NaN": float("nan"), "Infinity": float("inf"), "-Infinity": float("-inf")}
"""The numbers that JSON has no form for, and how the vectors write them."""


def method(stem: str, parameters: Mapping[str, Any]) -> Method:
    """Return the method with the parameters of a group. Errors: DomainError for a value out of range."""
    return build(stem, numbers(parameters))


def numbers(value: Any) -> Any:
    """Return a value of a vector with the numbers that are written as strings put in."""
    if isinstance(value, str):
        return STRINGS.get(value, value)
    if isinstance(value, Mapping):
        return {name: numbers(item) for name, item in value.items()}
    if isinstance(value, Sequence):
        return [numbers(item) for item in value]
    return value


def state_of(template: S, plain: Mapping[str, Any]) -> S:
    """Return a state of the kind of `template` with the plain fields of a vector; what they leave out, stays.

    Errors: DomainError for a field that the state does not have.
    """
    unknown = set(plain) - {field.name for field in fields(template)}
    if unknown:
        message = f"a {type(template).__name__} has no field {', '.join(sorted(unknown))}"
        raise DomainError(message, argument="state", value=sorted(unknown))
    changed: dict[str, Any] = {}
    for name, value in plain.items():
        before = getattr(template, name)
        if isinstance(before, State):
            changed[name] = state_of(before, value)
        else:
            changed[name] = np.array(numbers(value), dtype=np.float64) if isinstance(value, list) else numbers(value)
    return replace(template, **changed)


def observed(method: Method, kind: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return what `method` answers to the input of a test of the type `kind`: every observable by its name.

    Errors: whatever the method raises.
    """
    if kind == "step":
        arrays = [value for value in given["state"].values() if isinstance(value, list)]
        state = state_of(method.init(len(arrays[0] if arrays else given["losses"])), given["state"])
        return observables(*_step(method, state, given))
    names = [name for name in ("losses", "jacobian", "draw") if name in given]
    state = method.init(len(given["losses"][0]))
    if "state" in given:
        state = state_of(state, given["state"])
    rows: list[dict[str, Any]] = []
    for values in zip(*(given[name] for name in names), strict=True):
        out, jacobian = _step(method, state, dict(zip(names, values, strict=True)))
        rows.append(observables(out, jacobian))
        state = out.state
    return {name: [row[name] for row in rows] for name in rows[0]}


def _step(method: Method, state: State, given: Mapping[str, Any]) -> tuple[Step, Any]:
    """Return one step of `method`, and the Jacobian it read."""
    losses, jacobian = numbers(given["losses"]), numbers(given.get("jacobian"))
    more = {"draw": given["draw"]} if "draw" in given else {}
    return method.step(state, losses, jacobian, **more), jacobian


def observables(out: Step, jacobian: Any) -> dict[str, Any]:
    """Return the observables of one step."""
    found: dict[str, Any] = {"weights": out.weights, "head_weights": out.head_weights, **out.terms}
    if jacobian is not None:
        found["direction"] = direction(out.weights, np.asarray(jacobian, dtype=np.float64))
    return found


def distance(got: Any, expected: Any) -> float:
    """Return the largest error of `got`, in units of the larger of 1 and the largest expected entry.

    Of a run, each step has its own unit. NaN in `got`, or another shape, is infinitely far.
    """
    if isinstance(got, list):
        if len(got) != len(expected):
            return float("inf")
        return max((distance(a, b) for a, b in zip(got, expected, strict=True)), default=0.0)
    found: Array = np.asarray(got, dtype=np.float64)
    wanted: Array = np.asarray(expected, dtype=np.float64)
    if found.shape != wanted.shape or not np.isfinite(found).all():
        return float("inf")
    unit = max(1.0, float(np.max(np.abs(wanted), initial=0.0)))
    return float(np.max(np.abs(found / unit - wanted / unit), initial=0.0))
