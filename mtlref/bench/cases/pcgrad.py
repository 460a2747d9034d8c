"""pcgrad: a step of PCGrad and the combination of the gradients by its weights, from a Jacobian that is there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtlref.bench.machine import peer
from mtlref.bench.measure import Contender, Setup
from mtlref.contract import products
from mtlref.methods.pcgrad import PCGrad
from mtlref.notation import Array

TITLE = "PCGrad's step from a Jacobian (K, D), and the direction Jᵀ w"
BOUND = "the inner products J Jᵀ and one combination Jᵀ w"
Order = NDArray[Any]


def setups(full: bool, peers: bool) -> Iterator[Setup]:
    """Yield Jacobians of normal entries, of which half of the pairs conflict."""
    sizes = [(10, 10**4), (2, 10**5), (10, 10**5), (40, 10**5), (10, 10**6)]
    for K, D in [*sizes, (2, 10**6), (200, 10**5), (40, 10**6)] if full else sizes:
        rng = np.random.default_rng(0)
        J = rng.normal(size=(K, D)) - 0.1
        draw = PCGrad().sample(rng, K)
        made = [
            Contender("bound", "bound", partial(bound, J)),
            Contender("mtlref", "ours", partial(ours, J, draw)),
            Contender("NumPy loop", "hand", partial(naive, J, draw)),
        ]
        if peers and peer("torch"):
            made.append(Contender("torch loop", "peer", torch_loop(J, draw)))
        if peers and peer("torchjd"):
            made.append(Contender("TorchJD", "peer", torchjd(J, draw)))
        yield Setup({"K": K, "D": D}, made, 1.2 if D >= 10**5 else None)


def bound(J: Array) -> Array:
    """Return the direction of the sum, after the inner products, of few rows in the quicker way that BLAS has."""
    return np.diag(products(J)) @ J


def ours(J: Array, draw: Order) -> Array:
    """Return mtlref's direction."""
    method = PCGrad()
    out = method.step(method.init(len(J)), np.ones(len(J)), J, draw)
    return np.asarray(out.weights @ J)


def naive(J: Array, draw: Order) -> Array:
    """Return Algorithm 1, pair by pair, on the gradients themselves."""
    total = np.zeros(J.shape[1])
    for i, order in enumerate(draw):
        g = J[i].copy()
        for j in order:
            overlap = g @ J[j]
            if overlap < 0:
                g -= overlap / (J[j] @ J[j]) * J[j]
        total += g
    return total


def torch_loop(J: Array, draw: Order) -> Callable[[], Any]:
    """Return the same loop in torch."""
    torch: Any = peer("torch")
    rows = torch.tensor(J)

    def call() -> Any:
        total = torch.zeros(J.shape[1], dtype=torch.float64)
        for i, order in enumerate(draw):
            g = rows[i].clone()
            for j in order:
                overlap = g @ rows[j]
                if overlap < 0:
                    g -= overlap / (rows[j] @ rows[j]) * rows[j]
            total += g
        return total

    return call


def torchjd(J: Array, draw: Order) -> Callable[[], Any]:
    """Return TorchJD's aggregator, its random permutations replaced by ours."""
    torch: Any = peer("torch")
    aggregator = peer("torchjd.aggregation").PCGrad()  # type: ignore[union-attr]
    rows = torch.tensor(J)
    orders = [torch.tensor([*order.tolist(), i]) for i, order in enumerate(draw)]

    def call() -> Any:
        handed, drawn = iter(orders), torch.randperm
        torch.randperm = lambda *_, **__: next(handed)
        try:
            return aggregator(rows)
        finally:
            torch.randperm = drawn

    return call
