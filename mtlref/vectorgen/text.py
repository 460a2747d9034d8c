"""The text of a file of vectors: what fits a line stands on one, numbers are in shortest round-trip form."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

WIDTH = 100
"""The length up to which an object stands on one line."""


def text(document: Mapping[str, Any]) -> str:
    """Return `document` as JSON, always the same for the same values."""
    return _block(_plain(document), 0) + "\n"


def _block(value: Any, depth: int) -> str:
    """Return `value` on one line if it fits or holds no object, else an item a line, indented by `depth`."""
    line = json.dumps(value, ensure_ascii=False, allow_nan=False)
    pad, end = "  " * (depth + 1), "  " * depth
    if isinstance(value, Mapping) and len(line) > WIDTH:
        items = [f"{pad}{json.dumps(name)}: {_block(item, depth + 1)}" for name, item in value.items()]
        return "{\n" + ",\n".join(items) + f"\n{end}}}"
    if _is_list(value) and any(isinstance(item, Mapping) for item in value) and len(line) > WIDTH:
        return "[\n" + ",\n".join(f"{pad}{_block(item, depth + 1)}" for item in value) + f"\n{end}]"
    return line


def _is_list(value: Any) -> bool:
    """Say whether `value` is an array, which a string is not."""
    return isinstance(value, Sequence) and not isinstance(value, str)


def _plain(value: Any) -> Any:
    """Return `value` with NaN and the infinities as strings."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    return [_plain(item) for item in value] if _is_list(value) else value
