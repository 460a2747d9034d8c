"""From numbers in any order to named columns: long tables, with a row a number, and TensorBoard's events.

A number comes with its series' name and its step. The table has a row a step; a series that has no number there has
NaN. What came twice alike counts once. A series whose steps go back has begun again, a number that differs at the
same step is another row of it: such rows follow in their order, and `mtlref.audit.steps` says what they are.
"""

from __future__ import annotations

import math

import numpy as np

from mtlref.audit.spool import Spool, blank, spans
from mtlref.audit.tables import Table, Wanted, broken, listed, quoted
from mtlref.notation import LogError

TABLE_LIMIT = 1 << 33
"""The most bytes that a table may take, whose rows may each hold other columns: 8 GiB."""


class Series:
    """The numbers seen so far, of the wanted series."""

    def __init__(self, source: str, wanted: Wanted, step: str = "step") -> None:
        self.source, self.wanted, self.step = source, wanted, step
        self.places: dict[str, int | None] = {}
        self.count = 0
        self.last: list[tuple[int, float, int, float]] = []
        self.waiting: list[tuple[float, float, float, float, float, float]] = []
        self.entries = Spool((6,))

    def wants(self, name: str) -> bool:
        """Return whether the series matters; note its name."""
        if name not in self.places:
            here = self.wanted(name)
            self.places[name] = self.count if here else None
            self.count += here
            self.last += [(0, -math.inf, 0, math.nan)] * here
        return self.places[name] is not None

    def add(self, name: str, step: float, value: float, line: int) -> None:
        """Add a number of a series that matters."""
        place = self.places[name]
        assert place is not None
        turn, before, again, known = self.last[place]
        if step == before and (value == known or (value != value and known != known)):
            return
        turn, again = turn + (step < before), again + 1 if step == before else 0
        self.last[place] = turn, step, again, value
        self.waiting.append((turn, step, again, place, value, line))
        if len(self.waiting) == 1 << 14:
            self.settle()

    def settle(self) -> None:
        """Move what waits to the spool."""
        if self.waiting:
            self.entries.append(np.array(self.waiting))
            self.waiting.clear()

    def table(self, notes: tuple[str, ...], place: str = "line") -> Table:
        """Return the table. Errors: LogError if it has no rows, or gets too large."""
        self.settle()
        if not self.entries.rows:
            raise nothing_wanted(self.source, list(self.places))
        entries = self.entries.array()
        keys = np.array(entries[:, :3])
        order = np.lexsort((keys[:, 2], keys[:, 1], keys[:, 0]))
        new = np.any(np.diff(keys[order], axis=0, prepend=np.nan) != 0, axis=1)
        rows = np.empty(len(order), dtype=np.int64)
        rows[order] = np.cumsum(new) - 1
        count, width = int(new.sum()), self.count + 1
        if 8 * count * width > TABLE_LIMIT:
            message = f"its {self.count} series and {count} steps make a table of {8 * count * width} bytes"
            raise broken(self.source, f"{message}; the limit is {TABLE_LIMIT}")
        values, lines = blank(count, width), np.zeros(count, dtype=np.int64)
        for span in spans(len(entries), 1 << 16):
            at, block = rows[span], entries[span]
            values[at, block[:, 3].astype(np.int64)] = block[:, 4]
            values[at, -1] = block[:, 1]
            lines[at] = np.maximum(lines[at], block[:, 5].astype(np.int64))
        if self.step in self.places:
            raise broken(self.source, f"a series is called {quoted(self.step)}, as is what numbers them")
        columns = {name: values[:, at] for name, at in self.places.items() if at is not None}
        columns[self.step] = values[:, -1]
        return Table(self.source, (self.step, *self.places), columns, lines, place, notes)


def nothing_wanted(source: str, names: list[str]) -> LogError:
    """Return the error that no series matters."""
    from mtlref.audit.inspection import hint

    return broken(source, f"holds no series that the patterns find; the series are {listed(names)} {hint(names)}")
