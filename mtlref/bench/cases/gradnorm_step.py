"""gradnorm-step: losses, gradient norms at the last shared layer, and the new weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from mtlref.autograd import jacobian, parameters_of
from mtlref.bench import peers as libraries
from mtlref.bench.cases.jacobian import Problem, problem, stacked_losses
from mtlref.bench.machine import peer
from mtlref.bench.measure import Contender, Setup
from mtlref.methods.gradnorm import GradNorm
from mtlref.notation import Array

TITLE = "GradNorm: K losses, the norms of their gradients by the last shared weights, and the weights after one step"
BOUND = "the matrix products of the forward pass and of the backward pass through the heads to that layer"
LR = 1e-4


def setups(full: bool, peers: bool) -> Iterator[Setup]:
    """Yield networks with a tanh trunk of three layers."""
    sizes = [(32, 2, 64), (32, 10, 64), (128, 10, 64), (512, 10, 64)]
    for width, K, batch in [*sizes, (128, 2, 1024), (128, 40, 1024), (512, 10, 1024)] if full else sizes:
        one = problem(width, 3, K, batch, "mse", "relu")
        made = [
            Contender("bound", "bound", bound(one)),
            Contender("mtlref", "ours", ours(one)),
        ]
        if peers and peer("gradnorm_pytorch") and peer("torch"):
            note = "its own whole backward pass included; float64 buffers"
            made.append(Contender("gradnorm-pytorch", "peer", gradnorm_pytorch(one), note=note))
        yield Setup({"width": width, "depth": 3, "K": K, "batch": batch}, made, 1.5)


def ours(one: Problem) -> Callable[[], Array]:
    """Return the call of mtlref: one forward pass, a sweep to the last shared weights, a step of GradNorm."""
    last, function = 2 * one.depth - 2, stacked_losses(one)
    method = GradNorm(alpha=0.0, lr=LR)
    state = method.init(one.K)

    def call() -> Array:
        leaves = parameters_of(one.flat)
        L = function(leaves)
        J = jacobian(L, leaves[last : last + 1])
        return method.step(state, L.value, J.matrix).state.weights  # type: ignore[attr-defined,no-any-return]

    return call


def gradnorm_pytorch(one: Problem) -> Callable[[], Any]:
    """Return the package's call, at alpha = 0; K times the rate makes up for the mean in its gradient loss."""
    torch: Any = peer("torch")
    weighter: Any = peer("gradnorm_pytorch").GradNormLossWeighter  # type: ignore[union-attr]
    found = libraries.torch_losses(one)
    assert found is not None
    leaves, function = found
    leaves = [torch.nn.Parameter(leaf.detach().clone()) for leaf in leaves]
    last = 2 * one.depth - 2

    def call() -> Any:
        made = weighter(
            loss_weights=torch.ones(one.K, dtype=torch.float64),
            num_losses=one.K,
            learning_rate=LR * one.K,
            grad_norm_parameters=leaves[last],
        ).double()
        for leaf in leaves:
            leaf.grad = None
        made.backward(function(leaves))
        return made.loss_weights.detach()

    return call


def bound(one: Problem) -> Callable[[], None]:
    """Return the bare products, into arrays that are there."""
    d, K, B, m, o = one.depth, one.K, one.batch, one.width, one.outputs
    W, H = one.flat[0], one.flat[2 * d]
    z, y, e, spread = np.empty((B, m)), np.empty((B, o)), np.full((B, o), 0.5), np.empty((B, m))
    slope = np.empty((m, m))

    def call() -> None:
        for _ in range(d):
            np.matmul(one.x, W, out=z)
        for _ in range(K):
            np.matmul(one.x, H, out=y)
            np.matmul(e, H.T, out=spread)
            np.matmul(one.x.T, spread, out=slope)

    return call
