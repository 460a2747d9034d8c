"""From a file to named columns of numbers: CSV, JSON Lines and NPZ.

`read_table` chooses the reader by the file's ending. Each reader works in the same order:

1. It learns the names of the columns: a CSV's header, the first object's keys, the archive's members.
2. It asks `wanted` which of them matter. The rest is never converted, so a column of run names or an
   empty cell in an unrelated column does no harm.
3. It converts the wanted columns to float64, and refuses what is not a finite number.

A file that is broken, cut short or made to hurt gives one LogError whose message is one line: the file as
the caller named it, the line, the column, the value. Nothing in a file is ever executed: NPZ members are
decoded from their header and bytes, and a pickled array is refused before it is read.

Sizes are bounded before anything is allocated: a line by `LINE_LIMIT`, an archive's members, by what its
directory says they unpack to, by `ARCHIVE_LIMIT`.
"""

from __future__ import annotations

import csv
import json
import math
import os
import re
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from mtlref.notation import Array, LogError

LINE_LIMIT = 1 << 22
"""The longest line of a text log, in bytes: 4 MiB."""

BLOCK = 4096
"""How many rows of a CSV are converted at once."""

LARGEST_DEPTH = 16
"""How deep the objects and lists of a JSON line may be nested."""

NUMBER = re.compile(r"[ \t]*[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?[ \t]*")
"""What a number looks like in a cell. It leaves out what float() also takes: 1_000, nan, inf."""

PLAIN = re.compile(r"[0-9eE+\-. ,]*")
"""What any number of cells, joined with commas, is made of if all of them are numbers."""

Wanted = Callable[[str], bool]
"""Says of a column's name whether the column matters."""


@dataclass(frozen=True)
class Table:
    """The wanted columns of a log.

    `names` are all columns' names in the file's order, `columns` the values of the wanted ones, in that order
    too; in an NPZ a column may have more than one axis. `lines` says where each row stands in the file,
    counted from 1, in what `place` calls it: a line, or an entry of the arrays.
    """

    source: str
    names: tuple[str, ...]
    columns: Mapping[str, Array]
    lines: NDArray[np.int64]
    place: str


def read_table(path: str | os.PathLike[str], wanted: Wanted) -> Table:
    """Return the wanted columns of the log at `path`. Errors: LogError."""
    from mtlref.audit.archives import read_npz

    source = os.fspath(path)
    suffix = Path(source).suffix.lower()
    readers = {".csv": read_csv, ".jsonl": read_json_lines, ".ndjson": read_json_lines, ".npz": read_npz}
    if suffix not in readers:
        raise broken(source, f"a log ends in {', '.join(readers)}; this one ends in {quoted(suffix)}")
    try:
        with open_file(source) as file:
            return readers[suffix](source, file, wanted)
    except OSError as error:
        raise broken(source, f"cannot be read: {error.strerror or error}") from error


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


def text_lines(source: str, file: BinaryIO) -> Iterator[str]:
    """Yield the lines of a UTF-8 file with their ends, without a byte order mark."""
    number = 0
    while line := file.readline(LINE_LIMIT + 1):
        number += 1
        if len(line) > LINE_LIMIT:
            raise broken(source, f"line {number} is longer than {LINE_LIMIT} bytes")
        if number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")
        if b"\0" in line:
            raise broken(source, f"line {number} holds a NUL byte; the file is damaged or is not text")
        try:
            yield line.decode("utf-8")
        except UnicodeDecodeError as error:
            byte = f"0x{line[error.start]:02x} at byte {error.start + 1}"
            raise broken(source, f"line {number} is not UTF-8: {byte}") from error


def refuse_duplicates(source: str, names: Sequence[str], where: str) -> None:
    """Raise LogError if a name occurs twice."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise broken(source, f"{where} names the column {quoted(name)} twice", column=name)
        seen.add(name)


# CSV


def read_csv(source: str, file: BinaryIO, wanted: Wanted) -> Table:
    """Read a CSV: a header, then a row a step, comma-separated, quoted with `"` where need be."""
    reader = csv.reader(text_lines(source, file), strict=True)
    try:
        header = next(reader, None)
        if not header:
            raise broken(source, "line 1 is blank; a CSV begins with a header")
        refuse_duplicates(source, header, "line 1")
        places = [place for place, name in enumerate(header) if wanted(name)]
        blocks, lines = [], array("q")
        for cells, numbers in csv_blocks(source, reader, lambda: reader.line_num, len(header)):
            blocks.append(converted(source, header, places, cells, numbers))
            lines.extend(numbers)
    except csv.Error as error:
        raise broken(source, f"line {reader.line_num} is not valid CSV: {error}") from error
    if not blocks:
        raise broken(source, "has a header and no rows")
    values = np.concatenate(blocks)
    columns = {header[place]: values[:, at] for at, place in enumerate(places)}
    return Table(source, tuple(header), columns, np.array(lines, dtype=np.int64), "line")


def csv_blocks(
    source: str, reader: Iterator[list[str]], line: Callable[[], int], width: int
) -> Iterator[tuple[list[list[str]], list[int]]]:
    """Yield up to `BLOCK` rows at a time with the lines they end on; blank lines are no rows."""
    rows: list[list[str]] = []
    numbers: list[int] = []
    for row in reader:
        if not row:
            continue
        number = line()
        if len(row) != width:
            last = next(reader, None) is None
            hint = "; it is the last line, so the file may be cut short" if last and len(row) < width else ""
            raise broken(source, f"line {number} has {len(row)} cells, the header has {width}{hint}")
        rows.append(row)
        numbers.append(number)
        if len(rows) == BLOCK:
            yield rows, numbers
            rows, numbers = [], []
    if rows:
        yield rows, numbers


def converted(source: str, header: list[str], places: list[int], rows: list[list[str]], numbers: list[int]) -> Array:
    """Return the cells of `rows` at `places` as float64; look for the offending cell only if there is one."""
    cells = [row[place] for row in rows for place in places]
    shape = (len(rows), len(places))
    if PLAIN.fullmatch(",".join(cells)):
        try:
            values = np.fromiter(map(float, cells), dtype=np.float64, count=len(cells))
        except ValueError:
            values = np.array([np.nan])
        if np.all(np.isfinite(values)):
            return values.reshape(shape)
    found = [
        number_in_cell(source, cell, f"line {numbers[at // len(places)]}", header[places[at % len(places)]])
        for at, cell in enumerate(cells)
    ]
    return np.array(found, dtype=np.float64).reshape(shape)


def number_in_cell(source: str, cell: str, where: str, column: str) -> float:
    """Return the number that a cell's text is. Errors: LogError with the line and the column."""
    at = f"{where}, column {quoted(column)}"
    if not cell.strip():
        raise broken(source, f"{at}: the cell is empty", column=column, value=cell)
    if NUMBER.fullmatch(cell) is None:
        words = cell.strip().lower().lstrip("+-")
        kind = "a finite number" if words in ("nan", "inf", "infinity") else "a number"
        raise broken(source, f"{at}: {quoted(cell)} is not {kind}", column=column, value=cell)
    value = float(cell)
    if not np.isfinite(value):
        raise broken(source, f"{at}: {quoted(cell)} is too large for a float64", column=column, value=cell)
    return value


# JSON LINES


def read_json_lines(source: str, file: BinaryIO, wanted: Wanted) -> Table:
    """Read JSON Lines: an object a line; nested objects and lists are flattened with `/`."""
    names: tuple[str, ...] = ()
    chosen: list[str] = []
    decided: dict[str, bool] = {}
    values, lines = array("d"), array("q")
    for number, line in enumerate(text_lines(source, file), start=1):
        if not line.strip():
            continue
        flat = flattened(source, parsed(source, line, f"line {number}"), f"line {number}")
        decided.update({name: wanted(name) for name in flat.keys() - decided.keys()})
        here = [name for name in flat if decided[name]]
        if not lines:
            names, chosen = tuple(flat), here
        elif here != chosen and set(here) != set(chosen):
            raise inconsistent(source, number, here, chosen)
        values.extend([number_in_json(source, flat[name], number, name) for name in chosen])
        lines.append(number)
    if not lines:
        raise broken(source, "has no rows")
    table = np.array(values, dtype=np.float64).reshape(len(lines), len(chosen))
    columns = {name: table[:, at] for at, name in enumerate(chosen)}
    return Table(source, names, columns, np.array(lines, dtype=np.int64), "line")


def parsed(source: str, text: str, where: str) -> object:
    """Return what the JSON `text` says, objects with distinct keys only. Errors: LogError.

    NaN and infinities are let through, so that the caller can say in which column they stand.
    """
    try:
        return DECODER.decode(text)
    except RecursionError as error:
        raise broken(source, f"{where} is nested too deeply") from error
    except json.JSONDecodeError as error:
        at = f"{error.msg} at character {error.pos + 1}"
        raise broken(source, f"{where} is not valid JSON: {at}") from error
    except ValueError as error:
        raise broken(source, f"{where} is not valid JSON: {error}") from error


def distinct(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Return an object's pairs as a dict. Errors: ValueError if a key occurs twice."""
    result = dict(pairs)
    if len(result) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {quoted(twice)} occurs twice in an object")
    return result


DECODER = json.JSONDecoder(object_pairs_hook=distinct)


def flattened(source: str, document: object, where: str) -> dict[str, object]:
    """Return an object's leaves in order, each under the keys and indices that lead to it, `/` between."""
    if not isinstance(document, dict):
        raise broken(source, f"{where} is not a JSON object", value=document)
    if not any(isinstance(value, dict | list) for value in document.values()):
        return document
    flat: dict[str, object] = {}
    pending: list[tuple[str, object, int]] = [(key, value, 1) for key, value in reversed(document.items())]
    while pending:
        name, value, depth = pending.pop()
        if isinstance(value, dict | list):
            if depth > LARGEST_DEPTH:
                raise broken(source, f"{where} is nested more than {LARGEST_DEPTH} deep")
            inner = value.items() if isinstance(value, dict) else enumerate(value)
            pending.extend((f"{name}/{key}", item, depth + 1) for key, item in reversed(list(inner)))
        elif name in flat:
            raise broken(source, f"{where} names the column {quoted(name)} twice", column=name)
        else:
            flat[name] = value
    return flat


def inconsistent(source: str, number: int, here: list[str], chosen: list[str]) -> LogError:
    """Return the error that a line has other columns than the first row."""
    missing = [name for name in chosen if name not in here]
    extra = [name for name in here if name not in chosen]
    parts = [f"lacks {listed(missing)}"] * bool(missing) + [f"has the new {listed(extra)}"] * bool(extra)
    column = (missing or extra)[0]
    return broken(source, f"line {number} {' and '.join(parts)}, unlike the first row", column=column)


def number_in_json(source: str, value: object, line: int, column: str) -> float:
    """Return a JSON number as a float; true, false, null and text are not numbers."""
    if type(value) is float and math.isfinite(value):
        return value
    at = f"line {line}, column {quoted(column)}"
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise broken(source, f"{at}: {quoted(value)} is not a number", column=column, value=value)
    try:
        number = float(value)
    except OverflowError:
        number = np.inf
    if not np.isfinite(number):
        kind = "is too large for a float64" if isinstance(value, int) else "is not a finite number"
        raise broken(source, f"{at}: {quoted(value)} {kind}", column=column, value=value)
    return number
