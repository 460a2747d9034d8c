"""From JSON Lines to named columns: an object a line, read as a stream.

Lines may hold other columns than those before them; a column that a line lacks is a number that was not logged. A
line may also be one number of a long table, with its series' name and its step (`mtlref.audit.texts`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from typing import BinaryIO

import numpy as np

from mtlref.audit.series import TABLE_LIMIT, Series
from mtlref.audit.spool import BLOCK, Spool, spans
from mtlref.audit.tables import Layout, Table, Wanted, broken, listed, open_file, quoted
from mtlref.audit.texts import Lines, left_out, long_columns, numbered, refuse_step
from mtlref.notation import LogError

LARGEST_DEPTH = 16
"""How deep the objects and lists of a JSON line may be nested."""


def read_json_lines(source: str, file: BinaryIO, wanted: Wanted, layout: Layout) -> Table:
    """Read JSON Lines: an object a line; nested objects and lists are flattened with `/`.

    A line may lack columns that others have: it says nothing of them.
    """
    text, rows = Lines(source, file), JSONRows(source, wanted, layout)
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

    def __init__(self, source: str, wanted: Wanted, layout: Layout) -> None:
        self.source, self.wanted, self.layout = source, wanted, layout
        self.long: LongObjects | None = None
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
        if not self.lines.rows:
            columns = long_columns(self.source, flat, self.wanted, self.layout)
            if columns is not None and (self.layout.name is not None or isinstance(flat[columns[0]], str)):
                self.long = LongObjects(self.source, flat, self.wanted, self.layout, columns)
        if self.long is not None:
            self.lines.append([number])
            self.long.add(number, flat)
            return
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
        if self.long is not None:
            return self.long.series.table(notes)
        self.settle()
        values = self.values.array()
        columns = {name: values[:, at] for name, at in self.places.items()}
        return Table(self.source, tuple(self.names), columns, self.lines.array(), "line", notes)


class LongObjects:
    """The series of a long table's lines; `columns` are the keys of the name and the value."""

    def __init__(
        self, source: str, first: Iterable[str], wanted: Wanted, layout: Layout, columns: tuple[str, str]
    ) -> None:
        self.source, self.columns, self.step = source, columns, numbered(source, first, layout)
        self.series = Series(source, wanted, self.step)

    def add(self, number: int, flat: dict[str, object]) -> None:
        """Add a line's number. Errors: LogError if it has no name, value or step."""
        named, valued = self.columns
        missing = [key for key in (named, valued, self.step) if key not in flat]
        if missing:
            raise broken(self.source, f"line {number} lacks {listed(missing)}, which the first line has")
        name = flat[named]
        if not isinstance(name, str):
            raise broken(self.source, f"line {number}: the series' name is {quoted(name)}", column=named, value=name)
        if self.series.wants(name):
            step = number_in_json(self.source, flat[self.step], number, self.step)
            refuse_step(self.source, step, f"line {number}", self.step)
            self.series.add(name, step, number_in_json(self.source, flat[valued], number, valued), number)


def widened(spool: Spool, width: int) -> Spool:
    """Return the rows with NaN in the columns that are new; at least twice as many, so that it is seldom done."""
    wider, values = Spool((max(width, 2 * spool.shape[0]),)), spool.array()
    for span in spans(len(values)):
        block = np.full((len(values[span]), wider.shape[0]), np.nan)
        block[:, : values.shape[1]] = values[span]
        wider.append(block)
    return wider


def document_in(source: str, what: str, limit: int) -> object:
    """Return what a JSON file of at most `limit` bytes says; errors call it `what`. Errors: LogError."""
    try:
        with open_file(source) as file:
            content = file.read(limit + 1)
    except OSError as error:
        raise broken(source, f"cannot be read: {error.strerror or error}") from error
    if len(content) > limit:
        raise broken(source, f"is longer than {limit} bytes")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise broken(source, f"is not UTF-8 at byte {error.start + 1}") from error
    return parsed(source, text, what)


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
