"""Golden vectors: what every method has to answer to given inputs, as JSON that any language reads.

One file a method, `<stem>.json`, in the shape that `schema.json` closes. The files are written by
`python -m mtlref.vectorgen` from exact and 50-digit arithmetic; the format is told in derivations/vectors.md.

- `stems` names the methods that have vectors, `load` reads a file, `export` copies the files to a folder.
- `mtlref.vectors.replay` puts a vector to a method of this package.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from mtlref.notation import DomainError, MtlrefError

SCHEMA = "schema.json"
"""The name of the schema's file, which lies beside the vectors."""

RESULTS = ("valid", "acceptable", "invalid")
"""What a test's result can be."""


def stems() -> tuple[str, ...]:
    """Return the stems of the methods that have vectors, in alphabetical order."""
    names = (file.name for file in resources.files(__name__).iterdir())
    return tuple(sorted(name[:-5] for name in names if name.endswith(".json") and name != SCHEMA))


def load(stem: str) -> dict[str, Any]:
    """Return the vectors of the method `stem`, as the json module reads them. Errors: DomainError."""
    document: dict[str, Any] = json.loads(text_of(stem))
    return document


def schema() -> dict[str, Any]:
    """Return the JSON Schema that every file of vectors meets."""
    document: dict[str, Any] = json.loads(resources.files(__name__).joinpath(SCHEMA).read_text(encoding="utf-8"))
    return document


def text_of(stem: str) -> str:
    """Return the file of the method `stem`, as it is. Errors: DomainError for a method without vectors."""
    if stem not in stems():
        message = f"method = {stem!r} has no vectors; those that have: {', '.join(stems())}"
        raise DomainError(message, argument="method", value=stem)
    return resources.files(__name__).joinpath(f"{stem}.json").read_text(encoding="utf-8")


def cases(document: Mapping[str, Any]) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Yield every test of a file, each with its group before it."""
    for group in document["groups"]:
        for test in group["tests"]:
            yield group, test


def export(folder: str | Path, *chosen: str) -> list[Path]:
    """Write the schema and the vectors of the `chosen` methods, of all if none is, and return the paths.

    The folder is made if it is not there; files of the same names in it are overwritten. Errors: DomainError for
    a method without vectors, MtlrefError if the folder cannot be written to.
    """
    texts = {f"{stem}.json": text_of(stem) for stem in chosen or stems()}
    texts[SCHEMA] = resources.files(__name__).joinpath(SCHEMA).read_text(encoding="utf-8")
    written = []
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            path = Path(folder) / name
            path.write_bytes(text.encode("utf-8"))
            written.append(path)
    except OSError as error:
        raise MtlrefError(f"out = {str(folder)!r} cannot be written to: {error}", argument="out") from error
    return written


# THE COMMAND LINE


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give `parser` the arguments of `mtlref vectors`, and `command` to run."""
    parser.description = (
        "Golden vectors: inputs and the answers to them, for an implementation in any language. Without arguments, "
        "how many there are; with METHOD, what each one is about; --json prints the file, --out copies it."
    )
    parser.add_argument("method", nargs="?", metavar="METHOD", help=", ".join(stems()))
    parser.add_argument("--out", metavar="DIR", help="write the files, and schema.json, to this folder")
    parser.add_argument("--json", action="store_true", help="print the vectors themselves (or the counts) as JSON")
    parser.set_defaults(run=command)


def command(arguments: argparse.Namespace) -> int:
    """Carry out `mtlref vectors` and return the exit status 0. Errors: DomainError, MtlrefError."""
    method: str | None = arguments.method
    if arguments.out is not None:
        paths = [str(path) for path in export(arguments.out, *([method] if method else []))]
        print(json.dumps(paths, indent=2) if arguments.json else "\n".join(paths))
    elif method is None:
        print(json.dumps(overview(), indent=2) if arguments.json else overview_text())
    else:
        print(text_of(method).rstrip() if arguments.json else listing(load(method)))
    return 0


def overview() -> dict[str, dict[str, int]]:
    """Return how many tests there are, by method and result, with the number of flags and of groups."""
    counts = {}
    for stem in stems():
        document = load(stem)
        found = Counter(test["result"] for _, test in cases(document))
        counts[stem] = {
            **{result: found[result] for result in RESULTS},
            "tests": found.total(),
            "groups": len(document["groups"]),
            "defects": sum(note["kind"] == "defect" for note in document["notes"].values()),
        }
    return counts


def overview_text() -> str:
    """Return `overview` as a table."""
    counts = overview()
    columns = [*RESULTS, "tests", "groups", "defects"]
    lines = ["".join([f"{'method':12}", *(f"{name:>12}" for name in columns)])]
    lines += ["".join([f"{stem:12}", *(f"{row[name]:12}" for name in columns)]) for stem, row in counts.items()]
    return "\n".join(lines)


def listing(document: Mapping[str, Any]) -> str:
    """Return a line for every test of a file: its id, its result and what it is about."""
    lines = []
    for group in document["groups"]:
        settings = ", ".join(f"{name} = {json.dumps(value)}" for name, value in group["parameters"].items())
        lines.append(f"{group['type']}: {settings or 'no settings'}")
        lines += [f"  {test['id']:34} {test['result']:11} {test['comment']}" for test in group["tests"]]
    return "\n".join(lines)
