"""Taking times side by side, after the answers have been compared."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mtlref.notation import Array, MtlrefError

Role = Literal["bound", "ours", "hand", "peer"]
Clock = Callable[[], float]
SHORTEST = 0.002
"""Seconds that a sample takes at least: a quicker call is repeated within the sample."""
PAUSE = 0.001
"""Seconds before each sample, in which a neighbour's deferred work can end."""
SLOW = 1 / 10
"""The share of the budget that a call may take: whoever is slower, and neither bound nor ours, is timed once."""


class DisagreementError(MtlrefError):
    """Two contenders of one setup return different results, so their times say nothing."""


@dataclass(frozen=True)
class Contender:
    """Something to time: `call` does the work, `result` brings what it returned to comparable arrays.

    A bound computes only a part, or nothing comparable: its result is not looked at. `note` is printed beside it.
    """

    name: str
    role: Role
    call: Callable[[], Any]
    result: Callable[[Any], Sequence[Array]] = lambda returned: [np.asarray(returned, dtype=np.float64)]
    note: str = ""


@dataclass(frozen=True)
class Setup:
    """Contenders on one problem. `sizes` are printed, `units` of work in a call divide the seconds.

    `bar`: the ratio of ours to the bound that we want to keep, None without one.
    """

    sizes: dict[str, int | str]
    contenders: Sequence[Contender]
    bar: float | None = None
    tolerance: float = 1e-8
    units: int = 1

    @property
    def label(self) -> str:
        """The sizes in words."""
        return ", ".join(f"{name} {value}" for name, value in self.sizes.items())


@dataclass
class Timing:
    """The seconds of one call of a contender, sample by sample."""

    contender: Contender
    samples: list[float] = field(default_factory=list)

    def quantile(self, share: float) -> float:
        """Return a quantile of the samples: 0 the least, ½ the median."""
        return float(np.quantile(self.samples, share))

    @property
    def median(self) -> float:
        """The median sample."""
        return self.quantile(0.5)


@dataclass(frozen=True)
class Measured:
    """A setup's timings, and by how much the results differed: the largest difference over the largest entry."""

    case: str
    setup: Setup
    threads: int
    timings: Sequence[Timing]
    difference: float

    def median(self, role: Role) -> float | None:
        """Return the median of the first contender in this role, None without one."""
        return next((t.median for t in self.timings if t.contender.role == role), None)

    @property
    def to_bound(self) -> float | None:
        """How many times the bound ours takes."""
        ours, bound = self.median("ours"), self.median("bound")
        return None if ours is None or bound is None else ours / bound


def compare(setup: Setup) -> float:
    """Return the largest difference between the results. Errors: DisagreementError beyond the tolerance."""
    compared = [c for c in setup.contenders if c.role != "bound"]
    if not compared:
        return 0.0
    reference = compared[0].result(compared[0].call())
    worst = 0.0
    for contender in compared[1:]:
        theirs = contender.result(contender.call())
        if [a.shape for a in theirs] != [a.shape for a in reference]:
            raise DisagreementError(f"{setup.label}: {contender.name} and {compared[0].name} differ in shape")
        for ours, other in zip(reference, theirs, strict=True):
            scale = max(float(np.max(np.abs(ours), initial=0.0)), 1e-300)
            apart = float(np.max(np.abs(ours - other), initial=0.0)) / scale
            if not apart <= setup.tolerance:  # NaN is not
                raise DisagreementError(
                    f"{setup.label}: {contender.name} and {compared[0].name} differ by {apart:.2e}"
                )
            worst = max(worst, apart)
    return worst


def take(
    case: str,
    setup: Setup,
    threads: int,
    *,
    rounds: int,
    rng: np.random.Generator,
    budget: float = 60.0,
    clock: Clock = time.perf_counter,
) -> Measured:
    """Compare the contenders' results, then time them in `rounds` rounds (at least 3, fewer if `budget` seconds end).

    In a round everybody has one turn, in an order drawn anew. A turn is a pause, a call that is not timed, and a
    sample: as many calls as SHORTEST needs, over their number. Who is SLOW has one sample, of one call.
    """
    difference = compare(setup)
    timings = [Timing(contender) for contender in setup.contenders]
    began = time.perf_counter()
    with collector_off():
        once = [sample(timing.contender.call, 1, clock) for timing in timings]
        repeats = [max(1, math.ceil(SHORTEST / max(seconds, 1e-7))) for seconds in once]
        slow = [
            t.contender.role in ("hand", "peer") and s > SLOW * budget for t, s in zip(timings, once, strict=True)
        ]
        for turn in np.flatnonzero(slow):
            timings[turn].samples.append(once[turn] / setup.units)
        for done in range(rounds):
            if done >= 3 and time.perf_counter() - began > budget:
                break
            for turn in permuted(rng, len(timings)):
                if not slow[turn]:
                    seconds = sample(timings[turn].contender.call, repeats[turn], clock)
                    timings[turn].samples.append(seconds / setup.units)
    return Measured(case, setup, threads, timings, difference)


def sample(call: Callable[[], Any], repeats: int, clock: Clock = time.perf_counter) -> float:
    """Return the mean seconds of `repeats` calls by the clock, after a pause and a call that is not timed."""
    time.sleep(PAUSE)
    call()
    began = clock()
    for _ in range(repeats):
        call()
    return (clock() - began) / repeats


def permuted(rng: np.random.Generator, n: int) -> NDArray[np.int64]:
    """Return 0 … n − 1 in an order that is drawn."""
    return rng.permutation(n)


@contextmanager
def collector_off() -> Iterator[None]:
    """Keep Python's collector of cycles from running in somebody's turn."""
    was_on = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
