"""The JSON Schema of the files of vectors: closed everywhere, one set of definitions a method.

It is written by the generator from the recipes, so that a field which no method has is an error in a file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mtlref.vectorgen.core import FORMAT, Kind, Recipe

Schema = dict[str, Any]

NUMBER = {"$ref": "#/$defs/number"}
"""A number that comes in: one with no form in JSON is a string."""

OPTIMISER = {
    "adam": {
        "lr": {"type": "number"},
        "beta1": {"type": "number"},
        "beta2": {"type": "number"},
        "eps": {"type": "number"},
    }
}
"""The optimisers that parameters name, and their own parameters."""


def array(items: Schema, axes: int = 1) -> Schema:
    """Return the schema of an array of so many axes."""
    return {"type": "array", "items": items if axes == 1 else array(items, axes - 1)}


def closed(properties: Mapping[str, Schema], optional: Sequence[str] = ()) -> Schema:
    """Return the schema of an object with these properties, all required but the `optional` ones, and no others."""
    required = [name for name in properties if name not in optional]
    return {"type": "object", "properties": dict(properties), "required": required, "additionalProperties": False}


def chosen(name: str, by: Mapping[str, Schema]) -> Schema:
    """Return the part of an object's schema that its property `name`, a string of those in `by`, decides."""
    cases = [{"if": {"properties": {name: {"const": value}}}, "then": then} for value, then in by.items()]
    return {"required": [name], "allOf": [{"properties": {name: {"enum": list(by)}}}, *cases]}


def optional(schema: Schema) -> Schema:
    """Return the schema of a value that may be null."""
    return {"anyOf": [schema, {"type": "null"}]}


MOMENTS = {"step": {"type": "integer", "minimum": 0}, "first_moment": array(NUMBER), "second_moment": array(NUMBER)}

TYPES: Mapping[str, Schema] = {
    "number": NUMBER,
    "number or null": optional(NUMBER),
    "number or vector": {"anyOf": [NUMBER, array(NUMBER)]},
    "count": {"type": "integer"},
    "count or null": optional({"type": "integer"}),
    "counts": array({"type": "integer"}),
    "counts or null": optional(array({"type": "integer"})),
    "widths": array({"type": "integer"}, 2),
    "string": {"type": "string"},
    "strings": {"anyOf": [{"type": "string"}, array({"type": "string"})]},
    "boolean": {"type": "boolean"},
    "vector": array(NUMBER),
    "vector or null": optional(array(NUMBER)),
    "optimiser or null": optional(
        {"anyOf": [closed({"name": {"const": name}, **own}) for name, own in OPTIMISER.items()]}
    ),
    "optimiser state": {"anyOf": [closed({}), closed(MOMENTS)]},
    "stages": array({"$ref": "#/$defs/stage"}),
    "stage states": array({"$ref": "#/$defs/stage.state"}),
}
"""The types by which recipes describe parameters, states and terms."""

ANSWERS: Mapping[str, Schema] = {
    "scalar": {"type": "number"},
    "vector": array({"type": "number"}),
    "matrix": array({"type": "number"}, 2),
    "matrices": array({"type": "number"}, 3),
    "table of matrices": array({"type": "number"}, 4),
}
"""The types of what comes out: finite numbers."""

LAYERS = array({"anyOf": [array(NUMBER, 2), array(NUMBER)]}, 2)
"""Perceptrons, each a list of its layers: weights, bias, weights, bias, …"""

INPUTS: Mapping[str, Schema] = {
    "losses": array(NUMBER),
    "jacobian": optional(array(NUMBER, 2)),
    "draw": array({"type": "integer"}, 2),
    "parameters": closed(
        {"experts": LAYERS, "gates": array(NUMBER, 3), "relations": array(NUMBER, 3), "towers": LAYERS}
    ),
    "x": array(NUMBER, 2),
    "delta": array(NUMBER, 3),
}
"""What a step reads, or a network."""


def schema(recipes: Sequence[Recipe]) -> Schema:
    """Return the schema of the files of these methods."""
    shared: Schema = {
        "number": {"anyOf": [{"type": "number"}, {"enum": ["NaN", "Infinity", "-Infinity"]}]},
        "tag": {"type": "string", "pattern": "^[A-Z]+-[0-9]+$"},
        "choice": {"type": "string", "pattern": "^[A-Z]+-[CE][0-9]+$"},
        "note": note(),
        "refusal": refusal(),
        **stages([recipe for recipe in recipes if "stages" not in recipe.parameters]),
    }
    for recipe in recipes:
        shared[recipe.stem] = file(recipe)
        for kind in recipe.kinds:
            shared[f"{recipe.stem}.{kind}"] = group(recipe, kind)
            shared[f"{recipe.stem}.{kind}.input"] = given(recipe, kind)
            shared[f"{recipe.stem}.{kind}.expected"] = answer(recipe, kind)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "mtlref vectors",
        "description": "Inputs and exact answers of one multi-task method; see derivations/vectors.md.",
        **chosen("method", {recipe.stem: {"$ref": f"#/$defs/{recipe.stem}"} for recipe in recipes}),
        "$defs": shared,
    }


def stages(recipes: Sequence[Recipe]) -> Schema:
    """Return the schemas of a combination's stage, a method with its parameters and a strength, and of its state."""
    made: dict[str, list[Schema]] = {"stage": [], "stage.state": []}
    for recipe in recipes:
        own = {name: TYPES[type] for name, type in recipe.parameters.items()}
        made["stage"].append(closed({"method": {"const": recipe.stem}, "strength": NUMBER, **own}))
        state = closed({name: TYPES[type] for name, type in recipe.state.items()})
        if state not in made["stage.state"]:
            made["stage.state"].append(state)
    return {name: {"anyOf": kinds} for name, kinds in made.items()}


def file(recipe: Recipe) -> Schema:
    """Return the schema of one method's file."""
    name: Schema = {"type": "string", "minLength": 1}
    terms = {"enum": list(recipe.terms)}
    kinds = chosen("type", {kind: {"$ref": f"#/$defs/{recipe.stem}.{kind}"} for kind in recipe.kinds})
    return closed(
        {
            "$schema": {"const": "schema.json"},
            "format": {"const": FORMAT},
            "mtlref": {"type": "string", "pattern": r"^\d+\.\d+\.\d+"},
            "method": {"const": recipe.stem},
            "title": name,
            "source": name,
            "derivation": {"const": f"derivations/{recipe.stem}.md"},
            "cadence": {"enum": ["step", "epoch"]},
            "tags": {"type": "object", "propertyNames": terms, "additionalProperties": {"$ref": "#/$defs/tag"}},
            "mandatory": {"type": "array", "items": {"enum": list(recipe.mandatory)}, "minItems": 1},
            "margin": {"type": "number", "exclusiveMinimum": 0},
            "number_of_tests": {"type": "integer", "minimum": 1},
            "notes": {"type": "object", "additionalProperties": {"$ref": "#/$defs/note"}},
            "groups": {"type": "array", "minItems": 1, "items": kinds},
        }
    )


def note() -> Schema:
    """Return the schema of what a flag means."""
    return closed(
        {
            "kind": {"enum": ["defect", "edge", "refusal", "choice"]},
            "equation": {"type": "string"},
            "description": {"type": "string", "minLength": 1},
            "effect": {"type": "string", "minLength": 1},
            "shows_in": {"type": "array", "items": {"type": "string"}, "minItems": 1},
            "seen_in": {"type": "string", "minLength": 1},
            "links": {"type": "array", "items": {"type": "string"}, "minItems": 1},
        },
        ("equation", "shows_in", "seen_in"),
    )


def refusal() -> Schema:
    """Return the schema of what is expected of an invalid test: what the error names, where the contract says."""
    index = {"type": "integer", "minimum": 0}
    names: dict[str, Schema] = {
        "equation": {"type": "string"},
        "argument": {"type": "string"},
        "task": index,
        "step": index,
    }
    return {**closed(names, tuple(names)), "minProperties": 1}


def group(recipe: Recipe, kind: Kind) -> Schema:
    """Return the schema of a group of one kind."""
    choices = {
        "type": "object",
        "propertyNames": {"$ref": "#/$defs/choice"},
        "additionalProperties": {"type": "string"},
    }
    return closed(
        {
            "type": {"const": kind},
            "parameters": closed({name: TYPES[type] for name, type in recipe.parameters.items()}),
            "choices": choices,
            "tolerance": {"type": "number", "exclusiveMinimum": 0},
            "separation": {"type": "number", "exclusiveMinimum": 0},
            "tests": {"type": "array", "minItems": 1, "items": test(recipe, kind)},
        }
    )


def test(recipe: Recipe, kind: Kind) -> Schema:
    """Return the schema of a test: its result decides what is expected, and whether it names choices."""
    shown: Schema = {
        "id": {"type": "string", "pattern": "^[a-z0-9]+(-[a-z0-9]+)*$"},
        "comment": {"type": "string", "minLength": 1},
        "flags": {"type": "array", "items": {"type": "string"}, "uniqueItems": True},
        "result": {"enum": ["valid", "acceptable", "invalid"]},
        "choices": {"type": "array", "items": {"$ref": "#/$defs/choice"}, "minItems": 1},
        "input": {"$ref": f"#/$defs/{recipe.stem}.{kind}.input"},
        "expected": {"type": "object"},
    }
    answer = {"expected": {"$ref": f"#/$defs/{recipe.stem}.{kind}.expected"}}
    refused = {"expected": {"$ref": "#/$defs/refusal"}}
    decided: dict[str, Schema] = {
        "valid": {"properties": {"choices": False, **answer}},
        "acceptable": {"properties": answer, "required": ["choices"]},
        "invalid": {"properties": {"choices": False, **refused}},
    }
    return {**chosen("result", decided), **closed(shown, ("choices",))}


def given(recipe: Recipe, kind: Kind) -> Schema:
    """Return the schema of the input: a run's has a further axis, of steps, and may have a state to start from."""
    read = {name: array(INPUTS[name]) if kind == "run" else INPUTS[name] for name in recipe.reads}
    if kind == "network":
        return closed(read)
    state = {"state": closed({name: TYPES[type] for name, type in recipe.state.items()})}
    return closed({**state, **read}, ("draw",) if kind == "step" else ("state", "draw"))


def answer(recipe: Recipe, kind: Kind) -> Schema:
    """Return the schema of what is expected: every observable, of a run with a further axis, of steps."""
    types = {**({} if kind == "network" else {"weights": "vector", "head_weights": "vector"}), **recipe.terms}
    if "jacobian" in recipe.reads:
        types["direction"] = "vector"
    return closed({name: array(ANSWERS[type]) if kind == "run" else ANSWERS[type] for name, type in types.items()})
