"""gradnorm-pytorch: `GradNormLossWeighter`, which is given the losses and calls `backward` itself.

Documented and declared: two losses at least; the norms are those of one parameter, here the whole of the surrogate's
vector, or the last shared matrix of a live network. It keeps its weights in buffers, which are put in and read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from gradnorm_pytorch import GradNormLossWeighter

from mtlref.conformance.adapters.torch import Surrogate, network
from mtlref.conformance.implementation import Implementation
from mtlref.conformance.live import LiveRun
from mtlref.conformance.problem import Problem, Run
from mtlref.methods.gradnorm import GradNorm, GradNormState


def made(method: GradNorm, n_tasks: int, parameter: torch.nn.Parameter) -> GradNormLossWeighter:
    """Return the package's weighter in double precision."""
    return GradNormLossWeighter(
        num_losses=n_tasks,
        learning_rate=method.lr,
        restoring_force_alpha=float(method.alpha),
        grad_norm_parameters=parameter,
    ).double()


def stepped(weighter: GradNormLossWeighter, losses: list[torch.Tensor]) -> dict[str, Any]:
    """Return the weights before and after a call of the weighter."""
    before = weighter.loss_weights.clone()
    weighter.backward(losses)
    return {"weights": before, "w_next": weighter.loss_weights.clone()}


def step(problem: Problem, state: GradNormState) -> Mapping[str, Any]:
    """Take one step from any state."""
    model = Surrogate(problem, split=False)
    weighter = made(problem.method, problem.n_tasks, model.shared[0])  # type: ignore[arg-type]
    weighter.loss_weights.copy_(torch.tensor(state.weights))
    if state.initial_losses is not None:
        weighter.initial_losses.copy_(torch.tensor(state.initial_losses))
        weighter.initted.copy_(torch.tensor(True))
    return {**stepped(weighter, model(problem)), **model.observed()}


def run(given: Run) -> Iterator[Mapping[str, Any]]:
    """Take a run with one weighter."""
    model = Surrogate(given, split=False)
    weighter = made(given.method, given.n_tasks, model.shared[0])  # type: ignore[arg-type]
    for problem in given:
        model.zero_grad()
        yield {**stepped(weighter, model(problem)), **model.observed()}


def live(given: LiveRun) -> Iterator[Mapping[str, Any]]:
    """Take a live run with one weighter, which balances the last shared matrix."""
    model = network(given)
    weighter = made(given.method, given.n_tasks, model.last_shared[0])  # type: ignore[arg-type]
    for problem in given:
        model.load(problem)
        model.zero_grad()
        yield {**stepped(weighter, model.losses(problem)), **model.observed()}


def weighter() -> Implementation:
    """Return the Implementation."""
    choices = {"least": 2, "layer": "matrix"}
    return Implementation("gradnorm", name="gradnorm-pytorch", step=step, run=run, live=live, choices=choices)
