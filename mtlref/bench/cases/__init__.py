"""The cases, by name: modules with `TITLE`, `BOUND` and `setups(full, peers)`, or with `tables(full, rng)`."""

from __future__ import annotations

import importlib
import importlib.util
from types import ModuleType

NAMES = {
    "jacobian": "jacobian",
    "tape": "tape",
    "gradnorm-step": "gradnorm_step",
    "minimum-norm": "minimum_norm",
    "pcgrad": "pcgrad",
    "import": "imports",
    "checks": "checks",
    "audit": "audit",
    "growth": "growth",
    "memory": "memory",
}
"""The cases that `python -m mtlref.bench` knows, and their modules."""


def available() -> dict[str, str]:
    """Return the cases that can be run here: `checks` needs the conformance suite."""
    return {
        name: module
        for name, module in NAMES.items()
        if name != "checks" or importlib.util.find_spec("mtlref.conformance") is not None
    }


def load(name: str) -> ModuleType:
    """Return the module of a case."""
    return importlib.import_module(f"mtlref.bench.cases.{available()[name]}")
