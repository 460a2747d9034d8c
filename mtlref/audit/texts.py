"""From a text file to named columns: CSV, read as a stream; and the lines of any text file.

A run that was killed leaves a last line that is cut short: it has no line end, and may lack cells, or the rest of its
last number. Such a line is left out, and the table's `notes` say so. A JSON line shows whether it is whole; a CSV's
last line without an end does not, and is left out unless it is the only row.

A cell that is empty, or `null`, is a number that was not logged: NaN, as is one that says nan.

A table is long where it has a row a number: one column holds the series' name, another the value. It is taken for one
where it has columns of just these names and none that the patterns find; or where the user said so.
"""

from __future__ import annotations

import csv
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import BinaryIO

import numpy as np

from mtlref.audit.series import Series
from mtlref.audit.spool import BLOCK, Spool
from mtlref.audit.tables import (
    LINE_LIMIT,
    Layout,
    Table,
    Wanted,
    broken,
    listed,
    open_file,
    quoted,
    refuse_duplicates,
)
from mtlref.notation import Array

NAMES, VALUES = ("name", "tag", "key", "metric", "series"), ("value", "scalar")
"""What trackers call the two columns of a long table, in any case."""

NUMBER = re.compile(r"[ \t]*[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?[ \t]*")
"""What a number looks like in a cell. It leaves out what float() also takes: 1_000, nan, inf."""

QUOTED = re.compile(r'"(?:[^"]|"")*"')
"""A quoted cell."""

PLAIN = re.compile(r"[0-9eE+\-. ,]*")
"""What any number of cells, joined with commas, is made of if all of them are numbers."""

NOT_NUMBERS = {"": np.nan, "nan": np.nan, "inf": np.inf, "infinity": np.inf}
"""What a cell may say, apart from its sign, where there is no finite number."""


# LINES


class Lines:
    """The lines of a UTF-8 file with their ends, without a byte order mark.

    The last line is kept back if it has no end: `cut` holds its number and text, which is ours to judge.
    """

    def __init__(self, source: str, file: BinaryIO) -> None:
        self.source, self.file = source, file
        self.cut: tuple[int, str] | None = None

    def __iter__(self) -> Iterator[str]:
        number = 0
        while line := self.file.readline(LINE_LIMIT + 1):
            number += 1
            if len(line) > LINE_LIMIT:
                raise broken(self.source, f"line {number} is longer than {LINE_LIMIT} bytes")
            if number == 1:
                line = line.removeprefix(b"\xef\xbb\xbf")
            whole = line.endswith((b"\n", b"\r")) or number == 1
            if b"\0" in line:
                raise broken(self.source, f"line {number} holds a NUL byte; the file is damaged or is not text")
            try:
                text = line.decode("utf-8", "strict" if whole else "ignore")
            except UnicodeDecodeError as error:
                byte = f"0x{line[error.start]:02x} at byte {error.start + 1}"
                raise broken(self.source, f"line {number} is not UTF-8: {byte}") from error
            if not whole:
                self.cut = number, text
                return
            yield text


def left_out(number: int, why: str) -> str:
    """Return the note that the last line is not read."""
    return f"line {number}, the last, {why}: the file may be cut short there, and the line is not read"


# CSV


def read_csv(source: str, file: BinaryIO, wanted: Wanted, layout: Layout) -> Table:
    """Read a CSV: a header, then a row a step, quoted with `"` where need be, separated as the header is."""
    text, notes = Lines(source, file), list[str]()
    lines = iter(text)
    first = next(lines, "")
    mark = separator(first)
    reader = csv.reader(chain([first], lines), strict=True, delimiter=mark)
    try:
        header = next(reader, None)
        if not header:
            raise broken(source, "line 1 is blank; a CSV begins with a header")
        refuse_duplicates(source, header, "line 1")
        long = long_columns(source, header, wanted, layout)
        rows = CSVRows(source, header, wanted) if long is None else LongRows(source, header, wanted, layout, long)
        for cells, numbers in csv_blocks(source, reader, lambda: reader.line_num, len(header)):
            rows.add(cells, numbers)
        if text.cut is not None and text.cut[1].strip():
            number, last = text.cut
            if rows.count:
                notes.append(left_out(number, "has no line end"))
            else:
                for cells, _ in csv_blocks(
                    source, csv.reader([last], strict=True, delimiter=mark), lambda: number, len(header)
                ):
                    rows.add(cells, [number])
    except csv.Error as error:
        raise broken(source, f"line {reader.line_num} is not valid CSV: {error}") from error
    if not rows.count:
        raise broken(source, "has a header and no rows")
    return rows.table(tuple(notes))


def separator(header: str) -> str:
    """Return what separates the cells of a header: the first of comma, semicolon, tab and bar outside of quotes."""
    bare = QUOTED.sub("", header)
    return next((mark for mark in ",;\t|" if mark in bare), ",")


def csv_rows(path: str, width: int, notes: list[str]) -> Iterator[tuple[list[str], int]]:
    """Yield the rows below the header of one CSV of several, comma-separated, with the lines they end on.

    A last row without a line end is left out, and the `notes` say so. Errors: LogError.
    """
    with open_file(path) as file:
        text = Lines(path, file)
        reader = csv.reader(text, strict=True)
        try:
            next(reader)
            for cells, numbers in csv_blocks(path, reader, lambda: reader.line_num, width):
                yield from zip(cells, numbers, strict=True)
        except csv.Error as error:
            raise broken(path, f"line {reader.line_num} is not valid CSV: {error}") from error
    if text.cut is not None:
        notes.append(f"{os.path.basename(path)}: {left_out(text.cut[0], 'has no line end')}")


class CSVRows:
    """The wanted columns of the rows seen so far."""

    def __init__(self, source: str, header: list[str], wanted: Wanted) -> None:
        self.source, self.header = source, header
        self.places = [place for place, name in enumerate(header) if wanted(name)]
        self.values, self.lines = Spool((len(self.places),)), Spool(dtype=np.int64)

    @property
    def count(self) -> int:
        """How many rows were seen."""
        return self.lines.rows

    def add(self, cells: list[list[str]], numbers: list[int]) -> None:
        """Add rows, which end on the lines `numbers`."""
        self.values.append(converted(self.source, self.header, self.places, cells, numbers))
        self.lines.append(numbers)

    def table(self, notes: tuple[str, ...]) -> Table:
        """Return the table."""
        values = self.values.array()
        columns = {self.header[place]: values[:, at] for at, place in enumerate(self.places)}
        return Table(self.source, tuple(self.header), columns, self.lines.array(), "line", notes)


class LongRows:
    """The series of a long table's rows seen so far; `columns` are those of the name and the value."""

    def __init__(
        self, source: str, header: list[str], wanted: Wanted, layout: Layout, columns: tuple[str, str]
    ) -> None:
        self.source, self.count = source, 0
        self.step = numbered(source, header, layout)
        self.series = Series(source, wanted, self.step)
        self.name_at, self.value_at = (header.index(column) for column in columns)
        self.step_at, self.value = header.index(self.step), columns[1]

    def add(self, cells: list[list[str]], numbers: list[int]) -> None:
        """Add rows, which end on the lines `numbers`."""
        self.count += len(cells)
        for row, number in zip(cells, numbers, strict=True):
            name, where = row[self.name_at], f"line {number}"
            if self.series.wants(name):
                step = number_in_cell(self.source, row[self.step_at], where, self.step)
                refuse_step(self.source, step, where, self.step)
                value = number_in_cell(self.source, row[self.value_at], where, self.value)
                self.series.add(name, step, value, number)

    def table(self, notes: tuple[str, ...]) -> Table:
        """Return the table."""
        return self.series.table(notes)


def long_columns(source: str, header: Iterable[str], wanted: Wanted, layout: Layout) -> tuple[str, str] | None:
    """Return the columns of a long table's names and values, None for a wide one. Errors: LogError."""
    if (layout.name is None) != (layout.value is None):
        raise broken(source, "a long table has a column of names and one of values; only one of them is given")
    if layout.name is not None and layout.value is not None:
        missing = [column for column in (layout.name, layout.value) if column not in header]
        if missing:
            raise broken(source, f"has no column {listed(missing)}; the columns are {listed(list(header))}")
        return layout.name, layout.value
    names, values = ([c for c in header if c.lower() in known] for known in (NAMES, VALUES))
    numbering = (*layout.steps, *layout.epochs)
    wide = not layout.long and any(wanted(c) for c in header if c not in numbering)
    if len(names) != 1 or len(values) != 1 or wide:
        return None
    return names[0], values[0]


def numbered(source: str, header: Iterable[str], layout: Layout) -> str:
    """Return the column that numbers a long table's rows. Errors: LogError if there is none."""
    found = next((column for column in (*layout.steps, *layout.epochs) if column in header), None)
    if found is None:
        raise broken(source, "a long table needs a column of steps: which numbers belong together is not said")
    return found


def refuse_step(source: str, step: float, where: str, column: str) -> None:
    """Raise LogError for a step that is no number."""
    if not math.isfinite(step):
        raise broken(source, f"{where}, column {quoted(column)}: the step is {step}", column=column, value=step)


def csv_blocks(
    source: str, reader: Iterator[list[str]], line: Callable[[], int], width: int
) -> Iterator[tuple[list[list[str]], list[int]]]:
    """Yield up to `BLOCK` rows at a time with the lines they end on; blank lines are no rows."""
    rows: list[list[str]] = []
    numbers: list[int] = []
    for row in reader:
        if not row:
            continue
        if len(row) != width:
            raise broken(source, f"line {line()} has {len(row)} cells, the header has {width}")
        rows.append(row)
        numbers.append(line())
        if len(rows) * width >= BLOCK * 32 or len(rows) == BLOCK:
            yield rows, numbers
            rows, numbers = [], []
    if rows:
        yield rows, numbers


def converted(source: str, header: list[str], places: list[int], rows: list[list[str]], numbers: list[int]) -> Array:
    """Return the cells of `rows` at `places` as float64; look at single cells only where they are not all numbers."""
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
    """Return the number that a cell's text is, NaN for none. Errors: LogError with the line and the column."""
    at = f"{where}, column {quoted(column)}"
    if NUMBER.fullmatch(cell) is None:
        words = cell.strip().lower()
        value = NOT_NUMBERS.get(words.lstrip("+-"))
        if value is None or (len(words) - len(words.lstrip("+-"))) > bool(words.lstrip("+-")):
            raise broken(source, f"{at}: {quoted(cell)} is not a number", column=column, value=cell)
        return -value if words.startswith("-") else value
    value = float(cell)
    if not np.isfinite(value):
        raise broken(source, f"{at}: {quoted(cell)} is too large for a float64", column=column, value=cell)
    return value
