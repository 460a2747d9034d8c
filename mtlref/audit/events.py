"""From TensorBoard's event files to named columns: what `SummaryWriter.add_scalar` wrote. An extra: `tensorboard`.

The records are read by TensorBoard itself, which checks their sums; a last record that is cut short ends the file.
What is no scalar is left out.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from typing import Any

from mtlref.audit.series import Series
from mtlref.audit.tables import Table, Wanted, broken, event_files, open_file
from mtlref.notation import MissingExtraError

RECORD_LIMIT = 1 << 31
"""The largest event file, in bytes: 2 GiB. A damaged length may ask for all of it at once."""


def read_events(source: str, wanted: Wanted) -> Table:
    """Read an event file, or all that are in a directory: a row a step.

    Errors: LogError, MissingExtraError without tensorboard.
    """
    series, number = Series(source, wanted), 0
    for path in event_files(source) or [source]:
        with open_file(path) as file:
            if os.fstat(file.fileno()).st_size > RECORD_LIMIT:
                raise broken(path, f"is larger than {RECORD_LIMIT} bytes")
        for event in events(path):
            number += 1
            for summary in event.summary.value:
                value = scalar_of(summary)
                if value is not None and series.wants(summary.tag):
                    series.add(summary.tag, float(event.step), value, number)
    return series.table((), "event")


def events(source: str) -> Iterator[Any]:
    """Yield the events of a file. Errors: LogError if one is damaged, MissingExtraError."""
    try:
        from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
        from tensorboard.compat.proto.event_pb2 import Event
    except ImportError as error:
        raise MissingExtraError(f"{source}: event files need the extra: pip install 'mtlref[tensorboard]'") from error
    from google.protobuf.message import DecodeError

    try:
        for record in RawEventFileLoader(source).Load():
            yield Event.FromString(record)
    except (DecodeError, ValueError, TypeError, LookupError, MemoryError, OverflowError) as error:
        raise broken(source, f"is not an event file, or is damaged: {error}") from error
    except Exception as error:
        if type(error).__name__ not in ("DataLossError", "OutOfRangeError"):
            raise
        raise broken(source, f"is not an event file, or is damaged: {error}") from error


def scalar_of(summary: Any) -> float | None:
    """Return the one number of a summary, as the older or the newer writers put it; None for anything else."""
    kind = summary.WhichOneof("value")
    if kind == "simple_value":
        return float(summary.simple_value)
    if kind != "tensor" or summary.metadata.plugin_data.plugin_name not in ("scalars", ""):
        return None
    tensor = summary.tensor
    values = list(tensor.float_val) + list(tensor.double_val)
    if len(values) == 1 and math.prod(dim.size for dim in tensor.tensor_shape.dim) == 1:
        return float(values[0])
    return packed_scalar(tensor)


def packed_scalar(tensor: Any) -> float | None:
    """Return a tensor's one number from its bytes: a float32 or a float64."""
    import struct

    code = {1: ("<f", 4), 2: ("<d", 8)}.get(tensor.dtype)
    if code is None or len(tensor.tensor_content) != code[1]:
        return None
    return float(struct.unpack(code[0], tensor.tensor_content)[0])
