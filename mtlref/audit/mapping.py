"""The mapping file: a small JSON object that says what a log's columns are, where the usual names do not.

{"losses": "train/loss_*", "weights": {"depth": "w1", "labels": "w2"}, "step": "global_step"}

`losses`, `norms`, `gram`, `weights` and `draws` are patterns or mappings as for `read_log`; `step`, `epoch`, `name`
and `value` are columns (`mtlref.audit.tables.Layout`); `consecutive` says that the run took no steps between rows,
`after`, `weighted_losses` and `weighted_norms` what the numbers are (`mtlref.audit.readings`).
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mtlref.audit.objects import document_in
from mtlref.audit.readers import DEFAULTS
from mtlref.audit.readings import READINGS
from mtlref.audit.tables import Layout, broken, listed, quoted

COLUMNS = ("step", "epoch", "name", "value")
"""What of a mapping file is one column's name."""

MAP_LIMIT = 1 << 24
"""The largest mapping file, in bytes: 16 MiB."""


def read_map(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return what a mapping file says as the arguments of `read_run`. Errors: LogError."""
    source = os.fspath(path)
    return arguments(source, document_in(source, "the mapping", MAP_LIMIT))


def arguments(source: str, document: object) -> dict[str, Any]:
    """Return a mapping as the arguments of `read_run`. Errors: LogError."""
    if not isinstance(document, dict):
        raise broken(source, "is not a JSON object", value=document)
    known = (*DEFAULTS, *COLUMNS, "consecutive", *READINGS)
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
