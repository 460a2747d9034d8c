"""mtlref: the executable specification of multi-task loss balancing.

Every method is a frozen dataclass with `init` and `step` (see `mtlref.contract`); `METHODS` lists them by name.
`NETWORKS` lists those that are a network instead, with `init` and `forward` (see `mtlref.mixtures`).
"""

from __future__ import annotations

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
