"""Rows of numbers that may be more than memory should hold: beyond a limit they go to a temporary file.

A `Spool` is appended to, block by block, and then seen as one array. The array of a long log is mapped from its file,
which has no name and goes when the array does; whoever has read a block of rows lets go of its pages.
"""

from __future__ import annotations

import mmap
import tempfile
from collections.abc import Iterator, Sequence
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

LIMIT = 1 << 24
"""How many bytes of rows are kept in memory: 16 MiB; more of them go to a file."""

BLOCK = 4096
"""How many rows are handled at once."""


class Spool:
    """Rows of one `shape` and `dtype`, appended in blocks, then read as one array."""

    def __init__(self, shape: tuple[int, ...] = (), dtype: type = np.float64) -> None:
        self.shape, self.dtype = shape, np.dtype(dtype)
        self.blocks: list[NDArray[Any]] = []
        self.file: IO[bytes] | None = None
        self.rows = 0

    def append(self, block: NDArray[Any] | Sequence[int]) -> None:
        """Append rows."""
        rows = np.ascontiguousarray(block, dtype=self.dtype).reshape(len(block), *self.shape)
        self.rows += len(rows)
        self.blocks.append(rows)
        if self.rows * rows.itemsize * int(np.prod(self.shape)) > LIMIT:
            self.file = self.file or tempfile.TemporaryFile(prefix="mtlref-")  # noqa: SIM115
            for waiting in self.blocks:
                self.file.write(waiting.tobytes())
            self.blocks.clear()

    def array(self) -> NDArray[Any]:
        """Return the rows, in memory or mapped from the file; they are not to be written to."""
        if self.file is None:
            return np.concatenate([np.empty((0, *self.shape), self.dtype), *self.blocks])
        self.file.flush()
        return np.memmap(self.file, dtype=self.dtype, mode="r", shape=(self.rows, *self.shape))


def spans(rows: int, block: int = BLOCK, reading: Sequence[Any] = ()) -> Iterator[slice]:
    """Yield the slices that cover `rows` rows, `block` at a time; what is read so is let go on the way."""
    for start in range(0, rows, block):
        yield slice(start, min(start + block, rows))
        let_go(*reading)


def copied(values: NDArray[Any]) -> NDArray[Any]:
    """Return a copy in memory of numbers that may be mapped, read a block at a time."""
    copy = np.empty_like(values, subok=False)
    for span in spans(len(values), reading=[values]):
        copy[span] = values[span]
    return copy


def let_go(*arrays: Any) -> None:
    """Give back the memory that the pages of mapped arrays take; whoever reads them again has them from the file."""
    for array in arrays:
        mapped = getattr(array, "_mmap", None)
        if mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
            mapped.madvise(mmap.MADV_DONTNEED)


def gathered(columns: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Return columns (N,) side by side, as (N, number of columns)."""
    spool = Spool((len(columns),))
    for span in spans(len(columns[0]), reading=columns[:1]):
        spool.append(np.stack([column[span] for column in columns], axis=1))
    return spool.array()


def blank(rows: int, width: int) -> NDArray[np.float64]:
    """Return an array (rows, width) of NaN to be written to, in memory or mapped from a file without a name."""
    if 8 * rows * width <= LIMIT:
        return np.full((rows, width), np.nan)
    file = tempfile.TemporaryFile(prefix="mtlref-")  # noqa: SIM115
    values = np.memmap(file, dtype=np.float64, mode="w+", shape=(rows, width))
    for span in spans(rows):
        values[span] = np.nan
    return values
