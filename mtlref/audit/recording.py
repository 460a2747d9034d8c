"""The recorder: what a training loop calls once a step, so that the run can be audited afterwards.

with Recorder("run.csv", tasks=["depth", "labels"], method="gradnorm", settings={"alpha": 1.5, "lr": 0.025}) as log:
    for ...:
        log.step(losses=losses, norms=norms, weights=weights)

A row is written when its step is, and handed to the operating system at once: a loop that is killed loses the row
that it was writing, and no other. A float32 is written as the float64 of the same value. A loss of NaN is written
as it is: the log of a run that went wrong is the one that is wanted.

The ending says which kind of file it is: .csv, or .jsonl for JSON Lines. Values may be arrays, lists of numbers, or
tensors with `detach`, on any device; they are copied, and no graph is kept alive.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any

import numpy as np

from mtlref.audit.side import encoded_settings, side_file
from mtlref.audit.tables import LINE_LIMIT, broken, listed
from mtlref.notation import Array, ShapeError

ENDINGS = (".csv", ".jsonl")
"""The kinds of file that are written."""


class Recorder:
    """Writes the log of one run, a row a step.

    `tasks`: the tasks' names. `method`, `settings` and `run`, a description, go to the side file, if any is given.
    `append`: go on with the file that is there, the row that was cut short taken away; else there must be none.
    Errors: LogError for names and settings that could not be read back, and for files that cannot be written.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        tasks: Sequence[str],
        *,
        method: str | None = None,
        settings: Mapping[str, Any] | None = None,
        run: Mapping[str, Any] | None = None,
        append: bool = False,
    ) -> None:
        self.path, self.tasks = os.fspath(path), tuple(tasks)
        self.ending = os.path.splitext(self.path)[1].lower()
        if self.ending not in ENDINGS:
            raise broken(self.path, f"a log that is recorded ends in {' or '.join(ENDINGS)}")
        if not self.tasks or len(set(self.tasks)) < len(self.tasks) or not all(map(writable, self.tasks)):
            raise broken(self.path, f"the tasks need distinct, printable names; they are {listed(self.tasks)}")
        self.count, self.names = 0, tuple[str, ...]()
        parts: dict[str, Any] = {"method": method, "settings": settings, "run": run}
        given = {name: value if name == "method" else dict(value) for name, value in parts.items() if value}
        side = side_file(self.path)
        text = encoded_settings(side, given) if given else None
        try:
            self.file = self._opened(append)
            if text is not None and not append:
                with open(side, "x", encoding="utf-8", newline="") as file:
                    file.write(text)
        except OSError as error:
            raise broken(error.filename or self.path, f"cannot be written: {error.strerror or error}") from error

    def step(
        self,
        step: int | None = None,
        *,
        losses: Any,
        weights: Any,
        norms: Any = None,
        gram: Any = None,
        draw: Any = None,
        epoch: int | None = None,
    ) -> None:
        """Write one row: the K `losses` and the K `weights` in use, and what the method reads besides.

        `norms` (K,) of the unweighted gradients, or their inner products `gram` (K, K), of which the upper triangle
        is written; `draw` (K, P), PCGrad's orders: row i is the order in which task i meets the others.
        `step` counts from 0 by itself. Every row has what the first one has.
        Errors: ShapeError for a value of another shape, LogError for a row unlike the first.
        """
        K = len(self.tasks)
        columns: dict[str, Any] = {"step": self.count if step is None else int(step)}
        if epoch is not None:
            columns["epoch"] = int(epoch)
        columns.update(self._vector("loss", numbers("losses", losses, (K,))))
        if norms is not None:
            columns.update(self._vector("norm", numbers("norms", norms, (K,))))
        if gram is not None:
            columns.update(self._triangle(numbers("gram", gram, (K, K))))
        columns.update(self._vector("weight", numbers("weights", weights, (K,))))
        if draw is not None:
            columns.update(self._orders(numbers("draw", draw, (K, None))))
        self._write(columns)
        self.count = columns["step"] + 1

    def close(self) -> None:
        """Close the file. Nothing is lost without it."""
        self.file.close()

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *error: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()

    def _opened(self, append: bool) -> io.BufferedRandom | io.BufferedWriter:
        """Return the file, at its end. A row without a line end is cut off: it was being written."""
        if not append or not os.path.exists(self.path):
            return open(self.path, "xb")
        file = open(self.path, "r+b")  # noqa: SIM115
        end = file.seek(0, os.SEEK_END)
        file.seek(max(0, end - LINE_LIMIT))
        tail = file.read()
        file.truncate(end - len(tail) + tail.rfind(b"\n") + 1)
        file.seek(0)
        header, last = file.readline(), tail[: tail.rfind(b"\n") + 1].splitlines()[-1:]
        if header and self.ending == ".csv":
            self.names = tuple(next(csv.reader([header.decode()])))
            cells = next(csv.reader([last[0].decode()])) if last else []
            numbered = "step" in self.names and cells[:1] != ["step"] and len(cells) == len(self.names)
            self.count = int(cells[self.names.index("step")]) + 1 if numbered else 0
        elif header:
            self.names = tuple(json.loads(header))
            self.count = int(json.loads(last[0])["step"]) + 1
        file.seek(0, os.SEEK_END)
        return file

    def _write(self, columns: dict[str, Any]) -> None:
        """Write the row, with the header before the first; nothing stays in a buffer of ours."""
        if not self.names:
            self.names = tuple(columns)
            if self.ending == ".csv":
                self.file.write(line_of(self.names))
        elif tuple(columns) != self.names:
            message = f"a row has the columns {listed(list(columns))}, the first row {listed(self.names)}"
            raise broken(self.path, message)
        if self.ending == ".csv":
            self.file.write(f"{','.join(map(repr, columns.values()))}\n".encode())
        else:
            self.file.write(f"{json.dumps(columns)}\n".encode())
        self.file.flush()

    def _vector(self, kind: str, values: Array) -> Iterable[tuple[str, float]]:
        return ((f"{kind}/{task}", value) for task, value in zip(self.tasks, values.tolist(), strict=True))

    def _triangle(self, gram: Array) -> Iterable[tuple[str, float]]:
        rows = gram.tolist()
        for i, first in enumerate(self.tasks):
            for j in range(i, len(self.tasks)):
                yield f"gram/{first}/{self.tasks[j]}", rows[i][j]

    def _orders(self, draw: Array) -> Iterable[tuple[str, int]]:
        for task, order in zip(self.tasks, draw.astype(np.int64).tolist(), strict=True):
            for position, other in enumerate(order):
                yield f"draw/{task}/{position}", other


def numbers(argument: str, values: Any, shape: tuple[int | None, ...]) -> Array:
    """Return arrays, tensors and lists of either as float64, whatever they hold. Errors: ShapeError."""
    if isinstance(values, list | tuple):
        values = [on_host(value) for value in values]
    try:
        array = np.asarray(on_host(values), dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ShapeError(f"{argument} is not an array of numbers: {error}", argument=argument) from error
    if array.ndim != len(shape) or any(n not in (None, m) for n, m in zip(shape, array.shape, strict=True)):
        wanted = ", ".join("any" if n is None else str(n) for n in shape)
        message = f"{argument} must have the shape ({wanted}); it is {array.shape}"
        raise ShapeError(message, argument=argument, value=array.shape)
    return array


def on_host(value: Any) -> Any:
    """Return a tensor's numbers, off its graph and its device, as an array; anything else as it is."""
    return value.detach().cpu().double().numpy() if hasattr(value, "detach") else value


def writable(name: str) -> bool:
    """Return whether a task of this name can be written."""
    return bool(name) and name.isprintable()


def line_of(cells: Sequence[str]) -> bytes:
    """Return a CSV's line, quoted where need be."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue().encode()
