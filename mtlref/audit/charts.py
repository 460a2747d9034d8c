"""From Weights & Biases' CSV exports to named columns: a file a chart, together in one folder.

A chart has a column of steps and, for each of its lines, one called `RUN - SERIES`, with `__MIN` and `__MAX` beside
it. Where all charts are of one run the series are called by their own names; of several runs in one folder the names
stay whole, and a pattern says which is meant. Charts that are not all of the same runs are logs of their own.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence

from mtlref.audit.series import Series
from mtlref.audit.tables import EPOCHS, STEPS, Table, Wanted, broken, listed_files
from mtlref.audit.texts import csv_rows, number_in_cell, refuse_step

BETWEEN = " - "
"""What stands between the run's name and the series'."""

RANGES = ("__MIN", "__MAX")
"""What stands behind a series' name for the columns of its smallest and largest values."""

HEADER_LIMIT = 1 << 16
"""The longest header that is looked at, in bytes: 64 KiB."""


def charts_in(source: str) -> dict[str, list[str]]:
    """Return the headers of a directory's charts by their files; none unless all are charts of the same runs."""
    charts, runs = dict[str, list[str]](), set[tuple[str, ...]]()
    for path in listed_files(source):
        if path.lower().endswith(".csv"):
            charts[path] = header_of(path)
            runs.add(tuple(sorted({parted(column)[0] for column in charts[path][1:]})))
            if not charts[path] or len(runs) > 1:
                return {}
    return charts if len(charts) > 1 else {}


def header_of(path: str) -> list[str]:
    """Return the header of a chart; none of another file."""
    try:
        with open(path, "rb") as file:
            line = file.readline(HEADER_LIMIT).decode("utf-8-sig", "replace")
        cells = next(csv.reader([line], strict=True), [])
    except (OSError, csv.Error):
        return []
    known = len(cells) > 1 and cells[0] in (*STEPS, *EPOCHS) and all(all(parted(cell)) for cell in cells[1:])
    return cells if known else []


def parted(column: str) -> tuple[str, str]:
    """Return the run's name and the series' of a column."""
    run, _, series = column.rpartition(BETWEEN)
    return run, series


def read_charts(source: str, wanted: Wanted) -> Table:
    """Read all charts in a directory: a row a step; of a line in several charts the first. Errors: LogError."""
    charts = charts_in(source)
    step = min({header[0] for header in charts.values()})
    series, notes, row, read = Series(source, wanted, step), list[str](), 0, set[str]()
    for path, header in charts.items():
        if header[0] != step:
            raise broken(source, f"some charts go by {step!r} and some by {header[0]!r}", column=header[0])
        places = {
            at: name for at, name in lines_of(charts, header).items() if name not in read and series.wants(name)
        }
        read |= set(places.values())
        for cells, number in csv_rows(path, len(header), notes):
            row, where = row + 1, f"line {number}"
            at = number_in_cell(path, cells[0], where, step)
            refuse_step(path, at, where, step)
            for place, name in places.items():
                if cells[place].strip():  # where a line of the chart has no number its cell is empty
                    series.add(name, at, number_in_cell(path, cells[place], where, header[place]), row)
    return series.table(tuple(notes), "row")


def lines_of(charts: Mapping[str, Sequence[str]], header: Sequence[str]) -> dict[int, str]:
    """Return the series' names by their places in a chart: their own, where all charts are of one run."""
    one = len({parted(column)[0] for columns in charts.values() for column in columns[1:]}) == 1
    known = set(header)
    extra = {f"{column}{ending}" for column in known for ending in RANGES}
    return {
        place: parted(column)[1] if one else column
        for place, column in enumerate(header)
        if place and column not in extra
    }
