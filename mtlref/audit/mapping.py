"""The mapping file: a small JSON object that says what a log's columns are, where the usual names do not.

{"losses": "train/loss_*", "weights": {"depth": "w1", "labels": "w2"}, "step": "global_step"}

`losses`, `norms`, `gram`, `weights` and `draws` are patterns or mappings as for `read_log`; `step`, `epoch`, `name`
and `value` are columns (`mtlref.audit.tables.Layout`); `consecutive` says that the run took no steps between rows.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mtlref.audit.objects import parsed
from mtlref.audit.readers import DEFAULTS
from mtlref.audit.tables import Layout, broken, listed, open_file, quoted

COLUMNS = ("step", "epoch", "name", "value")
"""What of a mapping file is one column's name."""

MAP_LIMIT = 1 << 24
"""The largest mapping file, in bytes: 16 MiB."""


def read_map(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return what a mapping file says as the arguments of `read_run`. Errors: LogError."""
    source = os.fspath(path)
    try:
        with open_file(source) as file:
            content = file.read(MAP_LIMIT + 1)
    except OSError as error:
        raise broken(source, f"cannot be read: {error.strerror or error}") from error
    if len(content) > MAP_LIMIT:
        raise broken(source, f"is longer than {MAP_LIMIT} bytes")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise broken(source, f"is not UTF-8 at byte {error.start + 1}") from error
    return arguments(source, parsed(source, text, "the mapping"))


def arguments(source: str, document: object) -> dict[str, Any]:
    """Return a mapping as the arguments of `read_run`. Errors: LogError."""
    if not isinstance(document, dict):
        raise broken(source, "is not a JSON object", value=document)
    known = (*DEFAULTS, *COLUMNS, "consecutive")
    found: dict[str, Any] = {}
    columns: dict[str, Any] = {}
    for key, value in document.items():
        if key not in known:
            raise broken(source, f"has the unknown key {quoted(key)}; known are {listed(known, 12)}", column=key)
        if key in DEFAULTS:
            if not isinstance(value, str | dict):
                raise broken(source, f"key {quoted(key)} must be a pattern or an object; it is {quoted(value)}")
            found[key] = value
        elif key in COLUMNS:
            if not isinstance(value, str):
                raise broken(source, f"key {quoted(key)} must be a column's name; it is {quoted(value)}", column=key)
            columns[key] = value
        elif isinstance(value, bool):
            found[key] = value
        else:
            raise broken(source, f"key {quoted(key)} must be true or false; it is {quoted(value)}", column=key)
    return found | ({"layout": replace(Layout(), **columns)} if columns else {})


def encoded(mapping: Mapping[str, Any]) -> str:
    """Return a mapping file's text."""
    return json.dumps(mapping, indent=2) + "\n"
