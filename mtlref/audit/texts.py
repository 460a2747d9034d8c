"""From a text file to named columns: CSV and JSON Lines, read as a stream.

A run that was killed leaves a last line that is cut short: it has no line end, and may lack cells, or the rest of its
last number. Such a line is left out, and the table's `notes` say so. A JSON line shows whether it is whole; a CSV's
last line without an end does not, and is left out unless it is the only row.

A cell that is empty, or `null`, is a number that was not logged: NaN, as is one that says nan.
"""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Callable, Iterator
from typing import BinaryIO

import numpy as np

from mtlref.audit.spool import BLOCK, Spool, spans
from mtlref.audit.tables import LINE_LIMIT, Table, Wanted, broken, quoted, refuse_duplicates
from mtlref.notation import Array, LogError

LARGEST_DEPTH = 16
"""How deep the objects and lists of a JSON line may be nested."""

TABLE_LIMIT = 1 << 33
"""The most bytes that a table of JSON lines may take, which may each name other columns: 8 GiB."""

NUMBER = re.compile(r"[ \t]*[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?[ \t]*")
"""What a number looks like in a cell. It leaves out what float() also takes: 1_000, nan, inf."""

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


def read_csv(source: str, file: BinaryIO, wanted: Wanted) -> Table:
    """Read a CSV: a header, then a row a step, comma-separated, quoted with `"` where need be."""
    text, notes = Lines(source, file), list[str]()
    reader = csv.reader(text, strict=True)
    lines = Spool(dtype=np.int64)
    try:
        header = next(reader, None)
        if not header:
            raise broken(source, "line 1 is blank; a CSV begins with a header")
        refuse_duplicates(source, header, "line 1")
        places = [place for place, name in enumerate(header) if wanted(name)]
        values = Spool((len(places),))
        for cells, numbers in csv_blocks(source, reader, lambda: reader.line_num, len(header)):
            values.append(converted(source, header, places, cells, numbers))
            lines.append(numbers)
        if text.cut is not None and text.cut[1].strip():
            number, last = text.cut
            if lines.rows:
                notes.append(left_out(number, "has no line end"))
            else:
                for cells, _ in csv_blocks(source, csv.reader([last], strict=True), lambda: number, len(header)):
                    values.append(converted(source, header, places, cells, [number]))
                    lines.append([number])
    except csv.Error as error:
        raise broken(source, f"line {reader.line_num} is not valid CSV: {error}") from error
    if not lines.rows:
        raise broken(source, "has a header and no rows")
    table = values.array()
    columns = {header[place]: table[:, at] for at, place in enumerate(places)}
    return Table(source, tuple(header), columns, lines.array(), "line", tuple(notes))


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


# JSON LINES


def read_json_lines(source: str, file: BinaryIO, wanted: Wanted) -> Table:
    """Read JSON Lines: an object a line; nested objects and lists are flattened with `/`.

    A line may lack columns that others have: it says nothing of them.
    """
    text, rows = Lines(source, file), JSONRows(source, wanted)
    for number, line in enumerate(text, start=1):
        rows.add(number, line)
    if text.cut is not None:
        number, last = text.cut
        try:
            parsed(source, last, "")
        except LogError:
            if rows.lines.rows:
                return rows.table((left_out(number, "is not a whole object"),))
        rows.add(number, last)
    return rows.table(())


class JSONRows:
    """The wanted columns of the lines seen so far; `places` says in which column of `values` each stands."""

    def __init__(self, source: str, wanted: Wanted) -> None:
        self.source, self.wanted = source, wanted
        self.names: dict[str, bool] = {}
        self.places: dict[str, int] = {}
        self.waiting: list[dict[str, float]] = []
        self.values, self.lines = Spool((1,)), Spool(dtype=np.int64)

    def add(self, number: int, line: str) -> None:
        """Add a line; a blank one is no row."""
        if not line.strip():
            return
        where = f"line {number}"
        flat = flattened(self.source, parsed(self.source, line, where), where)
        if flat.keys() - self.names.keys():
            self.names.update({name: self.wanted(name) for name in flat if name not in self.names})
            self.places = {name: at for at, name in enumerate(n for n, here in self.names.items() if here)}
        self.waiting.append(
            {
                name: number_in_json(self.source, value, number, name)
                for name, value in flat.items()
                if self.names[name]
            }
        )
        self.lines.append([number])
        if len(self.waiting) >= min(BLOCK, max(1, BLOCK * 32 // max(1, len(self.places)))):
            self.settle()

    def settle(self) -> None:
        """Move the rows that wait into the table, made wider if need be. Errors: LogError if it gets too large."""
        width = len(self.places)
        rows = self.values.rows + len(self.waiting)
        if 8 * rows * width > TABLE_LIMIT:
            message = f"its lines name so many different columns that a table of them takes {8 * rows * width} bytes"
            raise broken(self.source, f"{message}; the limit is {TABLE_LIMIT}")
        if width > self.values.shape[0]:
            self.values = widened(self.values, width)
        block = np.full((len(self.waiting), self.values.shape[0]), np.nan)
        for row, numbers in enumerate(self.waiting):
            for name, value in numbers.items():
                block[row, self.places[name]] = value
        self.values.append(block)
        self.waiting.clear()

    def table(self, notes: tuple[str, ...]) -> Table:
        """Return the table."""
        if not self.lines.rows:
            raise broken(self.source, "has no rows")
        self.settle()
        values = self.values.array()
        columns = {name: values[:, at] for name, at in self.places.items()}
        return Table(self.source, tuple(self.names), columns, self.lines.array(), "line", notes)


def widened(spool: Spool, width: int) -> Spool:
    """Return the rows with NaN in the columns that are new; at least twice as many, so that it is seldom done."""
    wider, values = Spool((max(width, 2 * spool.shape[0]),)), spool.array()
    for span in spans(len(values)):
        block = np.full((len(values[span]), wider.shape[0]), np.nan)
        block[:, : values.shape[1]] = values[span]
        wider.append(block)
    return wider


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


def number_in_json(source: str, value: object, line: int, column: str) -> float:
    """Return a JSON number as a float, NaN for null; true, false and text are not numbers."""
    if type(value) is float:
        return value
    if value is None:
        return math.nan
    at = f"line {line}, column {quoted(column)}"
    if isinstance(value, bool) or not isinstance(value, int):
        raise broken(source, f"{at}: {quoted(value)} is not a number", column=column, value=value)
    try:
        return float(value)
    except OverflowError as error:
        message = f"{at}: {quoted(value)} is too large for a float64"
        raise broken(source, message, column=column, value=value) from error
