"""Flags: which defects a vector separates, the notes that say what a flag means, and the lint of both."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mtlref.defects import DEFECTS, Defect, variant
from mtlref.notation import MtlrefError
from mtlref.vectors import replay

if TYPE_CHECKING:
    from mtlref.vectorgen.core import Case, Group, Recipe

KINDS: Mapping[str, dict[str, Any]] = {
    "EdgeCase": {
        "kind": "edge",
        "description": "The input sits on a discontinuity (a sign, a tie), or at an end of the domain or the range.",
        "effect": "An implementation that is right elsewhere can differ here: by a guard, an eps, or an overflow.",
    },
    "MustRefuse": {
        "kind": "refusal",
        "description": "The equation that is named has no value for the argument that is named.",
        "effect": "An implementation that answers, NaN included, carries the fault into every later step.",
    },
    "ChoiceDecides": {
        "kind": "choice",
        "description": "The source leaves open what happens here; the test names the choice points that decide.",
        "effect": "An implementation that declares another choice is right with another answer.",
    },
}
"""The flags that name no defect."""

EFFECTS = {
    "w_next": "The weights of the next step are wrong.",
    "weights": "The weights in use are wrong.",
    "head_weights": "The heads' gradients are weighted wrongly; the shared parameters' are right.",
    "d_towers": "The outputs are wrong, or the outputs are right and some task's gradient is not.",
}
"""What it means for a defect to show in an observable; of the others only the report is wrong."""


def kinds(case: Case) -> list[str]:
    """Return the flags of a case that name no defect."""
    held = {"EdgeCase": case.edge, "MustRefuse": case.refused is not None, "ChoiceDecides": bool(case.choices)}
    return [name for name, holds in held.items() if holds]


# SEPARATION


def separated(recipe: Recipe, group: Group, case: Case, expected: Mapping[str, Any]) -> list[str]:
    """Return the defects that the case separates, in the order in which they are listed.

    Errors: MtlrefError if the case demands a defect that it does not separate, or if the method without a defect
    is itself further from the expected values than the group's tolerance.
    """
    right = distances(recipe, group, case, expected, list(expected))
    worst = max(right, key=lambda name: right[name])
    if right[worst] > group.tolerance:
        raise MtlrefError(f"{case.id}: the method itself misses {worst} by {right[worst]:.1e}")
    found = []
    for defect in DEFECTS[recipe.stem]:
        if defect.name in recipe.fine and defect.name not in case.catches:
            continue
        moved = distances(recipe, group, case, expected, [*recipe.mandatory, *shows(recipe, defect.name)], defect)
        shown = [name for name in shows(recipe, defect.name) if moved[name] > group.separation]
        if shown:
            found.append(defect.name)
        if defect.name in recipe.elsewhere and any(moved[name] > group.tolerance for name in recipe.mandatory):
            raise MtlrefError(f"{case.id}: {defect.name} moves a mandatory observable, against what the recipe says")
    missed = [name for name in case.catches if name not in found]
    if missed:
        raise MtlrefError(f"{case.id} demands {', '.join(missed)}, which it does not separate")
    return found


def shows(recipe: Recipe, name: str) -> tuple[str, ...]:
    """Return the observables in which the defect `name` has to show."""
    return (recipe.elsewhere[name],) if name in recipe.elsewhere else recipe.mandatory


def distances(
    recipe: Recipe, group: Group, case: Case, expected: Mapping[str, Any], names: Sequence[str], *defects: Defect
) -> dict[str, float]:
    """Return how far the method with `defects` is from the expected observables `names`: infinitely, if it raises."""
    wrong = variant(replay.subject(recipe.stem, group.parameters), *defects)
    try:
        with np.errstate(all="ignore"):
            got = replay.observed(wrong, group.kind, case.input)
    except (MtlrefError, ArithmeticError, np.linalg.LinAlgError):
        return dict.fromkeys(names, float("inf"))
    return {name: replay.distance(got[name], expected[name]) for name in names}


# NOTES


def notes(recipe: Recipe, used: set[str]) -> dict[str, Any]:
    """Return the note of every flag that is used: the kinds first, then the defects as they are listed."""
    page = f"derivations/{recipe.stem}.md"
    found = {name: {**note, "links": ["derivations/vectors.md"]} for name, note in KINDS.items() if name in used}
    for defect in DEFECTS[recipe.stem]:
        if defect.name in used:
            shown = shows(recipe, defect.name)
            found[defect.name] = {
                "kind": "defect",
                "equation": defect.equation,
                "description": f"The implementation computes {defect.summary}.",
                "effect": EFFECTS.get(shown[-1], f"The reported {shown[-1]} is wrong; the weights are right."),
                "shows_in": list(shown),
                **({"seen_in": defect.seen} if defect.seen else {}),
                "links": [page, f"mtlref/defects/{recipe.stem}.py"],
            }
    return found


def lint(document: Mapping[str, Any], defects: Sequence[str], singled: Collection[str] = ()) -> None:
    """Check that flags are declared where used and used where declared, each defect is flagged, and ids are unique.

    `singled`: the defects that the recipe makes an exception for, which have to be there.

    Errors: MtlrefError, which names what is wrong.
    """
    tests = [test for group in document["groups"] for test in group["tests"]]
    used = {flag for test in tests for flag in test["flags"]}
    declared = set(document["notes"])
    ids = [test["id"] for test in tests]
    for problem, names in (
        ("flags are used and have no note", used - declared),
        ("flags have a note and are not used", declared - used),
        ("defects are flagged in no vector", set(defects) - used),
        ("defects are excepted and do not exist", set(singled) - set(defects)),
        ("ids are used twice", {name for name in ids if ids.count(name) > 1}),
        ("tests have a flag twice", {test["id"] for test in tests if len(set(test["flags"])) < len(test["flags"])}),
    ):
        if names:
            raise MtlrefError(f"{document['method']}: {problem}: {', '.join(sorted(names))}")
    if document["number_of_tests"] != len(tests):
        raise MtlrefError(
            f"{document['method']}: number_of_tests is not {len(tests)}", value=document["number_of_tests"]
        )
