"""Defects: known wrong variants of the methods, each the specification with one tagged equation replaced.

A `Defect` says which functions of the method's module it puts in whose place. `variant` builds the method that
results: its `step` is the specification's own code, run with the replaced names and nothing else changed. So
defects combine, as they do in public code, and a defect that meets the same inputs as the specification gives
exactly what an implementation with that mistake gives.

`DEFECTS` lists them by the method's stem, `combinations` in the order in which the diagnosis tries them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations as choose

from mtlref.defects import combination, cov, dwa, equal, fixed, gradnorm, hmoe, pcgrad, pe_ltr, uncertainty
from mtlref.defects.defect import Defect, variant

DEFECTS: Mapping[str, tuple[Defect, ...]] = {
    "equal": equal.DEFECTS,
    "fixed": fixed.DEFECTS,
    "gradnorm": gradnorm.DEFECTS,
    "pe_ltr": pe_ltr.DEFECTS,
    "pcgrad": pcgrad.DEFECTS,
    "uncertainty": uncertainty.DEFECTS,
    "dwa": dwa.DEFECTS,
    "cov": cov.DEFECTS,
    "combination": combination.DEFECTS,
    "hmoe": hmoe.DEFECTS,
}
"""The known defects of every method, by its stem."""


def combinations(stem: str, most: int = 2) -> Iterator[tuple[Defect, ...]]:
    """Yield the method's defects alone, then in pairs, up to `most` at once.

    Only defects of different equations combine: two that replace one function cannot both be there.
    """
    for size in range(1, most + 1):
        for chosen in choose(DEFECTS[stem], size):
            if compatible(chosen):
                yield chosen


def compatible(chosen: Sequence[Defect]) -> bool:
    """Return whether no two of the chosen defects replace the same function."""
    replaced = [name for defect in chosen for name in defect.replaces]
    return len(replaced) == len(set(replaced))


__all__ = ["DEFECTS", "Defect", "combinations", "compatible", "variant"]
