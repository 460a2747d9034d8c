"""growth: how the times grow with K, D, batch and steps: the fitted exponent beside the one expected."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from mtlref.bench.cases import audit, gradnorm_step, jacobian, pcgrad, tape
from mtlref.bench.measure import Contender, Setup, take
from mtlref.bench.report import Table
from mtlref.contract import compress
from mtlref.methods.pcgrad import PCGrad
from mtlref.notation import Array
from mtlref.qp import minimum_norm as shortest


@dataclass(frozen=True)
class Range:
    """One size that varies: the call at each of its values, and the exponent expected for large ones."""

    case: str
    size: str
    values: Sequence[int]
    expected: str
    make: Callable[[int], Callable[[], Any]]


def ranges(full: bool) -> Iterator[Range]:
    """Yield what varies, case by case; the other sizes stand in its name."""
    far = 4 if full else 1

    def network(width: int = 128, K: int = 10, batch: int = 64) -> Callable[[], Any]:
        return jacobian.ours(jacobian.problem(width, 3, K, batch, "mse"))

    yield Range("jacobian", "K", [10, 20, 40 * far], "1", lambda v: network(K=v))
    yield Range("jacobian", "batch", [128, 256, 512 * far], "1", lambda v: network(batch=v))
    yield Range("jacobian", "width", [128, 256, 512], "2", lambda v: network(width=v))
    x = np.linspace(0.1, 1.0, tape.WIDTH)
    yield Range("tape", "operations", [100, 400, 1600 * far], "1", lambda v: partial(tape.ours, x, x, v))
    yield Range(
        "gradnorm-step",
        "K",
        [10, 20, 40 * far],
        "1",
        lambda v: gradnorm_step.ours(jacobian.problem(128, 3, v, 64, "mse")),
    )
    yield Range(
        "minimum-norm", "D, the factor", [10**4, 4 * 10**4, 16 * 10**4], "1", lambda v: partial(compress, J(10, v))
    )
    yield Range(
        "minimum-norm",
        "K, the solve",
        [10, 20, 40 * far],
        "3 to 4",
        lambda v: partial(shortest, compress(J(v, 1000))),
    )
    yield Range("pcgrad", "D (K 10)", [10**5, 4 * 10**5, 16 * 10**5], "1", lambda v: surgery(10, v))
    yield Range("pcgrad", "K (D 10⁵)", [20, 40, 80 * far], "2", lambda v: surgery(v, 10**5))
    yield Range(
        "audit", "steps", [500, 1000, 2000 * far], "1", lambda v: partial(audit.audited, audit.recorded("dwa", v))
    )


def J(K: int, D: int) -> Array:
    """Return a Jacobian of normal entries."""
    return np.random.default_rng(0).normal(size=(K, D)) + 0.2


def surgery(K: int, D: int) -> Callable[[], Array]:
    """Return a step of PCGrad."""
    rng = np.random.default_rng(0)
    return partial(pcgrad.ours, J(K, D) - 0.3, PCGrad().sample(rng, K))


def tables(full: bool, rng: np.random.Generator) -> list[Table]:
    """Return the one table of exponents."""
    rows = []
    for one in ranges(full):
        contenders = [Contender(str(v), "bound", one.make(v)) for v in one.values]
        timings = take("growth", Setup({}, contenders), 1, rounds=7, rng=rng, budget=20.0).timings
        least = [timing.quantile(0.0) for timing in timings]
        exponent = float(np.polyfit(np.log(one.values), np.log(least), 1)[0])
        rows.append((one.case, one.size, " ".join(map(str, one.values)), exponent, one.expected))
    columns = ("case", "size", "values", "fitted exponent", "expected")
    return [Table("growth", "how the least of 7 times grows: time ∝ size ^ exponent", columns, rows)]
