"""The generator of the golden vectors: `python -m mtlref.vectorgen [--check] [METHOD ...]`.

It writes mtlref/vectors/<stem>.json, and the schema beside them, from the exact arithmetic of `mtlref.exact`. What
comes out depends on nothing but the code: no random number, no clock, no machine.

A method is added by one file here, `<stem>.py`, with a `RECIPE`: its groups of cases, and the exact step that answers
them. See `mtlref.vectorgen.core`, and `equal.py` for the smallest.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from mtlref.methods import METHODS, NETWORKS
from mtlref.notation import DomainError
from mtlref.vectorgen.core import Recipe, document
from mtlref.vectorgen.schema import schema
from mtlref.vectorgen.text import text

FOLDER = Path(__file__).parent.parent / "vectors"
"""Where the vectors are."""

SHOWN = 12
"""The lines of a difference that are shown."""


def recipes() -> dict[str, Recipe]:
    """Return the recipes of the methods that have a file of cases, by stem."""
    there = [stem for stem in (*METHODS, *NETWORKS) if find_spec(f"{__name__}.{stem}")]
    return {stem: import_module(f"{__name__}.{stem}").RECIPE for stem in there}


def generate(chosen: Sequence[str] = ()) -> dict[str, str]:
    """Return the texts of the files by their names: of the `chosen` methods, of all if none is, and the schema.

    Errors: DomainError for a method without a recipe, MtlrefError where a case does not do what it says.
    """
    known = recipes()
    for stem in chosen:
        if stem not in known:
            message = f"method = {stem!r} has no cases; those that have: {', '.join(known)}"
            raise DomainError(message, argument="method", value=stem)
    made = {f"{stem}.json": text(document(known[stem])) for stem in chosen or known}
    return {**made, "schema.json": text(schema(list(known.values())))}


def differences(made: Mapping[str, str], folder: Path) -> list[str]:
    """Return, in words, how the files in the folder differ from those made: nothing if they are the same bytes."""
    found = []
    for name, wanted in made.items():
        path = folder / name
        if not path.is_file():
            found.append(f"{name}: is not there")
        elif path.read_bytes() != wanted.encode("utf-8"):
            found += [f"{name}: differs", *_difference(path.read_text(encoding="utf-8"), wanted)]
    return found


def _difference(there: str, wanted: str) -> list[str]:
    """Return the first lines that differ, - for what is there and + for what should be, and how many are left."""
    compared = difflib.unified_diff(there.splitlines(), wanted.splitlines(), lineterm="", n=0)
    lines = [line for line in compared if not line.startswith(("---", "+++", "@@"))]
    shown = [f"  {line if len(line) <= 110 else line[:107] + '...'}" for line in lines[:SHOWN]]
    return shown + ([f"  and {len(lines) - SHOWN} lines more"] if len(lines) > SHOWN else [])


__all__ = ["FOLDER", "differences", "generate", "recipes"]
