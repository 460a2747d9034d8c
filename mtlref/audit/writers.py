"""From columns to a log that `readers` reads back without losing a bit: a CSV, and its side file.

Numbers are written in the shortest decimal form that names the float64 they are. A float32 is written as the
float64 of the same value, so reading it back gives a value that is still exactly a float32.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mtlref.audit.readers import LARGEST_STEP
from mtlref.audit.side import encoded_settings, side_file
from mtlref.audit.tables import LINE_LIMIT, broken, quoted
from mtlref.notation import Array, real

STEPS = ("step", "epoch")
"""The columns that number the rows of a log that is written."""


def write_log(
    path: str | os.PathLike[str],
    log_columns: Mapping[str, Sequence[float] | Array],
    settings: Mapping[str, Any] | None = None,
) -> None:
    """Write a .csv with the columns of `log_columns` in their order, and with `settings` the side file.

    The usual names are `step`, `loss/<task>`, `norm/<task>`, `weight/<task>`; without a column `step` or
    `epoch`, a `step` that counts from 0 is put first. Everything is checked before anything is written.

    Errors: ShapeError and DomainError for what is not a finite vector, LogError for names, lengths and
    settings that could not be read back, and for a file that cannot be written.
    """
    target = os.fspath(path)
    if os.path.splitext(target)[1].lower() != ".csv":
        raise broken(target, "a log is written as .csv")
    columns = checked_columns(target, log_columns)
    side = None if settings is None else encoded_settings(side_file(target), settings)
    try:
        with open(target, "w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(columns)
            writer.writerows(zip(*columns.values(), strict=True))
        if side is not None:
            with open(side_file(target), "w", encoding="utf-8", newline="") as file:
                file.write(side)
    except OSError as error:
        raise broken(target, f"cannot be written: {error.strerror or error}") from error


def checked_columns(target: str, log_columns: Mapping[str, Sequence[float] | Array]) -> dict[str, list[Any]]:
    """Return the columns as lists of Python numbers, those that number the rows as whole ones."""
    arrays = {name: real(name, values, 1) for name, values in log_columns.items()}
    if not arrays or not all(map(len, arrays.values())):
        raise broken(target, "a log has at least one column and at least one row")
    length = len(next(iter(arrays.values())))
    if not any(name in arrays for name in STEPS):
        arrays = {STEPS[0]: np.arange(length, dtype=np.float64)} | arrays
    columns: dict[str, list[Any]] = {}
    for name, values in arrays.items():
        if not name or not name.isprintable():
            raise broken(target, f"the column name {quoted(name)} cannot be written", column=name)
        if len(values) != length:
            message = f"column {quoted(name)} has {len(values)} rows, another {length}"
            raise broken(target, message, column=name, value=len(values))
        columns[name] = values.tolist()
        if name in STEPS:
            if np.any((values != np.floor(values)) | (np.abs(values) > LARGEST_STEP)):
                raise broken(target, f"column {quoted(name)} must hold whole numbers up to 2^53", column=name)
            columns[name] = [int(value) for value in columns[name]]
    if sum(len(name.encode()) + 30 for name in columns) > LINE_LIMIT:
        raise broken(target, f"a line would be longer than {LINE_LIMIT} bytes")
    return columns
