"""Packed files: a gzip stream read as it unpacks, to where it ends, breaks off or gets too large.

A run that is killed leaves a stream without its end. What it holds up to there is read; `cut` says that it is so. A
stream that is damaged is refused.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable
from typing import BinaryIO

from mtlref.audit.tables import broken

UNPACKED_LIMIT = 1 << 35
"""The most that a file may unpack to, in bytes: 32 GiB. It is read as a stream, and takes time, not memory."""

CHUNK = 1 << 16
"""How many packed bytes are read at once."""

GZIP = 31
"""What zlib calls a gzip stream of any window."""


class Unpacked(io.RawIOBase):
    """The bytes that a gzip file holds, of all its members in turn."""

    def __init__(self, source: str, file: BinaryIO) -> None:
        self.source, self.file = source, file
        self.decoder, self.waiting, self.size = zlib.decompressobj(GZIP), b"", 0
        self.begun = self.cut = False

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Fill the buffer with what comes next; 0 at the end. Errors: LogError."""
        while True:
            packed = self.waiting or self.file.read(CHUNK)
            if not packed:
                self.cut = self.begun and not self.decoder.eof
                return 0
            if self.decoder.eof:
                if not packed.strip(b"\0"):  # padding, which the format allows at the end
                    self.waiting = b""
                    continue
                self.decoder = zlib.decompressobj(GZIP)
            self.begun = True
            data = self._decoded(packed, len(buffer))
            if data:
                buffer[: len(data)] = data
                return len(data)

    def close(self) -> None:
        """Close the file as well."""
        self.file.close()
        super().close()

    def _decoded(self, packed: bytes, room: int) -> bytes:
        try:
            data = self.decoder.decompress(packed, room)
        except zlib.error as error:
            raise broken(self.source, f"is not a gzip file, or is damaged: {error}") from error
        self.waiting = self.decoder.unused_data if self.decoder.eof else self.decoder.unconsumed_tail
        self.size += len(data)
        if self.size > UNPACKED_LIMIT:
            raise broken(self.source, f"unpacks to more than {UNPACKED_LIMIT} bytes", value=self.size)
        return data


def unpacked(source: str, file: BinaryIO) -> tuple[BinaryIO, Callable[[], bool]]:
    """Return the unpacked file, and what says afterwards whether it broke off."""
    raw = Unpacked(source, file)
    return io.BufferedReader(raw, 1 << 16), lambda: raw.cut
