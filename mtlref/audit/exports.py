"""From TensorBoard's CSV downloads to named columns: a file a series, `Wall time,Step,Value`, together in one folder.

Which series a file holds only its name says: `run-RUN-tag-TAG.csv`, the slashes of both made underscores. Where all
files are of one run the series are called by their tags; of several runs in one folder the names stay whole, and a
pattern says which is meant.
"""

from __future__ import annotations

from pathlib import Path

from mtlref.audit.series import Series
from mtlref.audit.tables import EXPORT, Table, Wanted, export_files
from mtlref.audit.texts import csv_rows, number_in_cell, refuse_step

TAG = "-tag-"
"""What stands before the series' name in a file's."""


def read_exports(source: str, wanted: Wanted) -> Table:
    """Read all downloads in a directory: a row a step. Errors: LogError."""
    files = export_files(source)
    series, notes, row = Series(source, wanted), list[str](), 0
    for path, name in zip(files, names_of(files), strict=True):
        if not series.wants(name):
            continue
        for (_, step, value), number in csv_rows(path, len(EXPORT), notes):
            row, where = row + 1, f"line {number}"
            at = number_in_cell(path, step, where, EXPORT[1])
            refuse_step(path, at, where, EXPORT[1])
            series.add(name, at, number_in_cell(path, value, where, EXPORT[2]), row)
    return series.table(tuple(notes), "row")


def names_of(files: list[str]) -> list[str]:
    """Return the series' names: the tags, where all files are of one run, else the files' names."""
    stems = [Path(file).stem for file in files]
    runs = {stem.partition(TAG)[0] for stem in stems if TAG in stem}
    whole = len(runs) > 1 or not all(TAG in stem for stem in stems)
    return stems if whole else [stem.partition(TAG)[2] for stem in stems]
