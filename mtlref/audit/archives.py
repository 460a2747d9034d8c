"""From an NPZ to named columns: arrays out of a zip archive, without NumPy's loader and so without pickle.

An NPZ is a zip file with a member `name.npy` an array; a member is a header that states type, order and
shape, and then the bytes. Two sizes are checked before anything is allocated: what all members unpack to,
by the archive's directory, against `ARCHIVE_LIMIT`; and what a member holds, by its own header, against
what it unpacks to. So a zip bomb is refused from its directory alone, and a short member can't claim a
large array.
"""

from __future__ import annotations

import math
import struct
import tokenize
import warnings
import zipfile
import zlib
from typing import IO, BinaryIO

import numpy as np

from mtlref.audit.tables import Table, Wanted, broken, quoted, refuse_duplicates
from mtlref.notation import Array, LogError

ARCHIVE_LIMIT = 1 << 32
"""The most that all members of an archive together may unpack to, in bytes: 4 GiB."""

DAMAGE = (
    EOFError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    RuntimeError,
    MemoryError,
    SyntaxError,
    AssertionError,
    struct.error,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)
"""What the standard library and NumPy raise on damaged archives and headers."""


def read_npz(source: str, file: BinaryIO, wanted: Wanted) -> Table:
    """Read an NPZ: an array a column, or arrays with more axes whose first axis is the steps."""
    try:
        with zipfile.ZipFile(file) as archive:
            return table_of(source, archive, wanted)
    except LogError:
        raise
    except DAMAGE as error:
        problem = "is not a zip archive" if not zipfile.is_zipfile(file) else f"is damaged: {error}"
        raise broken(source, f"{problem}; an NPZ is written with numpy.savez") from error


def table_of(source: str, archive: zipfile.ZipFile, wanted: Wanted) -> Table:
    """Return the wanted members as a table: all of one length, at least one row."""
    members = [member for member in archive.infolist() if member.filename.endswith(".npy")]
    names = tuple(member.filename.removesuffix(".npy") for member in members)
    refuse_duplicates(source, names, "the archive")
    size = sum(member.file_size for member in archive.infolist())
    if size > ARCHIVE_LIMIT:
        raise broken(source, f"unpacks to {size} bytes; the limit is {ARCHIVE_LIMIT}", value=size)
    columns: dict[str, Array] = {}
    for name, member in zip(names, members, strict=True):
        if wanted(name):
            columns[name] = member_array(source, archive, member, name)
    rows = [(name, len(column)) for name, column in columns.items()]
    for name, length in rows:
        if length != rows[0][1]:
            other = f"{quoted(rows[0][0])} has {rows[0][1]}"
            raise broken(source, f"array {quoted(name)} has {length} entries, {other}", column=name)
    if rows and rows[0][1] == 0:
        raise broken(source, "has arrays and no rows")
    lines = np.arange(1, rows[0][1] + 1 if rows else 1, dtype=np.int64)
    return Table(source, names, columns, lines, "entry")


def member_array(source: str, archive: zipfile.ZipFile, member: zipfile.ZipInfo, name: str) -> Array:
    """Return one member as a float64 array. Errors: LogError with the array's name."""
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        message = f"array {quoted(name)} is packed by method {member.compress_type}; only 0 and 8 are read"
        raise broken(source, message, column=name)
    try:
        with archive.open(member) as stream:
            raw = decoded(source, stream, member.file_size, name)
    except LogError:
        raise
    except (OSError, *DAMAGE) as error:
        raise broken(source, f"array {quoted(name)} is damaged: {quoted(str(error))}", column=name) from error
    with np.errstate(all="ignore"):
        return raw.astype(np.float64)


def decoded(
    source: str, stream: IO[bytes], size: int, name: str
) -> np.ndarray[tuple[int, ...], np.dtype[np.generic]]:
    """Return the array that an NPY stream of `size` bytes holds: real numbers, with at least one axis."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        version = np.lib.format.read_magic(stream)
        if version == (1, 0):
            shape, by_columns, dtype = np.lib.format.read_array_header_1_0(stream)
        elif version == (2, 0):
            shape, by_columns, dtype = np.lib.format.read_array_header_2_0(stream)
        else:
            raise broken(source, f"array {quoted(name)} has the unknown NPY version {version}", column=name)
    if dtype.hasobject:
        raise broken(source, f"array {quoted(name)} holds pickled objects, which are never loaded", column=name)
    if dtype.kind not in "fiu":
        raise broken(source, f"array {quoted(name)} holds {dtype}, not real numbers", column=name)
    if len(shape) == 0 or min(shape) < 0:
        raise broken(source, f"array {quoted(name)} has the shape {shape}; the first axis is the steps", column=name)
    stated, present = math.prod(shape) * dtype.itemsize, size - stream.tell()
    if stated != present:
        message = f"array {quoted(name)} needs {stated} bytes by its header and has {present}"
        raise broken(source, message, column=name)
    flat = np.frombuffer(stream.read(stated), dtype=dtype)
    return flat.reshape(shape[::-1]).T if by_columns else flat.reshape(shape)
