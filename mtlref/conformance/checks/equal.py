"""The checks of equal weights: whatever comes in, the weights are ones."""

from __future__ import annotations

from mtlref.conformance.check import answering, check, replaying
from mtlref.conformance.strategies import Plan
from mtlref.conformance.trial import Trial

PLAN = Plan(
    mandatory="weights",
    gradients=("generic", "conflicting", "zero row", "duplicated", "scaled"),
    losses=("falling", "far from 1", "rising", "with a zero"),
)
"""There is nothing to set."""


# EQUATIONS


@check("w")
def check_equal_weights(trial: Trial) -> None:
    """EQ-1: w_i = 1, whatever the losses and gradients are."""
    trial.matches("w")


@check("weights")
def check_equal_weights_in_use(trial: Trial) -> None:
    """EQ-1: the shared parameters' gradients are weighted with ones."""
    trial.matches("weights")


@check("weights", on="run")
def check_equal_weights_never_change(trial: Trial) -> None:
    """EQ-1: they are the same at every step of a run."""
    trial.matches("weights")


@check("head_weights")
def check_equal_heads(trial: Trial) -> None:
    """EQ-1: head i descends ∇L_i."""
    trial.matches("head_weights")


@check("direction")
def check_equal_direction(trial: Trial) -> None:
    """MTL-1: the shared parameters descend Σ ∇L_i, a sum over the tasks and not a mean."""
    trial.matches("direction")


CHECKS = (
    answering("equal", "EQ-1"),
    check_equal_weights,
    check_equal_weights_in_use,
    check_equal_weights_never_change,
    check_equal_heads,
    check_equal_direction,
    replaying("equal", "EQ-1"),
)
"""In tag order."""
