"""From a file to named columns of numbers: CSV, JSON Lines, either of them packed by gzip, NPZ, TensorBoard's events.

`read_table` chooses the reader by the file's name. Each reader works in the same order:

1. It learns the names of the columns: a CSV's header, the first object's keys, the archive's members.
2. It asks `wanted` which of them matter. The rest is never converted, so a column of run names or an
   empty cell in an unrelated column does no harm.
3. It converts the wanted columns to float64, block by block. What was not logged, or is not finite, is let
   through as it is: the rows before and after it can still be judged.

A file that is broken, cut short or made to hurt gives one LogError whose message is one line: the file as
the caller named it, the line, the column, the value. Nothing in a file is ever executed: NPZ members are
decoded from their header and bytes, and a pickled array is refused before it is read.

Sizes are bounded before anything is allocated: a line by `LINE_LIMIT`, an archive's members, by what its
directory says they unpack to, by `ARCHIVE_LIMIT`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from mtlref.notation import Array, LogError

LINE_LIMIT = 1 << 22
"""The longest line of a text log, in bytes: 4 MiB."""

Wanted = Callable[[str], bool]
"""Says of a column's name whether the column matters."""

EVENTS = "tfevents"
"""What the name of a file of TensorBoard's holds."""

EXPORT = ("Wall time", "Step", "Value")
"""The header of one series that was downloaded from TensorBoard; a folder of them is a log."""

DOWNLOADS, CHARTS = "a folder of downloads", "a folder of charts"
"""What such a folder is, where another log has its ending, and one of Weights & Biases' charts."""

ENDINGS = (".csv", ".jsonl", ".ndjson", ".npz")
"""What the names of other logs end in; the text files among them also with `.gz` behind it."""


@dataclass(frozen=True)
class Layout:
    """How a file is laid out, as far as the user said so: None is what is found by its usual name.

    `step`, `epoch`: the columns that number the rows. `name`, `value`: those of a long table, with a row a number;
    `long`: what looks like one is one, whatever the patterns find.
    """

    step: str | None = None
    epoch: str | None = None
    name: str | None = None
    value: str | None = None
    long: bool = False

    @property
    def steps(self) -> tuple[str, ...]:
        """The columns that may number the rows, the first that there is."""
        return STEPS if self.step is None else (self.step,)

    @property
    def epochs(self) -> tuple[str, ...]:
        """The columns that may number the epochs, the first that there is."""
        return EPOCHS if self.epoch is None else (self.epoch,)


STEPS = ("step", "_step", "Step", "global_step", "trainer/global_step", "iteration")
"""What trackers call the column that numbers the steps."""

USUAL = Layout()
"""The layout of which nothing was said."""

EPOCHS = ("epoch", "Epoch", "trainer/epoch")
"""What trackers call the column that numbers the epochs; it numbers the rows where no other column does."""


@dataclass(frozen=True)
class Table:
    """The wanted columns of a log.

    `names` are all columns' names in the file's order, `columns` the values of the wanted ones, in that order
    too; in an NPZ a column may have more than one axis. `lines` says where each row stands in the file,
    counted from 1, in what `place` calls it: a line, or an entry of the arrays. `notes`: what was left out.
    """

    source: str
    names: tuple[str, ...]
    columns: Mapping[str, Array]
    lines: NDArray[np.int64]
    place: str
    notes: tuple[str, ...] = ()


def read_table(path: str | os.PathLike[str], wanted: Wanted, layout: Layout = USUAL) -> Table:
    """Return the wanted columns of the log at `path`. Errors: LogError."""
    from mtlref.audit.archives import read_npz
    from mtlref.audit.charts import read_charts
    from mtlref.audit.events import read_events
    from mtlref.audit.exports import read_exports
    from mtlref.audit.gunzip import unpacked
    from mtlref.audit.objects import read_json_lines
    from mtlref.audit.texts import read_csv

    source = os.fspath(path)
    packed, ending = kind_of(source)
    readers = {".csv": read_csv, ".jsonl": read_json_lines, ".ndjson": read_json_lines}
    try:
        if ending == EVENTS:
            return read_events(source, wanted)
        if ending == DOWNLOADS:
            return read_exports(source, wanted)
        if ending == CHARTS:
            return read_charts(source, wanted)
        with open_file(source) as file:
            if ending == ".npz":
                return read_npz(source, file, wanted)
            if not packed:
                return readers[ending](source, file, wanted, layout)
            stream, cut = unpacked(source, file)
            table = readers[ending](source, stream, wanted, layout)
            return replace(table, notes=(*table.notes, BROKEN_OFF)) if cut() else table
    except OSError as error:
        raise broken(source, f"cannot be read: {error.strerror or error}") from error


BROKEN_OFF = "the packed file breaks off, and is read as far as it goes"
"""The note on a gzip stream without its end."""


def kind_of(source: str) -> tuple[bool, str]:
    """Return whether a log is packed by gzip, and the ending that says what it is. Errors: LogError."""
    from mtlref.audit.charts import charts_in

    name = Path(source).name.lower()
    if EVENTS in name or event_files(source):
        return False, EVENTS
    if export_files(source):
        return False, DOWNLOADS
    if charts_in(source):
        return False, CHARTS
    packed = name.endswith(".gz")
    ending = Path(name.removesuffix(".gz")).suffix
    if ending not in ENDINGS or (packed and ending == ".npz"):
        known = f"{', '.join(ENDINGS)}, the text files also with .gz behind it"
        raise broken(source, f"a log ends in {known}; this one ends in {quoted(Path(name).suffix)}")
    return packed, ending


def is_log(name: str) -> bool:
    """Return whether a file's name is that of a log."""
    try:
        kind_of(name)
    except LogError:
        return False
    return True


def listed_files(source: str) -> list[str]:
    """Return the paths of what a directory holds, sorted; of another file none."""
    try:
        names = os.listdir(source) if os.path.isdir(source) else []
    except (OSError, ValueError):
        return []
    return [os.path.join(source, name) for name in sorted(names)]


def event_files(source: str) -> list[str]:
    """Return the files of TensorBoard's in a directory, in the order of their names, which begin with the time."""
    return [path for path in listed_files(source) if EVENTS in os.path.basename(path).lower()]


def export_files(source: str) -> list[str]:
    """Return the series that were downloaded from TensorBoard into a directory, sorted."""
    return [path for path in listed_files(source) if is_export(path)]


def is_export(path: str) -> bool:
    """Return whether a file is one such series."""
    if not path.lower().endswith(".csv") or not os.path.isfile(path):
        return False
    try:
        with open(path, "rb") as file:
            first = file.readline(64)
    except OSError:
        return False
    cells = first.decode("utf-8-sig", "replace").strip().replace('"', "").split(",")
    return tuple(cells) == EXPORT


# MESSAGES


def broken(source: str, message: str, column: str | None = None, value: object = None) -> LogError:
    """Return the LogError that says what is wrong with `source`, on one line whatever is in the names."""
    name = source if source.isprintable() else ascii(source)
    return LogError(f"{name}: {' '.join(message.split())}", argument=column, value=value)


def quoted(value: object, length: int = 60) -> str:
    """Return `value` in ASCII quotes on one line, cut to about `length` characters."""
    text = ascii(value[: length + 1] if isinstance(value, str) else value)
    return text if len(text) <= length + 2 else f"{text[:length]}..."


def listed(names: Sequence[str], count: int = 6) -> str:
    """Return the first few of `names`, quoted, and how many more there are."""
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return (", ".join(quoted(name) for name in names[:count]) or "none") + more


# FILES


def open_file(source: str) -> BinaryIO:
    """Return the regular file `source`, open for reading bytes. Errors: LogError, OSError."""
    path = Path(source)
    try:
        if path.is_dir():
            raise broken(source, "is a directory, not a log")
        if not path.exists():
            raise broken(source, "there is no such file")
        if not path.is_file():
            raise broken(source, "is not a regular file")
    except ValueError as error:
        if isinstance(error, LogError):
            raise
        raise broken(source, "there is no such file") from error
    file = path.open("rb")
    if os.fstat(file.fileno()).st_size == 0:
        file.close()
        raise broken(source, "is empty")
    return file


def refuse_duplicates(source: str, names: Sequence[str], where: str) -> None:
    """Raise LogError if a name occurs twice."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise broken(source, f"{where} names the column {quoted(name)} twice", column=name)
        seen.add(name)
