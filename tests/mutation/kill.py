"""Kill: which part of the kit tells a changed module from the specification?

    killer("methods/gradnorm.py", text)  ->  "vector hand-k3", "check_gradnorm_… on …", "cannot be loaded: …", or None

The text is loaded as a part of a second package, `mutant` (`overlay`), which is put to the golden vectors, refusals
included, and then, as an implementation with all doors, to all checks of all choices. The first departure ends it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np

from mtlref.conformance import Implementation, runner, watchdog
from mtlref.conformance.check import Skipped, applicable, run_check
from mtlref.conformance.implementation import AdapterError, Answers
from mtlref.conformance.live import task_gradients
from mtlref.conformance.runner import Session
from mtlref.conformance.trial import Departure
from mtlref.methods import METHODS
from mtlref.vectors import load
from mtlref.vectors.replay import observables
from tests.mutation.overlay import TREE, over

JUDGED: Mapping[str, tuple[str, ...]] = {
    **{f"methods/{stem}.py": (stem,) for stem in (*METHODS, "hmoe")},
    "methods/stages.py": ("combination",),
    **dict.fromkeys(("qp.py", "cosines.py", "rationals.py", "certificate.py"), ("pe_ltr",)),
    **dict.fromkeys(("autograd.py", "cotangents.py", "tape.py", "rules.py"), ("jacobian", "hmoe")),
}
"""By module, what it is a part of: the stems whose vectors and checks it is put to."""

DECLARED: Mapping[str, tuple[dict[str, Any], ...]] = {
    "gradnorm": ({}, {"optimiser": "adam"}, {"negative": "clamp"}),
    "cov": ({}, {"decay": 0.7}, {"statistics": "previous"}, {"observed": "loss"}),
    "uncertainty": (
        {},
        {"likelihoods": ("gaussian", "softmax", "laplace"), "dimensions": (2, 1, 3)},
        {"optimiser": "adam"},
    ),
    "pe_ltr": ({}, {"solver": "exact", "silent": "ruled"}, {"timing": "same", "silent": "ruled"}),
    "pcgrad": ({}, {"include_self": True}, {"reduction": "mean"}),
    "hmoe": ({}, {"mix": "hidden"}, {"mix": "prob", "share_gate": True, "share_w": True}),
}
"""What is declared, beside nothing: every choice has its own equations."""


CASES: Mapping[str, int] = {"step": 16, "run": 4, "live": 4}
"""How many cases of each kind a first pass has; what it lets through is put to as many as the kit itself has."""


# THE SUBJECT


def counterpart(value: Any) -> Any:
    """Return a method, a state or any other value of mtlref as that of the mutated package."""
    kind = type(value)
    if isinstance(value, tuple):
        return tuple(counterpart(item) for item in value)
    if not is_dataclass(value) or not kind.__module__.startswith("mtlref."):
        return value
    cls = getattr(import_module(kind.__module__.replace("mtlref", "mutant", 1)), kind.__name__)
    given = {field.name: counterpart(getattr(value, field.name)) for field in fields(value) if field.init}
    return cls(*given.pop("stages"), **given) if kind.__name__ == "Combination" else cls(**given)


def observed(method: Any, state: Any, problem: Any) -> tuple[Any, dict[str, Any]]:
    """Return a step of a mutated method, and its observables."""
    more = {} if problem.draw is None else {"draw": problem.draw}
    out = method.step(state, problem.losses, problem.jacobian, **more)
    return out.state, observables(out, problem.jacobian)


def step(problem: Any, state: Any) -> dict[str, Any]:
    """Return the observables of one step from a state that is put in."""
    return observed(counterpart(problem.method), counterpart(state), problem)[1]


def run(problems: Any) -> dict[str, Any]:
    """Return the observables of a run from the method's own start."""
    method = counterpart(problems.method)
    state, rows = method.init(problems.n_tasks), []
    for problem in problems:
        state, row = observed(method, state, problem)
        rows.append(row)
    return {name: [row[name] for row in rows] for name in rows[0]}


def gradients(live: Any, state: Any) -> dict[str, Any]:
    """Return the losses and the gradients of a network, by the mutated tape."""
    networks, autograd = import_module("mutant.networks"), import_module("mutant.autograd")
    kinds = {"mse": networks.mse, "absolute": networks.absolute_error, "cross-entropy": networks.cross_entropy}
    network, at = counterpart(live.network), networks.Parameters(live.shared, live.heads)

    def losses(flat: Any) -> list[Any]:
        outputs = network.forward(at.rebuilt(flat), live.x)
        return [kinds[kind](y, t) for kind, y, t in zip(live.kinds, outputs, live.targets, strict=True)]

    values, found = autograd.value_and_jacobian(losses, at.flat)
    J, ends = found.matrix, np.cumsum([sum(a.size for a in part) for part in (live.shared, *live.heads)])
    heads = [J[i, ends[i] : ends[i + 1]] for i in range(len(J))]
    return {"losses": values, "jacobian": task_gradients(J, live.shared), "head_gradients": np.concatenate(heads)}


def passed(given: Any, state: Any) -> dict[str, Any]:
    """Return the observables of a pass of HMoE."""
    replay = import_module("mutant.vectors.replay")
    found: dict[str, Any] = replay.observed(counterpart(given.method).network, "network", given.plain)
    return found


def implementation(stem: str, choices: Mapping[str, Any]) -> Implementation:
    """Return the mutated method as an implementation, whose functions look `mutant` up when they are called."""
    if stem in ("jacobian", "hmoe"):
        asked = gradients if stem == "jacobian" else passed
        return Implementation(stem, name="mutant", step=asked, choices=choices)
    return Implementation(stem, name="mutant", step=step, run=run, choices=choices)


# THE JUDGES


def vector_that_tells(stem: str) -> str | None:
    """Return the golden vector that is answered wrongly, or that is answered and must be refused, or refused
    otherwise."""
    replay, notation = import_module("mutant.vectors.replay"), import_module("mutant.notation")
    for group, test in tests_of(stem):
        try:
            got = replay.observed(replay.subject(stem, group["parameters"]), group["type"], test["input"])
        except notation.MtlrefError as error:
            told = {name: value for name, value in test["expected"].items() if name != "step"}  # which no error knows
            if test["result"] != "invalid" or any(getattr(error, name, None) != told[name] for name in told):
                return f"vector {test['id']}"
            continue
        except Exception as error:
            return f"vector {test['id']}: {type(error).__name__}"
        if test["result"] == "invalid":
            return f"vector {test['id']}"
        for name, value in test["expected"].items():
            if name not in got or replay.distance(got[name], value) > group["tolerance"]:
                return f"vector {test['id']}"
    return None


@cache
def tests_of(stem: str) -> tuple[tuple[Mapping[str, Any], Mapping[str, Any]], ...]:
    """Return the vectors of a method, each with its group, the shortest first."""
    found = [(group, test) for group in load(stem)["groups"] for test in group["tests"]]
    return tuple(sorted(found, key=lambda pair: len(json.dumps(pair[1]["input"]))))


@cache
def prepared(stem: str, choice: int, all_cases: bool) -> Session:
    """Return a session whose cases have been drawn: they are the same for every mutant."""
    found = runner.session(implementation(stem, DECLARED.get(stem, ({},))[choice]))
    kept = runner.SIZES
    runner.SIZES = kept if all_cases else CASES
    for check in found.checks:
        found.cases(found.kind(check.on))
    runner.SIZES = kept
    return found


def at_once(function: Callable[..., Any], arguments: tuple[Any, ...], patience: float) -> watchdog.Outcome:
    """Return what comes of a call, made in this thread: what runs without end is ended with its process."""
    try:
        return watchdog.Outcome(value=function(*arguments))
    except Exception as error:
        return watchdog.Outcome(error=error)


def check_that_tells(stem: str, choice: int, all_cases: bool) -> str | None:
    """Return the check that an implementation under a declared choice fails, and where; None if it passes all."""
    ready = prepared(stem, choice, all_cases)
    session = Session(ready.impl, Answers(ready.impl, ready.plan.matrixwise), ready.plan, ready.checks, ready.drawn)
    if session.unusable is not None:
        return f"unusable: {session.unusable}"
    for check in sorted(session.checks, key=lambda check: (check.answers, check.on != "step")):
        try:
            applicable(check, session.impl, session.given[session.kind(check.on)])
            run_check(check, session.answers, session.cases(session.kind(check.on)))
        except Departure as departure:
            return f"{check.name} on {departure.case.label or 'a law'}"
        except AdapterError as error:
            return f"{check.name}: {error}"
        except Skipped:
            continue
    return None


def judges(module: str, all_cases: bool) -> Iterator[Callable[[], str | None]]:
    """Yield what a module is put to, the quickest first: the vectors of all its stems, then the checks."""
    for stem in JUDGED[module]:
        if stem != "jacobian":
            yield lambda stem=stem: vector_that_tells(stem)
    for stem, choice in checked(module):
        yield lambda stem=stem, choice=choice: check_that_tells(stem, choice, all_cases)


def checked(module: str) -> list[tuple[str, int]]:
    """Return the stems and the choices that there are checks for."""
    stems = [stem for stem in JUDGED[module] if find_spec(f"mtlref.conformance.checks.{stem}") is not None]
    return [(stem, choice) for stem in stems for choice in range(len(DECLARED.get(stem, ({},))))]


# WHAT IS REACHED


@contextmanager
def traced(module: str) -> Iterator[set[int]]:
    """Keep the lines of a module that are run meanwhile."""
    file, lines = str(TREE / module), set[int]()

    def local(frame: Any, event: str, _: Any) -> Any:
        lines.add(frame.f_lineno)
        return local

    sys.settrace(lambda frame, event, _: local(frame, event, _) if frame.f_code.co_filename == file else None)
    try:
        yield lines
    finally:
        sys.settrace(None)


@cache
def prepare(module: str, all_cases: bool = True) -> tuple[frozenset[int], ...]:
    """Read the vectors and draw the cases that a module is put to, and return what lines each judge reaches.

    Those that loading reaches are reached by all. Errors: AssertionError if the module is told as it is.
    """
    for stem in JUDGED[module]:
        if stem != "jacobian":
            tests_of(stem)
    for stem, choice in checked(module):
        prepared(stem, choice, all_cases)
    found = []
    with judging(module, (TREE / module).read_text(encoding="utf-8")):
        with traced(module) as loaded:
            import_module("mutant.methods")
        for judge in judges(module, all_cases):
            with traced(module) as lines:
                told = judge()
            if told is not None:
                raise AssertionError(f"{module} is told as it is: {told}")
            found.append(frozenset(loaded | lines))
    return tuple(found)


@contextmanager
def judging(module: str, text: str) -> Iterator[None]:
    """Have `mutant` be the package with that text, and calls be made at once: the process has to have a limit."""
    kept, watchdog.call = watchdog.call, at_once
    try:
        with over("mutant", {module: text}), np.errstate(all="ignore"):
            yield
    finally:
        watchdog.call = kept


def killer(module: str, text: str, all_cases: bool = True, changed: Container[int] | None = None) -> str | None:
    """Return what tells `text`, in the place of a module, from the specification; None if nothing does.

    `all_cases`: as many as the kit has; otherwise `CASES`. `changed`: the lines of the statement that is another, of
    the module as it was; a judge that does not reach them cannot tell. Run it in a process of its own, with a limit.
    """
    reached = prepare(module, all_cases) if changed is not None else ()
    with judging(module, text):
        try:
            import_module("mutant.methods")
        except Exception as error:
            return f"cannot be loaded: {type(error).__name__}: {error}"
        for i, judge in enumerate(judges(module, all_cases)):
            if changed is None or any(line in changed for line in reached[i]):
                told = judge()
                if told is not None:
                    return told
    return None
