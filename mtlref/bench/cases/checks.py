"""checks: all conformance checks of one method on the reference, where the conformance suite is there."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from functools import partial
from typing import Any

from mtlref.bench.measure import Contender, Setup
from mtlref.methods import METHODS
from mtlref.notation import Array, MtlrefError

TITLE = "all checks of one method on the reference implementation"
BOUND = "none"


def setups(full: bool, peers: bool) -> Iterator[Setup]:
    """Yield the methods that have checks. Errors: MtlrefError if the suite cannot be used from here."""
    suite: Any = importlib.import_module("mtlref.conformance")
    if not hasattr(suite, "check_implementation") or not hasattr(suite, "reference"):
        raise MtlrefError("mtlref.conformance has no check_implementation and reference for this case to call")
    for stem in METHODS if full else list(METHODS)[:3]:
        call = partial(suite.check_implementation, suite.reference(stem))
        yield Setup({"method": stem}, [Contender("mtlref", "ours", call, none)])


def none(_: object) -> list[Array]:
    """Return no result: one contender has nobody to be compared with."""
    return []
