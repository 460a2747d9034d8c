"""The golden vectors as cases: their expected values come from exact arithmetic, not from the
specification's code."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from mtlref.conformance.implementation import SPECIFICATIONS, Implementation
from mtlref.conformance.problem import Case, Problem
from mtlref.conformance.strategies import Plan, decided, method_of
from mtlref.contract import Method
from mtlref.notation import MtlrefError
from mtlref.settings import build
from mtlref.vectors import load, stems
from mtlref.vectors.replay import numbers, state_of

RANGE = (1e-100, 1e100)
"""Numbers outside are left to the vectors' own readers: their squares leave float64, and not to mind is
no mistake."""


def vector_cases(impl: Implementation, plan: Plan) -> tuple[Case, ...]:
    """Return the valid vectors whose parameters, but for those that the plan varies, are what the
    implementation has."""
    cases = found(impl, plan) if impl.method in stems() else ()
    return tuple(case for case in cases if decided(plan, impl, case))


def found(impl: Implementation, plan: Plan) -> Iterator[Case]:
    """Yield the cases, in the order of the file."""
    varied = {name for given in plan.settings for name in given}
    for group in load(impl.method)["groups"]:
        try:
            method = build(impl.method, numbers(group["parameters"]), SPECIFICATIONS)
            own = method_of(plan, impl, {name: getattr(method, name) for name in varied}, 0)
        except MtlrefError:
            continue
        if method != own:
            continue
        for test in group["tests"]:
            if test["result"] == "valid" and inside(test["input"]):
                case = (plan.read or case_of)(method, group["type"], test)
                if case.n_tasks >= impl.least:
                    yield case


def case_of(method: Method, kind: str, test: Mapping[str, Any]) -> Case:
    """Return the case of one vector."""
    given, expected, label = test["input"], test["expected"], f"vector {test['id']}"
    if kind == "step":
        K = len(given["losses"])
        state = state_of(method.init(K), given["state"])
        return Case((problem(method, given),), state, True, label, (expected,))
    names = [name for name in ("losses", "jacobian", "draw") if name in given]
    rows = [dict(zip(names, row, strict=True)) for row in zip(*(given[name] for name in names), strict=True)]
    state = method.init(len(rows[0]["losses"]))
    if "state" in given:
        state = state_of(state, given["state"])
    values = tuple({name: column[t] for name, column in expected.items()} for t in range(len(rows)))
    return Case(tuple(problem(method, row) for row in rows), state, "state" in given, label, values)


def problem(method: Method, given: Mapping[str, Any]) -> Problem:
    """Return the problem of one step; where a vector has no Jacobian, which its method does not read, of zeros."""
    losses = np.array(numbers(given["losses"]), dtype=np.float64)
    jacobian = numbers(given["jacobian"]) if "jacobian" in given else np.zeros((len(losses), 2))
    draw = method.sample(np.random.default_rng(0), len(losses))  # of one or two tasks, whose vectors leave it out
    if "draw" in given:
        draw = np.asarray(given["draw"]).reshape(len(losses), -1)
    batches = np.stack([losses, losses]) if method.cadence == "epoch" else None
    return Problem(method, losses, np.array(jacobian, dtype=np.float64), draw, batches)


def inside(value: Any) -> bool:
    """Return whether every number of a vector's input is 0 or has a size within `RANGE`."""
    if isinstance(value, Mapping):
        return all(inside(item) for item in value.values())
    if isinstance(value, list):
        return all(inside(item) for item in value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return not isinstance(value, str)
    return value == 0 or RANGE[0] <= abs(value) <= RANGE[1]
