"""From named columns to a `Log`: which column is which task's loss, norm, inner product or weight.

The user says what the columns are called by patterns in which a `*` stands for the task's name:

1. The losses' pattern is matched against every column. What its `*` captures, in the file's order, are
   the tasks.
2. The patterns of the norms and the weights must then find exactly these tasks, in any order; that of the
   Gram matrix, which has two `*`, every pair of them, once or in both orders; that of the draws every task
   with the positions 0, 1, 2 and so on.
3. The numbers are put into arrays with a row a step and the tasks in the losses' order.

In place of a pattern there may be a mapping from the tasks' names to the columns'; for the Gram matrix and the draws
from a task to a mapping of the other tasks, or of the positions. Rows are then brought into the order of the run
(`mtlref.audit.steps`).

A pattern that the user did not give has a default, and what it doesn't find is absent. A pattern that the
user did give must find something. In an NPZ, arrays named `losses`, `norms`, `gram`, `weights` and `draws` may
hold all tasks at once, where no pattern is given; the tasks are then called 0, 1, 2 and so on.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtlref.audit.charts import RANGES
from mtlref.audit.precision import Precision, precisions, unit_of
from mtlref.audit.spool import copied, gathered
from mtlref.audit.steps import in_order
from mtlref.audit.tables import USUAL, Layout, Table, Wanted, broken, listed, quoted, read_table
from mtlref.notation import Array, LogError

DEFAULTS = {
    "losses": "loss/*",
    "norms": "norm/*",
    "gram": "gram/*/*",
    "weights": "weight/*",
    "draws": "draw/*/*",
}
"""The patterns that are used where the user gives none."""

LARGEST_STEP = 2.0**53
"""Up to here every whole number is a float64."""


Given = str | Mapping[str, object] | None
"""What the user says of one kind of columns: a pattern, a mapping, or nothing."""


@dataclass(frozen=True)
class Pattern:
    """What the columns of one kind are called, and whether the user said so."""

    kind: str
    text: str
    given: bool
    regex: re.Pattern[str]
    columns: Mapping[tuple[str, ...], str] | None = None

    def matches(self, table: Table) -> list[str]:
        """Return the table's columns that the pattern matches, in the file's order."""
        return [name for name in table.names if self.finds(name)]

    def finds(self, name: str) -> bool:
        """Return whether a column is one of this kind."""
        return self.regex.fullmatch(name) is not None

    def name(self, *tasks: str) -> str:
        """Return the name of the column of a task, or of two."""
        if self.columns is not None:
            return self.columns.get(tasks, f"the column of {', '.join(tasks)}")
        pieces = self.text.split("*")
        return "".join(piece + task for piece, task in zip(pieces, (*tasks, ""), strict=True))


@dataclass(frozen=True)
class Log:
    """A training run's log: N rows, K tasks.

    `rows` are the steps' or epochs' numbers, from a column `step` or `epoch` if there is one, else 0 to N-1.
    `lines` are the rows' places in the file, counted from 1: line numbers, or entries in an NPZ. `norms`,
    `gram` and `weights` are None where the log has none. `unit` is the unit roundoff of what was logged: that
    of float32 if every loss, norm and weight is exactly a float32, else that of float64; `precision` what the losses,
    norms and weights may be off by. `epochs` is the
    column `epoch`, whether or not there is a column `step` as well, fractions and all; None without one. `draws`
    (N, K, P) are a random method's draws, None if the log has none. `notes` say what of the file was not read.
    A number that was not logged, or is not finite, is NaN or an infinity. `starts` are the rows at which the
    numbering begins anew, the first row among them; `stride` is by how much the steps grow from row to row. `late`:
    the run began before the log does, so that what its method remembers of it is not known. `readings`: what its
    numbers were taken to be (`mtlref.audit.readings`).
    """

    source: str
    tasks: tuple[str, ...]
    rows: NDArray[np.int64]
    lines: NDArray[np.int64]
    losses: Array
    norms: Array | None
    gram: Array | None
    weights: Array | None
    unit: float
    precision: Mapping[str, Precision]
    epochs: Array | None
    draws: Array | None = None
    notes: tuple[str, ...] = ()
    starts: tuple[int, ...] = (0,)
    stride: int = 1
    late: bool = False
    readings: tuple[str, ...] = ()


def read_log(
    path: str | os.PathLike[str],
    *,
    losses: Given = None,
    norms: Given = None,
    gram: Given = None,
    weights: Given = None,
    draws: Given = None,
    layout: Layout = USUAL,
) -> Log:
    """Return the log at `path`, a .csv, .jsonl, .ndjson or .npz file, or TensorBoard's. None was not given.

    Errors: LogError, whatever is wrong with the file or with the patterns.
    """
    source = os.fspath(path)
    given = zip(DEFAULTS, (losses, norms, gram, weights, draws), strict=True)
    patterns = {kind: pattern(source, kind, text) for kind, text in given}
    table = without_ranges(read_table(path, wanted_by(source, patterns, layout), layout))
    tasks = task_names(table, patterns["losses"])
    loss_values = task_columns(table, patterns["losses"], tasks)
    if loss_values is None:
        raise nothing_matches(table, patterns["losses"])
    held = {
        "losses": loss_values,
        "norms": task_columns(table, patterns["norms"], tasks),
        "gram": gram_matrices(table, patterns["gram"], tasks),
        "weights": task_columns(table, patterns["weights"], tasks),
    }
    counted, epochs = numbering(table, layout)
    unit = unit_of(*held.values())
    log = Log(
        source=source,
        tasks=tasks,
        rows=np.arange(len(loss_values), dtype=np.int64) if counted is None else counted,
        lines=table.lines,
        **held,  # type: ignore[arg-type]
        unit=unit,
        precision=precisions({kind: loss_values[:0] if v is None else v for kind, v in held.items()}, unit),
        epochs=epochs,
        draws=orders(table, patterns["draws"], tasks),
        notes=table.notes,
    )
    return log if counted is None else in_order(log)


def wanted_by(source: str, patterns: Mapping[str, Pattern], layout: Layout) -> Wanted:
    """Return what says of a column's name whether it is read: found by a pattern, or one that numbers the rows."""
    stacked = {p.kind for p in patterns.values() if not p.given} if Path(source).suffix.lower() == ".npz" else set()
    counts = {*layout.steps, *layout.epochs}
    return lambda name: name in counts or name in stacked or any(p.finds(name) for p in patterns.values())


def numbering(table: Table, layout: Layout) -> tuple[NDArray[np.int64] | None, Array | None]:
    """Return the rows' numbers and their epochs, None without a column. Errors: LogError if a named one is none."""
    for name in (layout.step, layout.epoch):
        if name is not None and name not in table.columns:
            message = f"has no column {quoted(name)}; the columns are {listed(table.names)}"
            raise broken(table.source, message, column=name)
    step, epoch = (first_of(table, names) for names in (layout.steps, layout.epochs))
    counting = step or epoch
    return (
        None if counting is None else whole_numbers(table, counting),
        None if epoch is None else copied(column(table, epoch)),
    )


def part(log: Log, start: int, stop: int) -> Log:
    """Return the rows from `start` up to `stop` as a log of their own, of one run."""
    names = ("rows", "lines", "losses", "norms", "gram", "weights", "epochs", "draws")
    held = {name: getattr(log, name) for name in names}
    cut: dict[str, Any] = {name: None if values is None else values[start:stop] for name, values in held.items()}
    return replace(log, **cut, starts=(0,), late=log.late and start == 0)


# COLUMNS


def pattern(source: str, kind: str, text: Given) -> Pattern:
    """Return the pattern of one kind of columns, the default if `text` is None. Errors: LogError."""
    stars = 2 if kind in ("gram", "draws") else 1
    if isinstance(text, Mapping):
        return mapped(source, kind, text, stars)
    used = DEFAULTS[kind] if text is None else text
    if used.count("*") != stars:
        message = f"the pattern for {kind} needs {stars} '*', for the task's name; it is {quoted(used)}"
        raise broken(source, message, column=used)
    regex = re.compile("(.+)".join(re.escape(piece) for piece in used.split("*")), re.DOTALL)
    return Pattern(kind, used, text is not None, regex)


def mapped(source: str, kind: str, given: Mapping[str, object], depth: int) -> Pattern:
    """Return what a mapping says: task → column, or task → (task or position → column). Errors: LogError."""
    entries: list[tuple[tuple[str, ...], object]] = [((task,), value) for task, value in given.items()]
    if depth == 2:
        entries = [
            ((*tasks, other), value)
            for tasks, inner in entries
            for other, value in (inner.items() if isinstance(inner, Mapping) else [("", inner)])
        ]
    columns: dict[tuple[str, ...], str] = {}
    for tasks, value in entries:
        if not isinstance(value, str) or not all(tasks):
            what = "columns" if depth == 1 else "tasks, and these to columns"
            raise broken(source, f"the mapping for {kind} must map tasks to {what}; {quoted(value)} is there")
        columns[tasks] = value
    if not columns or len(set(columns.values())) < len(columns):
        raise broken(source, f"the mapping for {kind} must name columns, and none of them twice")
    regex = re.compile("|".join(map(re.escape, columns.values())))
    return Pattern(kind, f"the mapping for {kind}", True, regex, columns)


def first_of(table: Table, names: tuple[str, ...]) -> str | None:
    """Return the first of `names` that is a column."""
    return next((name for name in names if name in table.columns), None)


def without_ranges(table: Table) -> Table:
    """Return the table without a tracker's columns of smallest and largest values beside a series' own."""
    known = set(table.names)
    extra = {f"{name}{ending}" for name in known for ending in RANGES} & known
    if not extra:
        return table
    columns = {name: values for name, values in table.columns.items() if name not in extra}
    return replace(table, names=tuple(name for name in table.names if name not in extra), columns=columns)


def task_names(table: Table, of_losses: Pattern) -> tuple[str, ...]:
    """Return the tasks: what the losses' pattern captures, or 0 to K-1 for stacked losses."""
    stacked = stack(table, of_losses, 2)
    if stacked is not None:
        return tuple(str(task) for task in range(stacked.shape[1]))
    if of_losses.columns is not None:
        return tuple(task for (task,) in of_losses.columns)
    found = (of_losses.regex.fullmatch(name) for name in table.names)
    return tuple(match[1] for match in found if match)


def stack(table: Table, of: Pattern, axes: int) -> Array | None:
    """Return an NPZ's array of one kind that holds all tasks at once, with `axes` axes, or None."""
    values = None if of.given else table.columns.get(of.kind)
    if values is None or table.place != "entry":
        return None
    single = of.matches(table)
    if single:
        message = f"has the array {quoted(of.kind)} and the columns {listed(single)} as well; give a pattern"
        raise broken(table.source, message, column=of.kind)
    if values.ndim != axes or 0 in values.shape:
        shape = "(N, K)" if axes == 2 else "(N, K, P)" if of.kind == "draws" else "(N, K, K)"
        message = f"array {quoted(of.kind)} must have the shape {shape}; it is {values.shape}"
        raise broken(table.source, message, column=of.kind)
    return values


def task_columns(table: Table, of: Pattern, tasks: tuple[str, ...]) -> Array | None:
    """Return the values of one kind as (N, K), in the order of `tasks`; None if the log has none."""
    stacked = stack(table, of, 2)
    if stacked is not None:
        if stacked.shape[1] != len(tasks):
            message = f"array {quoted(of.kind)} has {stacked.shape[1]} tasks, the losses {len(tasks)}"
            raise broken(table.source, message, column=of.kind)
        return stacked
    found = of.matches(table)
    if not found and of.given:
        raise nothing_matches(table, of)
    if not found:
        return None
    expected = [of.name(task) for task in tasks]
    there, known = set(found), set(expected)
    missing = [task for task, name in zip(tasks, expected, strict=True) if name not in there]
    refuse(table, of, missing, [name for name in found if name not in known])
    return gathered([column(table, name) for name in expected])


def gram_matrices(table: Table, of: Pattern, tasks: tuple[str, ...]) -> Array | None:
    """Return the Gram matrices as (N, K, K), from one half or both; None if the log has none."""
    stacked = stack(table, of, 3)
    if stacked is not None:
        if stacked.shape[1:] != (len(tasks), len(tasks)):
            message = f"array 'gram' must have the shape (N, {len(tasks)}, {len(tasks)}); it is {stacked.shape}"
            raise broken(table.source, message, column=of.kind)
        refuse_asymmetry(table, stacked, stacked.transpose(0, 2, 1), "array 'gram'")
        return stacked
    found = set(of.matches(table))
    if not found and of.given:
        raise nothing_matches(table, of)
    if not found:
        return None
    pairs = {of.name(first, second): (first, second) for first in tasks for second in tasks}
    if len(pairs) < len(tasks) ** 2:
        raise broken(table.source, f"the pattern {quoted(of.text)} gives two pairs of tasks the same name")
    missing = [
        f"{first}, {second}"
        for at, first in enumerate(tasks)
        for second in tasks[at:]
        if not found & {of.name(first, second), of.name(second, first)}
    ]
    refuse(table, of, missing, [name for name in of.matches(table) if name not in pairs])
    gram = np.empty((len(table.lines), len(tasks), len(tasks)))
    for name, (first, second) in pairs.items():
        mirrored = of.name(second, first)
        if name in found and mirrored in found:
            both = f"columns {quoted(name)} and {quoted(mirrored)}"
            refuse_asymmetry(table, column(table, name), column(table, mirrored), both)
        gram[:, tasks.index(first), tasks.index(second)] = column(table, name if name in found else mirrored)
    return gram


def orders(table: Table, of: Pattern, tasks: tuple[str, ...]) -> Array | None:
    """Return the draws as (N, K, P): row i is the order in which task i meets others; None if the log has none."""
    stacked = stack(table, of, 3)
    if stacked is not None:
        return stacked
    found = set(of.matches(table))
    if not found and of.given:
        raise nothing_matches(table, of)
    if not found:
        return None
    P = len(found) // len(tasks)
    expected = [of.name(task, str(position)) for task in tasks for position in range(P)]
    known = set(expected)
    refuse(table, of, [name for name in expected if name not in found], sorted(found - known))
    if not P:
        raise broken(table.source, f"the pattern for draws, {quoted(of.text)}, finds fewer columns than tasks")
    return gathered([column(table, name) for name in expected]).reshape(-1, len(tasks), P)


def column(table: Table, name: str) -> Array:
    """Return one column as (N,). Errors: LogError if an NPZ's array has more axes."""
    values = table.columns[name]
    if values.ndim != 1:
        message = f"array {quoted(name)} must have one axis, the steps; its shape is {values.shape}"
        raise broken(table.source, message, column=name)
    return values


def whole_numbers(table: Table, name: str) -> NDArray[np.int64] | None:
    """Return a column that counts, as (N,); None if there is none. Errors: LogError if it does not count."""
    if name not in table.columns:
        return None
    values = copied(column(table, name))
    bad = np.flatnonzero((values != np.floor(values)) | (np.abs(values) > LARGEST_STEP))
    if len(bad):
        row = int(bad[0])
        where = f"{table.place} {table.lines[row]}, column {quoted(name)}"
        message = f"{where}: {float(values[row])!r} is not a whole number up to 2^53"
        raise broken(table.source, message, column=name, value=float(values[row]))
    return values.astype(np.int64)


# REFUSALS


def nothing_matches(table: Table, of: Pattern) -> LogError:
    """Return the error that a pattern finds no column."""
    from mtlref.audit.inspection import hint

    columns = f"the columns are {listed(table.names)}"
    message = f"no column matches {quoted(of.text)}, the pattern for {of.kind}; {columns}"
    return broken(table.source, f"{message} {hint(table.names)}", column=of.text)


def refuse(table: Table, of: Pattern, missing: list[str], extra: list[str]) -> None:
    """Raise LogError if columns of one kind are missing for some tasks, or belong to none."""
    parts = [f"lacks {listed(missing)}"] * bool(missing) + [f"has {listed(extra)} of no task"] * bool(extra)
    if parts:
        message = f"the pattern for {of.kind}, {quoted(of.text)}, {' and '.join(parts)}"
        raise broken(table.source, f"{message}; the tasks are those of the losses", column=(missing or extra)[0])


def refuse_asymmetry(table: Table, one: Array, other: Array, what: str) -> None:
    """Raise LogError at the first row in which the two halves of a Gram matrix differ."""
    differ = np.argwhere(one != other)
    if len(differ):
        at = tuple(differ[0])
        values = f"{float(one[at])!r} and {float(other[at])!r}"
        where = f"{table.place} {table.lines[at[0]]}"
        raise broken(table.source, f"{where}: {what} must be symmetric, and {values} differ", column="gram")
