"""checks: all conformance checks of one method on the reference, where the conformance suite is there."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from functools import partial
from typing import Any

from mtlref.bench.measure import Contender, Setup
from mtlref.methods import METHODS
from mtlref.notation import Array

TITLE = "all checks of one method on the reference implementation"
BOUND = "none"


def setups(full: bool, peers: bool) -> Iterator[Setup]:
    """Yield the methods: the first three, all of them if `full`."""
    suite: Any = importlib.import_module("mtlref.conformance")
    for stem in METHODS if full else list(METHODS)[:3]:
        one = suite.Implementation(stem, name="the reference", step=lambda problem, state: problem.observables(state))
        yield Setup({"method": stem}, [Contender("mtlref", "ours", partial(suite.check_implementation, one), none)])


def none(_: object) -> list[Array]:
    """Return no result: one contender has nobody to be compared with."""
    return []
