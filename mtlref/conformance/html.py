"""The report of a check run as a page."""

from __future__ import annotations


def page(session: object, results: object) -> str:
    raise NotImplementedError
