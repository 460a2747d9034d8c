"""The checks of fixed weights: whatever comes in, the weights are those given."""

from __future__ import annotations

from mtlref.conformance.check import answering, check, replaying
from mtlref.conformance.strategies import Plan
from mtlref.conformance.trial import Trial


def unequal(K: int) -> tuple[float, ...]:
    """Return K weights that differ, on both sides of 1, and sum to neither 1 nor K."""
    return tuple(0.3 + 0.7 * ((3 * i + 1) % 8) for i in range(K))


def with_a_zero(K: int) -> tuple[float, ...]:
    """Return K weights of which the first is 0: its task is left out."""
    return (0.0, *unequal(K)[1:])


PLAN = Plan(
    mandatory="weights",
    settings=({"weights": unequal}, {"weights": 0.4}, {"weights": with_a_zero}, {"weights": 1.0}),
    gradients=("generic", "conflicting", "zero row", "duplicated", "scaled"),
    losses=("falling", "far from 1", "rising", "with a zero"),
)
"""Weights a task, and one number for all."""


# EQUATIONS


@check("w")
def check_fixed_weights(trial: Trial) -> None:
    """FIX-1: w_i is the given weight, whatever the losses and gradients are."""
    trial.matches("w")


@check("weights")
def check_fixed_weights_in_use(trial: Trial) -> None:
    """FIX-1: the shared parameters' gradients are weighted with them as they are."""
    trial.matches("weights")


@check("weights", on="run")
def check_fixed_weights_never_change(trial: Trial) -> None:
    """FIX-1: they are the same at every step of a run."""
    trial.matches("weights")


@check("head_weights")
def check_fixed_heads(trial: Trial) -> None:
    """FIX-2: head i descends w_i ∇L_i."""
    trial.matches("head_weights")


@check("direction")
def check_fixed_direction(trial: Trial) -> None:
    """MTL-1: the shared parameters descend Σ w_i ∇L_i, a sum over the tasks and not a mean."""
    trial.matches("direction")


CHECKS = (
    answering("fixed", "FIX-1"),
    check_fixed_weights,
    check_fixed_weights_in_use,
    check_fixed_weights_never_change,
    check_fixed_heads,
    check_fixed_direction,
    replaying("fixed", "FIX-1"),
)
"""In tag order."""
