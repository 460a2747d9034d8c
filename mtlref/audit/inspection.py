"""What a log holds, and which of it may be losses, norms, inner products, weights: `mtlref audit --inspect LOG`.

Nothing is guessed: the proposal goes by the columns' names, and where they fit in more than one way, or in none, that
is what is said. A kind's columns are a family: names that differ in one word, or in a number at the end of a word,
where some other word says the kind. The tasks are what differs; those of the losses and of the weights must be the
same, else what they have in common is proposed as a mapping.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mtlref.audit.mapping import encoded
from mtlref.audit.tables import Layout, Table, read_table
from mtlref.notation import LogError

WORDS: Mapping[str, tuple[str, ...]] = {
    "losses": ("loss", "losses", "l"),
    "norms": ("norm", "norms", "gradnorm", "gnorm"),
    "gram": ("gram", "inner", "dot"),
    "weights": ("weight", "weights", "w", "lambda", "coef", "scale"),
    "draws": ("draw", "draws", "order"),
}
"""The words that say a kind, the plainest first."""

PIECES = re.compile(r"[^\W\d_]+|\d+|\W|_")
"""What a name is made of: words, numbers, and what stands between them."""

LONGEST = 400
"""The longest name that is taken to pieces, and the most names for which pairs of tasks are looked for."""

MOST_UNREAD = 64
"""How many columns that hold no numbers are put aside; the file is read again for each."""


@dataclass(frozen=True)
class Series:
    """One column: how many numbers it holds, and the first and the last of them."""

    name: str
    count: int
    first: float
    last: float


@dataclass(frozen=True)
class Inspection:
    """What was found: the mapping that is proposed, and what has to be said by the user (`open`)."""

    source: str
    rows: int
    series: tuple[Series, ...]
    unread: tuple[str, ...]
    mapping: Mapping[str, Any]
    open: tuple[str, ...]
    notes: tuple[str, ...]


def inspect_log(path: str | os.PathLike[str]) -> Inspection:
    """Return what the log at `path` holds. Errors: LogError if it cannot be read at all."""
    table, unread = readable_columns(path)
    series = tuple(described(name, values) for name, values in table.columns.items())
    names = [name for name, values in table.columns.items() if values.ndim == 1 and np.isfinite(values).any()]
    mapping, questions = proposal(names)
    stacked = [name for name in table.columns if table.place == "entry" and name in WORDS]
    questions = [question for question in questions if question.partition(":")[0] not in stacked]
    return Inspection(table.source, len(table.lines), series, unread, mapping, tuple(questions), table.notes)


def readable_columns(path: str | os.PathLike[str]) -> tuple[Table, tuple[str, ...]]:
    """Return the columns that hold numbers, and the names of those that do not."""
    unread: list[str] = []
    while True:
        try:
            return read_table(path, lambda name: name not in unread, Layout(long=True)), tuple(unread)
        except LogError as error:
            if error.argument is None or error.argument in unread or len(unread) == MOST_UNREAD:
                raise
            unread.append(error.argument)


def described(name: str, values: Any) -> Series:
    """Return a column's account; of an array with more axes, of its entries."""
    flat = np.asarray(values).reshape(len(values), -1)
    known = np.flatnonzero(np.isfinite(flat).all(axis=1))
    ends = (float(flat[known[at], 0]) if len(known) else np.nan for at in (0, -1))
    return Series(name if np.ndim(values) == 1 else f"{name} {np.shape(values)}", len(known), *ends)


# THE PROPOSAL


def proposal(names: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Return the mapping that the names alone decide, and what they leave open."""
    found: dict[str, Any] = {}
    questions: list[str] = []
    families = {kind: best(names, kind, words) for kind, words in WORDS.items() if kind not in ("gram", "draws")}
    for kind, many in families.items():
        if len(many) > 1:
            questions.append(f"{kind}: more than one family of columns fits: {', '.join(sorted(many))}")
        elif not many and kind != "norms":
            questions.append(f"{kind}: no columns are called so that they are found; give a pattern or a mapping")
    single = {kind: next(iter(many.items())) for kind, many in families.items() if len(many) == 1}
    if "losses" in single and "weights" in single:
        common = [task for task in single["losses"][1] if all(task in tasks for _, tasks in single.values())]
        if not common:
            questions.append("the losses' and the weights' columns have no task's name in common; give a mapping")
        for kind, (pattern, tasks) in single.items():
            whole = set(tasks) == set(common)
            found[kind] = pattern if whole or not common else {task: tasks[task] for task in common}
        pairs = gram_pattern(names, common)
        found |= {"gram": pairs} if pairs else {}
    else:
        found |= {kind: pattern for kind, (pattern, _) in single.items()}
    return found, questions


def hint(names: Sequence[str]) -> str:
    """Return the options that the names propose for the command line, as the end of a message; else where to look."""
    mapping, questions = proposal(names)
    flags = [f"--{kind} {shlex.quote(pattern)}" for kind, pattern in mapping.items() if isinstance(pattern, str)]
    if questions or len(flags) < len(mapping):
        return "(`mtlref audit --inspect LOG` lists them all)"
    return f"(by their names: {' '.join(flags)})"


def best(names: Sequence[str], kind: str, words: Sequence[str]) -> dict[str, dict[str, str]]:
    """Return the families of one kind: pattern → task → column; of those that name the plainest word."""
    ranked: dict[int, dict[str, dict[str, str]]] = {}
    for pattern, tasks in families_of(names).items():
        fixed = [piece.lower() for piece in PIECES.findall(pattern)]
        said = {other: min((w.index(p) for p in fixed if p in w), default=None) for other, w in WORDS.items()}
        if said[kind] is None or len(tasks) < 2:
            continue
        if kind == "losses" and (said["norms"] is not None or said["weights"] is not None):
            continue
        if kind == "weights" and said["norms"] is not None:
            continue
        ranked.setdefault(said[kind] or 0, {})[pattern] = tasks
    return widest(ranked[min(ranked)]) if ranked else {}


def widest(families: Mapping[str, dict[str, str]]) -> dict[str, dict[str, str]]:
    """Return the families without those whose columns another one has as well."""
    columns = {pattern: frozenset(tasks.values()) for pattern, tasks in families.items()}
    kept: dict[frozenset[str], str] = {}
    for pattern, mine in sorted(columns.items(), key=lambda item: (-len(item[1]), -len(item[0]))):
        if not any(mine <= other for other in kept):
            kept[mine] = pattern
    return {pattern: families[pattern] for pattern in kept.values()}


def families_of(names: Sequence[str]) -> dict[str, dict[str, str]]:
    """Return every pattern with one `*` for a word or a number, and the tasks and columns that it finds."""
    found: dict[str, dict[str, str]] = {}
    for name in names:
        for pattern, task in patterns_of(name):
            found.setdefault(pattern, {})[task] = name
    return found


def patterns_of(name: str) -> Iterator[tuple[str, str]]:
    """Yield each pattern that a name fits with a run of words in place of the `*`, and the task it stands for."""
    if len(name) > LONGEST or "*" in name:
        return
    pieces = PIECES.findall(name)
    if "".join(pieces) != name or len(pieces) > 24:
        return
    for start in range(len(pieces)):
        for end in range(start + 1, len(pieces) + 1):
            task = "".join(pieces[start:end])
            edges = (pieces[start], pieces[end - 1])
            if all(edge.isalnum() for edge in edges) and (start or end < len(pieces)):
                yield "".join(pieces[:start]) + "*" + "".join(pieces[end:]), task


def gram_pattern(names: Sequence[str], tasks: Sequence[str]) -> str | None:
    """Return the one pattern with two `*` that finds every pair of the tasks and says an inner product, or None."""
    known, found = set(names), set[str]()
    if not tasks or len(tasks) > LONGEST:
        return None
    first = tasks[0]
    for name in names:
        parts = name.split(first)
        if len(parts) == 3 and any(piece.lower() in WORDS["gram"] for piece in PIECES.findall(name)):
            found.add("*".join(parts))
    whole = [
        pattern
        for pattern in found
        if all(
            {named(pattern, one, other), named(pattern, other, one)} & known
            for at, one in enumerate(tasks)
            for other in tasks[at:]
        )
    ]
    return whole[0] if len(whole) == 1 else None


def named(pattern: str, one: str, other: str) -> str:
    """Return the name that a pattern with two `*` gives a pair."""
    before, between, behind = pattern.split("*")
    return f"{before}{one}{between}{other}{behind}"


# THE REPORT


def text(found: Inspection, shown: int = 60) -> str:
    """Return what is printed."""
    lines = [f"{found.source}: {found.rows} rows, {len(found.series)} columns of numbers"]
    width = min(48, max((len(ascii(one.name)) for one in found.series[:shown]), default=0))
    for one in found.series[:shown]:
        span = f"{one.first:.6g} … {one.last:.6g}" if one.count else "no number"
        lines.append(f"  {one.name!a:<{width}} {one.count:>9} numbers   {span}")
    if len(found.series) > shown:
        lines.append(f"  and {len(found.series) - shown} more")
    if found.unread:
        lines.append(f"not numbers: {', '.join(ascii(name) for name in found.unread[:8])}")
    lines += [f"note: {note}" for note in found.notes]
    lines += [f"open: {question}" for question in found.open]
    lines += [
        "",
        "The mapping that the names propose (save it, change it, give it with --map):",
        encoded(found.mapping),
    ]
    return "\n".join(lines).rstrip()


def plain(found: Inspection) -> dict[str, Any]:
    """Return the inspection as what the json module writes."""
    return {
        "log": found.source,
        "rows": found.rows,
        "series": [
            {"name": one.name, "numbers": one.count, "first": or_none(one.first), "last": or_none(one.last)}
            for one in found.series
        ],
        "not_numbers": list(found.unread),
        "mapping": dict(found.mapping),
        "open": list(found.open),
        "notes": list(found.notes),
        "file": Path(found.source).name,
    }


def or_none(value: float) -> float | None:
    """Return a number, None in place of NaN, which JSON does not have."""
    return None if np.isnan(value) else value
