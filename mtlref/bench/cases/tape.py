"""tape: the cost of one recorded operation, forward and backward, on arrays of eight numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

from mtlref.autograd import constant, jacobian, parameter, tanh
from mtlref.bench.machine import peer
from mtlref.bench.measure import Contender, Setup
from mtlref.notation import Array

TITLE = "a recorded operation: y ← tanh(y), y ← y · b in turn, forward and backward"
BOUND = "the bare NumPy calls of both directions"
WIDTH = 8


def setups(full: bool, peers: bool) -> Iterator[Setup]:
    """Yield chains of operations: the seconds are those of one operation."""
    x, b = np.linspace(0.1, 1.0, WIDTH), np.linspace(0.9, 1.1, WIDTH)
    for operations in (10, 100, 1000) if full else (100,):
        contenders = [
            Contender("bound", "bound", partial(bare, x, b, operations)),
            Contender("mtlref", "ours", partial(ours, x, b, operations)),
        ]
        for name, make in PEERS.items() if peers else ():
            call = make(x, b, operations)
            if call is not None:
                contenders.append(Contender(name, "peer", call))
        yield Setup({"operations": operations, "entries": WIDTH}, contenders, units=operations)


def bare(x: Array, b: Array, operations: int) -> Array:
    """Return the gradient by NumPy calls and nothing else."""
    y, kept = x, []
    for _ in range(operations // 2):
        t = np.tanh(y)
        kept.append(t)
        y = t * b
    c = np.ones(len(x))
    for t in reversed(kept):
        c = (c * b) * (1 - t * t)
    return np.asarray(c)


def ours(x: Array, b: Array, operations: int) -> Array:
    """Return the gradient on mtlref's tape."""
    leaf, factor = parameter(x), constant(b)
    y = leaf
    for _ in range(operations // 2):
        y = tanh(y) * factor
    gradient: Array = jacobian([y.sum()], [leaf]).matrix[0]
    return gradient


def in_torch(x: Array, b: Array, operations: int) -> Callable[[], Any] | None:
    """Return the same in torch."""
    torch = peer("torch")
    if torch is None:
        return None
    leaf, factor = torch.tensor(x, requires_grad=True), torch.tensor(b)

    def call() -> Any:
        y = leaf
        for _ in range(operations // 2):
            y = torch.tanh(y) * factor
        return torch.autograd.grad(y.sum(), leaf)[0]

    return call


def in_autograd(x: Array, b: Array, operations: int) -> Callable[[], Any] | None:
    """Return the same in HIPS autograd."""
    if peer("autograd") is None:
        return None
    autograd, anp = peer("autograd"), peer("autograd.numpy")

    def total(y: Any) -> Any:
        for _ in range(operations // 2):
            y = anp.tanh(y) * b  # type: ignore[union-attr]
        return anp.sum(y)  # type: ignore[union-attr]

    gradient = autograd.grad(total)  # type: ignore[union-attr]
    return lambda: gradient(x)


def in_mygrad(x: Array, b: Array, operations: int) -> Callable[[], Any] | None:
    """Return the same in mygrad."""
    mygrad = peer("mygrad")
    if mygrad is None:
        return None

    def call() -> Any:
        leaf = mygrad.tensor(x)
        y = leaf
        for _ in range(operations // 2):
            y = mygrad.tanh(y) * b
        y.sum().backward()
        return leaf.grad

    return call


PEERS = {"torch": in_torch, "autograd": in_autograd, "mygrad": in_mygrad}
