"""LibMTL: its weighting classes alone. Its package imports torchvision at the top, which they do not need.

The classes are mixins of its models: `Model` gives them what its architectures give, the shared parameters, and its
trainer's bookkeeping is done as the trainer does it. They compute in float32.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import torch

from mtlref.conformance.adapters.torch import Surrogate
from mtlref.conformance.implementation import Implementation
from mtlref.conformance.problem import Problem, Run
from mtlref.notation import Array
from mtlref.state import State

FLOAT = torch.float32


@contextmanager
def bare_package() -> Iterator[None]:
    """Put an empty LibMTL with the real one's path in its place, so that importing a part does not
    import the whole."""
    spec = find_spec("LibMTL")
    if spec is None or spec.submodule_search_locations is None:
        raise ImportError("LibMTL is not installed", name="LibMTL")
    package = ModuleType("LibMTL")
    package.__path__ = list(spec.submodule_search_locations)
    with mock.patch.dict(sys.modules, {"LibMTL": package}):
        yield


with bare_package():
    weighting = import_module("LibMTL.weighting")
    pcgrad_module = import_module("LibMTL.weighting.PCGrad")


def model_of(kind: str, surrogate: Surrogate, K: int) -> Any:
    """Return LibMTL's class of that name on the surrogate's shared parameters."""
    base: Any = getattr(weighting, kind)

    class Model(base):
        def get_share_params(self) -> Any:
            return surrogate.shared.parameters()

        def zero_grad_share_params(self) -> None:
            surrogate.shared.zero_grad(set_to_none=False)  # as PyTorch 1 did it: under 2 the class crashes

    model = Model()
    model.task_num, model.device, model.rep_grad, model.epoch = K, torch.device("cpu"), False, 0
    model.init_param()
    return model


def setting(problem: Problem, name: str) -> Any:
    """Return a hyper-parameter of the problem's method."""
    return getattr(problem.method, name)


# GRADNORM


def gradnorm_step(problem: Problem, state: Any) -> Mapping[str, Any]:
    """Take one step of an epoch after the first, from logits whose softmax gives the state's weights."""
    surrogate = Surrogate(problem, FLOAT)
    model = model_of("GradNorm", surrogate, problem.n_tasks)
    with torch.no_grad():
        model.loss_scale.copy_(torch.tensor(state.weights).log())
    known = problem.losses if state.initial_losses is None else state.initial_losses
    model.epoch, model.train_loss_buffer = 1, known[:, None]
    return balanced(model, surrogate, problem)


def gradnorm_run(run: Run) -> Iterator[Mapping[str, Any]]:
    """Take a run that follows LibMTL's first epoch, whose mean losses are those of the first step.

    In that epoch the weights stay at 1; the tests ask for it by itself.
    """
    surrogate = Surrogate(run, FLOAT)
    model = model_of("GradNorm", surrogate, run.n_tasks)
    model.epoch, model.train_loss_buffer = 1, run.steps[0].losses[:, None]
    for problem in run:
        surrogate.zero_grad()
        model.zero_grad()
        yield balanced(model, surrogate, problem)


def balanced(model: Any, surrogate: Surrogate, problem: Problem) -> dict[str, Any]:
    """Return what LibMTL's GradNorm makes of a problem, its logits then moved by SGD."""
    weights = model.backward(torch.stack(surrogate(problem)), alpha=vars(problem.method)["alpha"])
    if model.loss_scale.grad is not None:
        torch.optim.SGD([model.loss_scale], lr=vars(problem.method)["lr"]).step()
    w_next = len(weights) * torch.softmax(model.loss_scale.detach(), dim=-1)
    return {"weights": weights, "w_next": w_next, **surrogate.observed()}


def gradnorm() -> Implementation:
    """Return GradNorm's Implementation; its weights are positive and sum to K from the start."""
    return Implementation("gradnorm", name="LibMTL", step=gradnorm_step, run=gradnorm_run, dtype="float32")


# PCGRAD


def pcgrad_step(problem: Problem, state: State) -> Mapping[str, Any]:
    """Take one step with the orders of the draw, each task's own index at the end of its order."""
    orders = iter([[*row, i] for i, row in enumerate(np.asarray(problem.draw).tolist())])

    def shuffle(tasks: list[int]) -> None:
        tasks[:] = next(orders)

    surrogate = Surrogate(problem, FLOAT)
    model = model_of("PCGrad", surrogate, problem.n_tasks)
    with mock.patch.object(pcgrad_module, "random", SimpleNamespace(shuffle=shuffle)):
        weights = model.backward(torch.stack(surrogate(problem)))
    return {"w": weights, "weights": weights, **surrogate.observed()}


def pcgrad() -> Implementation:
    """Return PCGrad's Implementation."""
    return Implementation("pcgrad", name="LibMTL", step=pcgrad_step, dtype="float32")


# UNCERTAINTY WEIGHTING


def uncertainty_step(problem: Problem, state: Any) -> Mapping[str, Any]:
    """Take one step from the state's log-variances."""
    surrogate = Surrogate(problem, FLOAT)
    model = model_of("UW", surrogate, problem.n_tasks)
    with torch.no_grad():
        model.loss_scale.copy_(torch.tensor(state.log_variances))
    weights = model.backward(torch.stack(surrogate(problem)))
    ds = model.loss_scale.grad.clone()
    torch.optim.SGD([model.loss_scale], lr=vars(problem.method)["lr"]).step()
    return {"w": weights, "weights": weights, "ds": ds, "s_next": model.loss_scale.detach(), **surrogate.observed()}


def uncertainty() -> Implementation:
    """Return UW's Implementation. Where it starts, at s = −½, is a choice (UW-C2): states are put in."""
    choices = {"likelihoods": "gaussian", "optimiser": None, "dimensions": None}
    return Implementation("uncertainty", name="LibMTL", step=uncertainty_step, dtype="float32", choices=choices)


# DYNAMIC WEIGHT AVERAGE


def dwa_run(run: Run) -> Iterator[Mapping[str, Any]]:
    """Take a run of epochs; the trainer's buffer holds each epoch's mean losses."""
    surrogate = Surrogate(run, FLOAT)
    model = model_of("DWA", surrogate, run.n_tasks)
    model.train_loss_buffer = np.zeros((run.n_tasks, len(run)))
    for model.epoch, problem in enumerate(run):
        surrogate.zero_grad()
        weights = model.backward(torch.stack(surrogate(problem)), T=vars(problem.method)["temperature"])
        row = {"weights": weights, **surrogate.observed()}
        model.train_loss_buffer[:, model.epoch] = np.mean(batches(problem), axis=0)
        yield {**row, "w_next": coming(model, surrogate, problem)}


def batches(problem: Problem) -> Array:
    """Return the losses of the epoch's batches."""
    return problem.losses[None] if problem.batches is None else problem.batches


def coming(model: Any, surrogate: Surrogate, problem: Problem) -> Any:
    """Return the weights of the epoch that comes."""
    model.epoch += 1
    weights = model.backward(torch.stack(surrogate(problem)), T=vars(problem.method)["temperature"])
    model.epoch -= 1
    return weights


def dwa() -> Implementation:
    """Return DWA's Implementation."""
    return Implementation("dwa", name="LibMTL", run=dwa_run, dtype="float32")


# EQUAL WEIGHTS


def equal_step(problem: Problem, state: State) -> Mapping[str, Any]:
    """Take one step."""
    surrogate = Surrogate(problem, FLOAT)
    model = model_of("EW", surrogate, problem.n_tasks)
    weights = model.backward(torch.stack(surrogate(problem)))
    return {"w": weights, "weights": weights, **surrogate.observed()}


def equal() -> Implementation:
    """Return EW's Implementation."""
    return Implementation("equal", name="LibMTL", step=equal_step, dtype="float32")
