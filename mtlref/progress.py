"""Progress on a terminal, on standard error. rich draws it where it is installed; elsewhere a line counts."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def track(items: Iterable[T], total: int, label: str, shown: bool | None = None) -> Iterator[T]:
    """Yield the `total` items, with a progress line where `shown`: by default where standard error is a terminal."""
    if not (sys.stderr.isatty() if shown is None else shown):
        yield from items
        return
    try:
        from rich.console import Console
        from rich.progress import track as rich_track
    except ImportError:
        yield from _counted(items, total, label)
        return
    yield from rich_track(items, description=label, total=total, console=Console(stderr=True))


def _counted(items: Iterable[T], total: int, label: str) -> Iterator[T]:
    """Yield the items; rewrite one line of standard error as they go."""
    for done, item in enumerate(items):
        print(f"\r{label} {done}/{total}", end="", file=sys.stderr, flush=True)
        yield item
    print(f"\r{label} {total}/{total}", file=sys.stderr, flush=True)
