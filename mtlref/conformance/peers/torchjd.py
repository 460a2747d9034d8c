"""TorchJD: its PCGrad aggregator, its scalarizers UW and DWA, and its Jacobians."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any
from unittest import mock

import numpy as np
import torch
from torchjd.aggregation import PCGrad
from torchjd.autojac import jac
from torchjd.scalarization import DWA, UW

from mtlref.conformance.adapters.torch import Surrogate, flat, network
from mtlref.conformance.implementation import Implementation
from mtlref.conformance.live import Live
from mtlref.conformance.problem import Problem, Run
from mtlref.state import State

pcgrad_module = import_module("torchjd.aggregation._pcgrad")

# PCGRAD


class Permuting:
    """The module torch, but for `randperm`, which gives the orders of a draw, each task's own index at the end."""

    def __init__(self, draw: Any) -> None:
        self.orders = iter([[*row, i] for i, row in enumerate(np.asarray(draw).tolist())])

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)

    def randperm(self, n: int) -> torch.Tensor:
        """Return the next order."""
        return torch.tensor(next(self.orders))


def pcgrad_step(problem: Problem, state: State) -> Mapping[str, Any]:
    """Take one step with the orders of the draw."""
    aggregator = PCGrad()
    weights: list[torch.Tensor] = []
    aggregator.gramian_weighting.register_forward_hook(lambda module, given, out: weights.append(out))
    with mock.patch.object(pcgrad_module, "torch", Permuting(problem.draw)):
        direction = aggregator(torch.tensor(problem.jacobian))
    return {"w": weights[0], "weights": weights[0], "direction": direction}


def pcgrad() -> Implementation:
    """Return PCGrad's Implementation."""
    return Implementation("pcgrad", name="TorchJD", step=pcgrad_step)


# UNCERTAINTY WEIGHTING


def uncertainty_step(problem: Problem, state: Any) -> Mapping[str, Any]:
    """Take one step from the state's log-variances."""
    surrogate, scalarizer = Surrogate(problem), UW(problem.n_tasks).double()
    with torch.no_grad():
        scalarizer.log_var.copy_(torch.tensor(state.log_variances))
    return descended(problem, surrogate, scalarizer)


def uncertainty_run(run: Run) -> Iterator[Mapping[str, Any]]:
    """Take a run from the scalarizer's own start."""
    surrogate, scalarizer = Surrogate(run), UW(run.n_tasks).double()
    for problem in run:
        surrogate.zero_grad()
        scalarizer.zero_grad()
        yield descended(problem, surrogate, scalarizer)


def descended(problem: Problem, surrogate: Surrogate, scalarizer: UW) -> dict[str, Any]:
    """Return what a step of SGD on everything shows."""
    objective = scalarizer(torch.stack(surrogate(problem)))
    objective.backward()
    assert scalarizer.log_var.grad is not None
    ds = scalarizer.log_var.grad.clone()
    torch.optim.SGD([scalarizer.log_var], lr=problem.method.lr).step()  # type: ignore[attr-defined]
    s_next = scalarizer.log_var.detach().clone()
    seen = surrogate.observed()
    return {"w": seen["head_weights"], "objective": objective, "ds": ds, "s_next": s_next, **seen}


def uncertainty() -> Implementation:
    """Return UW's Implementation: the form for Gaussian likelihoods, the noise counted once a task, as documented."""
    choices = {"likelihoods": "gaussian", "optimiser": None, "dimensions": None}
    return Implementation("uncertainty", name="TorchJD", step=uncertainty_step, run=uncertainty_run, choices=choices)


# DYNAMIC WEIGHT AVERAGE


def dwa_run(run: Run) -> Iterator[Mapping[str, Any]]:
    """Take a run of epochs of a few batches."""
    scalarizer = DWA(temperature=run.method.temperature)  # type: ignore[attr-defined]
    for problem in run:
        surrogate = Surrogate(problem)
        copy.deepcopy(scalarizer)(torch.stack(surrogate(problem))).backward()
        for losses in problem.losses[None] if problem.batches is None else problem.batches:
            scalarizer(torch.tensor(losses))
        scalarizer.step()
        row = {"weights": surrogate.observed()["head_weights"], **surrogate.observed()}
        values = torch.tensor(problem.losses, requires_grad=True)
        copy.deepcopy(scalarizer)(values).backward()
        yield {**row, "w_next": values.grad}


def dwa() -> Implementation:
    """Return DWA's Implementation."""
    return Implementation("dwa", name="TorchJD", run=dwa_run)


# PER-TASK GRADIENTS


def jacobian_step(live: Live, state: State) -> Mapping[str, Any]:
    """Differentiate a live network's losses."""
    model = network(live)
    losses = model.losses(live)
    parts = jac(losses, list(model.shared), retain_graph=True)
    heads = [jac(loss, list(head)) for loss, head in zip(model.losses(live), model.heads, strict=True)]
    rows = torch.cat([part.reshape(len(losses), -1) for part in parts], dim=1)
    return {"losses": losses, "jacobian": rows, "head_gradients": torch.cat([flat(head) for head in heads])}


def jacobian() -> Implementation:
    """Return the Implementation of the Jacobians."""
    return Implementation("jacobian", name="TorchJD", step=jacobian_step)
