"""The weighting methods, one module a method, and `METHODS`: stem → class; the networks among them: `NETWORKS`."""

from __future__ import annotations

from mtlref.contract import Method
from mtlref.methods.combination import Combination, CombinationState
from mtlref.methods.cov import CoVState, CoVWeighting
from mtlref.methods.dwa import DWA, DWAState
from mtlref.methods.equal import EqualState, EqualWeights
from mtlref.methods.fixed import FixedState, FixedWeights
from mtlref.methods.gradnorm import GradNorm, GradNormState
from mtlref.methods.hmoe import HMoE
from mtlref.methods.pcgrad import PCGrad, PCGradState
from mtlref.methods.pe_ltr import PELTR, PELTRState
from mtlref.methods.stages import Stage
from mtlref.methods.uncertainty import UncertaintyState, UncertaintyWeighting

METHODS: dict[str, type[Method]] = {
    "equal": EqualWeights,
    "fixed": FixedWeights,
    "gradnorm": GradNorm,
    "pe_ltr": PELTR,
    "pcgrad": PCGrad,
    "uncertainty": UncertaintyWeighting,
    "dwa": DWA,
    "cov": CoVWeighting,
    "combination": Combination,
}
"""Every weighting method by its stem."""

NETWORKS: dict[str, type[HMoE]] = {"hmoe": HMoE}
"""The methods that weight nothing but are a network with a mask on its gradient, by stem."""

__all__ = [
    "DWA",
    "METHODS",
    "NETWORKS",
    "PELTR",
    "CoVState",
    "CoVWeighting",
    "Combination",
    "CombinationState",
    "DWAState",
    "EqualState",
    "EqualWeights",
    "FixedState",
    "FixedWeights",
    "GradNorm",
    "GradNormState",
    "HMoE",
    "PCGrad",
    "PCGradState",
    "PELTRState",
    "Stage",
    "UncertaintyState",
    "UncertaintyWeighting",
]
