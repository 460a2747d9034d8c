"""What a method's file of cases says, and how the document of its vectors is made from it.

A method's file has one `Recipe`: its groups of cases, and the exact step that answers them. The rest is here:

1. `answers`: the exact oracle is put through every case, a step or a run of them.
2. `expected`: its numbers are rounded, once each, to the nearest double.
3. `test`: result and flags are attached. A defect is flagged where it moves a mandatory observable by more than the
   group's separation, which is computed, not declared; a case that demands a flag it does not deserve is refused.
4. `document`: header, notes and groups are put together.

Nothing expected comes from `mtlref.methods`: that package serves for the defects only, and for names.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction
from typing import Any, Literal

import mtlref
from mtlref.defects import DEFECTS
from mtlref.exact import Number, fraction
from mtlref.methods import METHODS, NETWORKS
from mtlref.notation import MtlrefError
from mtlref.vectorgen import flags

FORMAT = 1
"""The version of the files' format: it rises when a reader of the old one would misread the new one."""

TOLERANCE = 1e-12
"""How far a float64 answer may be from the expected one, in the unit of `replay.distance`; a group can say else."""

SEPARATION = 1e-3
"""How far a flagged defect's answer is at least, in the same unit; a group can say else."""

MARGIN = 1e-3
"""How far, relatively, every case that is not an edge case stays away from a discontinuity of its method."""

Kind = Literal["step", "run", "network"]
State = Mapping[str, Any]


class VectorError(MtlrefError):
    """A case does not do what it says: it cannot become a vector."""


@dataclass(frozen=True)
class Answer:
    """What the exact oracle answers to one step, and what the answer hangs on.

    `gap`: the relative distance from the nearest discontinuity; `decided`: the choice points that decide it. Of a
    network there are terms alone, and the weights are empty.
    """

    weights: Sequence[Number]
    head_weights: Sequence[Number]
    terms: Mapping[str, Any]
    state: State
    gap: float = math.inf
    decided: tuple[str, ...] = ()


@dataclass(frozen=True)
class Case:
    """One test. `input` is what the file says of it.

    `edge`: it sits on a discontinuity or at an end of the domain; `catches`: defects that it has to separate;
    `choices`: the choice points that decide its answer, which is then acceptable, not valid; `refused`: what the
    error names where the input has to be refused, and `None` where it has an answer.
    """

    id: str
    comment: str
    input: Mapping[str, Any]
    edge: bool = False
    catches: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    refused: Mapping[str, object] | None = None


@dataclass(frozen=True)
class Group:
    """Cases of one kind that share their hyper-parameters, and the choices that are made in them."""

    kind: Kind
    parameters: Mapping[str, Any]
    cases: Iterable[Case]
    choices: Mapping[str, str] = field(default_factory=dict)
    tolerance: float = TOLERANCE
    separation: float = SEPARATION


@dataclass(frozen=True)
class Recipe:
    """A method's vectors: the groups of cases, the exact step, and the types of what goes in and comes out.

    `initial` gives the plain state before a run of K tasks, `step` the answer to one step. `mandatory`: the
    observables that every implementation has, on which defects must show. `parameters`, `state`, `terms`: what the
    schema allows, a type of `mtlref.vectorgen.schema` by name. `fine`: defects flagged only where a case demands it,
    because their error depends on the machine. `elsewhere`: defects that move no mandatory observable, and the
    observable that each moves. `kinds`: the kinds of groups that there can be, a network's being "network".
    """

    stem: str
    groups: Callable[[], Iterable[Group]]
    initial: Callable[[Mapping[str, Any], int], State]
    step: Callable[[Mapping[str, Any], State, Mapping[str, Any]], Answer]
    mandatory: tuple[str, ...]
    parameters: Mapping[str, str]
    state: Mapping[str, str]
    terms: Mapping[str, str]
    fine: tuple[str, ...] = ()
    elsewhere: Mapping[str, str] = field(default_factory=dict)
    reads: tuple[str, ...] = ("losses",)
    kinds: tuple[Kind, ...] = ("step", "run")


# THE EXACT ANSWERS


def answers(recipe: Recipe, group: Group, case: Case) -> list[Answer]:
    """Return the exact answers to a case: one, or one a step of a run."""
    given = case.input
    if group.kind != "run":
        return [recipe.step(group.parameters, given.get("state", {}), given)]
    state = given.get("state", recipe.initial(group.parameters, len(given["losses"][0])))
    found: list[Answer] = []
    for t in range(len(given["losses"])):
        found.append(
            recipe.step(group.parameters, state, {name: given[name][t] for name in recipe.reads if name in given})
        )
        state = found[-1].state
    return found


def expected(answer: Answer, jacobian: Sequence[Sequence[Number]] | None) -> dict[str, Any]:
    """Return the observables of one step, rounded once; with a Jacobian, the direction too."""
    found: dict[str, Any] = {"weights": answer.weights, "head_weights": answer.head_weights} if answer.weights else {}
    found.update(answer.terms)
    if jacobian is not None:
        columns = zip(*jacobian, strict=True)
        w = [fraction(value) for value in answer.weights]
        found["direction"] = [
            sum((a * fraction(x) for a, x in zip(w, column, strict=True)), Fraction(0)) for column in columns
        ]
    return {name: rounded(value) for name, value in found.items()}


def rounded(value: Any) -> Any:
    """Return numbers, however nested, as the nearest doubles. Errors: VectorError beyond the range."""
    if isinstance(value, (Fraction, Decimal, int, float)):
        number = float(value)
        if not math.isfinite(number):
            raise VectorError(f"an expected value is not a finite double: {value}")
        return number + 0.0
    return [rounded(item) for item in value]


# THE DOCUMENT


def document(recipe: Recipe) -> dict[str, Any]:
    """Return the whole file of a method's vectors. Errors: VectorError where a case or the lint fails."""
    known: dict[str, Any] = {**METHODS, **NETWORKS}
    cls = known[recipe.stem]
    groups = [_group(recipe, group) for group in recipe.groups()]
    tests = [test for group in groups for test in group["tests"]]
    made = {
        "$schema": "schema.json",
        "format": FORMAT,
        "mtlref": mtlref.__version__,
        "method": recipe.stem,
        "title": cls.title,
        "source": cls.source,
        "derivation": f"derivations/{recipe.stem}.md",
        "cadence": cls.cadence,
        "tags": {name: tag for name, tag in cls.tags.items() if name in recipe.terms},
        "mandatory": list(recipe.mandatory),
        "margin": MARGIN,
        "number_of_tests": len(tests),
        "notes": flags.notes(recipe, {flag for test in tests for flag in test["flags"]}),
        "groups": groups,
    }
    flags.lint(made, [defect.name for defect in DEFECTS[recipe.stem]], {*recipe.fine, *recipe.elsewhere})
    return made


def _group(recipe: Recipe, group: Group) -> dict[str, Any]:
    """Return one group of the file."""
    return {
        "type": group.kind,
        "parameters": dict(group.parameters),
        "choices": dict(group.choices),
        "tolerance": group.tolerance,
        "separation": group.separation,
        "tests": [test(recipe, group, case) for case in group.cases],
    }


def test(recipe: Recipe, group: Group, case: Case) -> dict[str, Any]:
    """Return one test of the file. Errors: VectorError."""
    values: dict[str, Any]
    if case.refused is not None:
        values = dict(case.refused)
        found: list[str] = []
    else:
        exact = answers(recipe, group, case)
        gap = min(answer.gap for answer in exact)
        if gap < MARGIN and not case.edge:
            raise VectorError(f"{case.id} is {gap:.1e} from a discontinuity: nearer than {MARGIN}, and no edge case")
        hidden = {tag for answer in exact for tag in answer.decided} - set(case.choices)
        if hidden:
            raise VectorError(f"{case.id} hangs on {', '.join(sorted(hidden))}, and does not say so")
        jacobians = case.input.get("jacobian")
        if group.kind != "run":
            values = expected(exact[0], jacobians)
        else:
            rows = jacobians or [None] * len(exact)
            steps = [expected(answer, jacobian) for answer, jacobian in zip(exact, rows, strict=True)]
            values = {name: [step[name] for step in steps] for name in steps[0]}
        found = flags.separated(recipe, group, case, values)
    result = "invalid" if case.refused is not None else "acceptable" if case.choices else "valid"
    more = {"choices": list(case.choices)} if case.choices else {}
    return {
        "id": case.id,
        "comment": case.comment,
        "flags": [*flags.kinds(case), *found],
        "result": result,
        **more,
        "input": dict(case.input),
        "expected": values,
    }
