"""conflictfree: its `PCGradOperator`, which takes the gradients as a matrix."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from conflictfree.grad_operator import PCGradOperator

from mtlref.conformance.implementation import Implementation
from mtlref.conformance.problem import Problem
from mtlref.state import State


def pcgrad_step(problem: Problem, state: State) -> Mapping[str, Any]:
    """Take one step. The operator draws nothing, so there is nothing to hand the draw to."""
    return {"direction": PCGradOperator().calculate_gradient(torch.tensor(problem.jacobian))}


def pcgrad() -> Implementation:
    """Return PCGrad's Implementation."""
    return Implementation("pcgrad", name="conflictfree", step=pcgrad_step)
