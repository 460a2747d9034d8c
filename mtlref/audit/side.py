"""The side file of a log: which method and settings the run used, in a .json of the log's name beside it."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from typing import Any

from mtlref.audit.objects import document_in
from mtlref.audit.tables import broken, listed, quoted

SETTINGS = {"method": str, "settings": dict, "run": dict}
"""What a side file may hold, and of which type."""

SETTINGS_LIMIT = 1 << 24
"""The largest side file, in bytes: 16 MiB."""


def side_file(path: str | os.PathLike[str]) -> str:
    """Return where the settings of the log at `path` stand: the same name, ending in .json."""
    return os.path.splitext(os.fspath(path))[0] + ".json"


def read_settings(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return what the side file of the log at `path` holds, {} if there is none. Errors: LogError.

    A JSON object with none of a side file's keys belongs to somebody else, and is left alone.
    """
    source = side_file(path)
    if not os.path.lexists(source):
        return {}
    document = document_in(source, "the side file", SETTINGS_LIMIT)
    if isinstance(document, dict) and not SETTINGS.keys() & document.keys():
        return {}
    return checked_settings(source, document)


def checked_settings(source: str, document: object) -> dict[str, Any]:
    """Return `document` if it is what a side file may hold. Errors: LogError."""
    if not isinstance(document, dict):
        raise broken(source, "is not a JSON object", value=document)
    for key, value in document.items():
        if key not in SETTINGS:
            raise broken(source, f"has the unknown key {quoted(key)}; known are {listed(list(SETTINGS))}", column=key)
        if not isinstance(value, SETTINGS[key]):
            kind = "text" if SETTINGS[key] is str else "an object"
            raise broken(source, f"key {quoted(key)} must be {kind}; it is {quoted(value)}", column=key, value=value)
    pending: list[object] = [document]
    while pending:
        value = pending.pop()
        if isinstance(value, float) and not math.isfinite(value):
            raise broken(source, f"holds {value}, which is not a finite number", value=value)
        if isinstance(value, dict | list):
            pending.extend(value.values() if isinstance(value, dict) else value)
    return document


def encoded_settings(target: str, settings: Mapping[str, Any]) -> str:
    """Return the side file's text. Errors: LogError if it could not be read back."""
    document = checked_settings(target, dict(settings))
    try:
        text = json.dumps(document, allow_nan=False, indent=2, ensure_ascii=True)
    except (TypeError, ValueError, RecursionError) as error:
        raise broken(target, f"the settings are not plain JSON: {error}", value=settings) from error
    return text + "\n"
