"""mtlref: the executable specification of multi-task loss balancing.

Every method is a frozen dataclass with `init` and `step` (see `mtlref.contract`); `METHODS` lists them by name.
`NETWORKS` lists those that are a network instead, with `init` and `forward` (see `mtlref.mixtures`).
A name's module is loaded when the name is first used, so that importing the package costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mtlref.contract import Method, Step, compress, from_gram
    from mtlref.methods import (
        DWA,
        METHODS,
        NETWORKS,
        PELTR,
        Combination,
        CombinationState,
        CoVState,
        CoVWeighting,
        DWAState,
        EqualState,
        EqualWeights,
        FixedState,
        FixedWeights,
        GradNorm,
        GradNormState,
        HMoE,
        PCGrad,
        PCGradState,
        PELTRState,
        Stage,
        UncertaintyState,
        UncertaintyWeighting,
    )
    from mtlref.mixtures import MMoE
    from mtlref.notation import DomainError, LogError, MissingExtraError, MtlrefError, NonFiniteError, ShapeError
    from mtlref.optimisers import SGD, Adam, Momentum
    from mtlref.state import State, from_json, to_json

__version__ = "0.1.0"

__all__ = [
    "DWA",
    "METHODS",
    "NETWORKS",
    "PELTR",
    "SGD",
    "Adam",
    "CoVState",
    "CoVWeighting",
    "Combination",
    "CombinationState",
    "DWAState",
    "DomainError",
    "EqualState",
    "EqualWeights",
    "FixedState",
    "FixedWeights",
    "GradNorm",
    "GradNormState",
    "HMoE",
    "LogError",
    "MMoE",
    "Method",
    "MissingExtraError",
    "Momentum",
    "MtlrefError",
    "NonFiniteError",
    "PCGrad",
    "PCGradState",
    "PELTRState",
    "ShapeError",
    "Stage",
    "State",
    "Step",
    "UncertaintyState",
    "UncertaintyWeighting",
    "compress",
    "from_gram",
    "from_json",
    "to_json",
]

HOMES = ("methods", "mixtures", "contract", "notation", "optimisers", "state")
"""The modules that the names above live in; each is loaded when one of its names is first asked for."""


def __getattr__(name: str) -> Any:
    """Return a public name, loading its module, or one of these modules."""
    if name in HOMES:
        return importlib.import_module(f"mtlref.{name}")
    if name in __all__:
        for home in HOMES:
            module = importlib.import_module(f"mtlref.{home}")
            if hasattr(module, name):
                globals()[name] = getattr(module, name)
                return globals()[name]
    raise AttributeError(f"module 'mtlref' has no attribute {name!r}")


def __dir__() -> list[str]:
    """Return the public names."""
    return sorted({*globals(), *__all__})
