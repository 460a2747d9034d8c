"""Any method: every one that the log can decide is tried, and what fits is named, the simplest first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mtlref.audit.inference.fit import Inference, infer
from mtlref.audit.readers import Log
from mtlref.methods import METHODS
from mtlref.notation import LogError, MtlrefError
from mtlref.settings import build, hyper_parameters

ORDER = ("equal", "fixed", "dwa", "cov", "uncertainty", "gradnorm", "pe_ltr", "pcgrad")
"""The methods in the order of what they read and how many settings they have. Combinations are not searched."""


@dataclass(frozen=True)
class Search:
    """What came of every method: `best` first, `others` that fit as well, and why a method was `left_out`."""

    best: Inference
    others: tuple[Inference, ...]
    left_out: Mapping[str, str]


def infer_any(log: Log, given: Mapping[str, Any] | None = None) -> Search:
    """Return what every method makes of the log. A setting that is `given` leaves out the methods without it.

    Errors: LogError if the log holds what no method reads.
    """
    from mtlref.audit.run import readable

    given, found, left_out = dict(given or {}), list[Inference](), dict[str, str]()
    for stem in ORDER:
        unknown = [name for name in given if name not in hyper_parameters(METHODS[stem])]
        if unknown:
            left_out[stem] = f"it has no setting {unknown[0]}"
            continue
        try:
            found.append(infer(stem, readable(log, build(stem, given)), given))
        except MtlrefError as error:
            left_out[stem] = str(error).removeprefix(f"{log.source}: ")
    if not found:
        raise LogError(f"{log.source}: no method can be judged by this log: {next(iter(left_out.values()))}")
    fitting = [one for one in found if one.fitting]
    if fitting:
        return Search(fitting[0], tuple(fitting[1:]), left_out)
    defective = [one for one in found if one.kind == "with a defect"]
    best = defective[0] if defective else min(found, key=lambda one: one.best.departures / max(one.best.steps, 1))
    return Search(best, (), left_out)
