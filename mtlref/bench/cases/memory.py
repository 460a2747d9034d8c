"""memory: the peak of the Jacobian's sweep, beside K·(largest activation) + K·D, and what `chunk` makes of it."""

from __future__ import annotations

import tracemalloc

import numpy as np

from mtlref.autograd import jacobian as swept
from mtlref.autograd import parameter
from mtlref.bench.cases import jacobian
from mtlref.bench.report import Table


def tables(full: bool, rng: np.random.Generator) -> list[Table]:
    """Return the one table of peaks, in MiB."""
    rows: list[tuple[int | str | float, ...]] = []
    for width, K, batch in ((128, 40, 256), (32, 40, 1024), (64, 40, 4096 if full else 1024)):
        one = jacobian.problem(width, 3, K, batch, "mse")
        leaves = [parameter(a) for a in one.flat]
        losses = jacobian.losses(one, leaves)
        D, activation = sum(a.size for a in one.flat), batch * width
        for chunk in (K, K // 4, 1, None):
            tracemalloc.start()
            swept(losses, leaves, chunk)
            peak = tracemalloc.get_traced_memory()[1] / 2**20
            tracemalloc.stop()
            rows.append(
                (width, K, batch, "1 MiB" if chunk is None else chunk, peak, *expected(K, chunk, activation, D))
            )
    columns = ("width", "K", "batch", "chunk", "peak", "chunk·act + K·D", "K·act + K·D")
    return [Table("memory", "the sweep's peak in MiB; act: the largest activation, batch × width", columns, rows)]


def expected(K: int, chunk: int | None, activation: int, D: int) -> tuple[float, float]:
    """Return chunk·(largest activation) + K·D and K·(largest activation) + K·D in MiB."""
    tasks = min(K, max(1, 2**17 // activation)) if chunk is None else chunk
    return (tasks * activation + K * D) / 2**17, (K * activation + K * D) / 2**17
