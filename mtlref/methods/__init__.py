"""The weighting methods, one module a method, and `METHODS`: stem → class."""

from __future__ import annotations

from mtlref.contract import Method
from mtlref.methods.dwa import DWA, DWAState
from mtlref.methods.equal import EqualState, EqualWeights
from mtlref.methods.gradnorm import GradNorm, GradNormState

METHODS: dict[str, type[Method]] = {
    "equal": EqualWeights,
    "gradnorm": GradNorm,
    "dwa": DWA,
}
"""Every weighting method by its stem."""

__all__ = ["DWA", "METHODS", "DWAState", "EqualState", "EqualWeights", "GradNorm", "GradNormState"]
