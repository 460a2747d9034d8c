"""jacobian: the K task losses of a network with a shared trunk, and their K×D Jacobian."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mtlref import networks as nn
from mtlref.autograd import Tensor, value_and_jacobian
from mtlref.bench import peers as libraries
from mtlref.bench.measure import Contender, Setup
from mtlref.notation import Array

TITLE = "K task losses of a trunk with K heads, and their Jacobian by all parameters, (K, D), with `out`"
BOUND = "the matrix products of one forward pass and of one stacked backward sweep, into arrays that are there"
CLASSES = 5
BLOCK = 2**17  # numbers: 1 MiB of cotangents


@dataclass(frozen=True)
class Problem:
    """Parameters (weights and biases, shared ones first), the batch, and a target for each task."""

    width: int
    depth: int
    K: int
    batch: int
    loss: str
    activation: str
    network: nn.SharedTrunk
    parameters: nn.Parameters[Array]
    x: Array
    targets: tuple[Any, ...]
    x_in: Any = None
    targets_in: tuple[Any, ...] = ()

    @property
    def flat(self) -> tuple[Array, ...]:
        """The parameters in one tuple: the trunk's, then head by head."""
        return self.parameters.flat

    @property
    def outputs(self) -> int:
        """The width of a head."""
        return 1 if self.loss == "mse" else CLASSES

    def moved(self, into: Callable[[Any], Any]) -> Problem:
        """Return the problem with its data as another library's arrays."""
        return replace(self, x_in=into(self.x), targets_in=tuple(into(y) for y in self.targets))

    def only(self, task: int) -> Problem:
        """Return the problem of one task."""
        return replace(self, K=1, targets_in=self.targets[task : task + 1])


def problem(width: int, depth: int, K: int, batch: int, loss: str, activation: str = "relu") -> Problem:
    """Return a problem of these sizes, drawn with a seed.

    Biases are drawn too: with none, an example for which all units of a layer are 0 sits on the kinks of the next,
    where libraries take different derivatives (AD-C1).
    """
    rng = np.random.default_rng(0)
    outputs = 1 if loss == "mse" else CLASSES
    network = nn.SharedTrunk(width, (width,) * depth, (outputs,) * K, activation)  # type: ignore[arg-type]
    x = rng.normal(size=(batch, width))
    targets = tuple(
        rng.normal(size=(batch, 1)) if loss == "mse" else rng.integers(0, CLASSES, batch) for _ in range(K)
    )
    drawn = network.init(rng)
    parameters = drawn.rebuilt([a if a.ndim == 2 else rng.normal(size=a.shape) / 10 for a in drawn.flat])
    return Problem(width, depth, K, batch, loss, activation, network, parameters, x, targets, x, targets)


def setups(full: bool, peers: bool) -> Iterator[Setup]:
    """Yield networks: the corners of the grid, all of it if `full`."""
    for one in every() if full else some():
        made = [Contender("bound", "bound", bound(one)), Contender("mtlref", "ours", ours(one))]
        made += [Contender("mtlref, a new matrix", "ours", ours(one, kept=False))]
        made += [Contender("mtlref, head by head", "ours", head_by_head(one))]
        made += [Contender("NumPy by hand", "hand", by_hand(one)), Contender("NumPy loop", "hand", textbook(one))]
        made += libraries.contenders(one) if peers else []
        sizes: dict[str, int | str] = {"width": one.width, "depth": one.depth, "K": one.K, "batch": one.batch}
        yield Setup({**sizes, "loss": one.loss, "activation": one.activation}, made, bar(one))


def some() -> Iterator[Problem]:
    """Yield the problems of a short run."""
    for width, K in ((8, 10), (32, 2), (32, 10), (32, 40), (128, 2), (128, 10), (128, 40), (512, 10)):
        yield problem(width, 3, K, 64, "mse")
    yield problem(128, 3, 10, 64, "cross-entropy")
    yield problem(32, 3, 10, 64, "cross-entropy")
    yield problem(128, 3, 10, 64, "mse", "tanh")
    yield problem(128, 3, 10, 1024, "mse")


def every() -> Iterator[Problem]:
    """Yield all combinations of the sizes."""
    sizes = itertools.product((8, 32, 128, 512), (2, 3, 4), (2, 10, 40), (64, 1024), ("mse", "cross-entropy"))
    for width, depth, K, batch, loss in sizes:
        yield problem(width, depth, K, batch, loss)


def bar(one: Problem) -> float | None:
    """Return the ratio to the bound that we want to keep; none where the calls outweigh the products."""
    if one.width >= 128:
        return 1.25 if one.K > 2 else 2.0
    if one.width >= 32:
        return 1.6 if one.K >= 10 else 2.0
    return None


# OURS


def losses(one: Problem, flat: Sequence[Tensor]) -> list[Tensor]:
    """Return the task losses on the tape, each head recorded by itself."""
    loss = nn.mse if one.loss == "mse" else nn.cross_entropy
    outputs = one.network.forward(one.parameters.rebuilt(flat), one.x)
    return [loss(out, y) for out, y in zip(outputs, one.targets, strict=True)]


def stacked_losses(one: Problem) -> Callable[[Sequence[Tensor]], Tensor]:
    """Return the function from the parameters to the vector of task losses, the heads recorded as one."""
    loss, targets = nn.mse if one.loss == "mse" else nn.cross_entropy, np.stack(one.targets)
    return lambda flat: loss(one.network.stacked(one.parameters.rebuilt(flat), one.x), targets, each=True)


def ours(one: Problem, kept: bool = True) -> Callable[[], Array]:
    """Return the call of mtlref for heads of one shape, the matrix `kept` from call to call, or made anew."""
    function, out = stacked_losses(one), room(one) if kept else None
    return lambda: value_and_jacobian(function, one.flat, out=out)[1].matrix


def head_by_head(one: Problem) -> Callable[[], Array]:
    """Return the call of mtlref for heads of any shapes."""
    out = room(one)
    return lambda: value_and_jacobian(lambda flat: losses(one, flat), one.flat, out=out)[1].matrix


def room(one: Problem) -> Array:
    """Return a matrix for the Jacobian."""
    return np.empty((one.K, sum(a.size for a in one.flat)))


# BY HAND


def by_hand(one: Problem) -> Callable[[], Array]:
    """Return the best NumPy that we can write for this network: nothing is checked, all arrays are kept.

    Blocks of tasks of about 1 MiB, one reshaped product to propagate, weight gradients written straight into the K×D
    matrix, cotangents multiplied in place.
    """
    d, K, B, m, o = one.depth, one.K, one.batch, one.width, one.outputs
    sizes = np.cumsum([0] + [a.size for a in one.flat])
    matrix = np.zeros((K, sizes[-1]))
    views = [matrix[:, a:b] for a, b in itertools.pairwise(sizes)]
    block = max(1, min(K, BLOCK // (B * m)))
    front, back, ones = np.empty((block, B, m)), np.empty((block, B, m)), np.ones(B)

    def call() -> Array:
        h = forward(one)
        for first in range(0, K, block):
            n = min(block, K - first)
            c, spare = front[:n], back[:n]
            for k in range(first, first + n):
                W = one.flat[2 * (d + k)]
                e = head_slope(one, h[d] @ W + one.flat[2 * (d + k) + 1], k)
                np.matmul(h[d].T, e, out=views[2 * (d + k)][k].reshape(m, o))
                views[2 * (d + k) + 1][k] = ones @ e
                np.matmul(e, W.T, out=c[k - first])
            for i in reversed(range(d)):
                c *= np.sign(h[i + 1]) if one.activation == "relu" else 1 - h[i + 1] * h[i + 1]
                np.matmul(h[i].T, c, out=views[2 * i][first : first + n].reshape(n, m, m))
                np.matmul(ones, c, out=views[2 * i + 1][first : first + n])
                if i:
                    np.matmul(c.reshape(n * B, m), one.flat[2 * i].T, out=spare.reshape(n * B, m))
                    c, spare = spare, c
        return matrix

    return call


def textbook(one: Problem) -> Callable[[], Array]:
    """Return backpropagation as it is taught, once a task."""
    d = one.depth

    def call() -> Array:
        h, lines = forward(one), []
        for k in range(one.K):
            gradients = [np.zeros(a.shape) for a in one.flat]
            W, b = one.flat[2 * (d + k) : 2 * (d + k) + 2]
            e = head_slope(one, h[d] @ W + b, k)
            gradients[2 * (d + k)], gradients[2 * (d + k) + 1] = h[d].T @ e, e.sum(axis=0)
            c = e @ W.T
            for i in reversed(range(d)):
                c = c * ((h[i + 1] > 0) if one.activation == "relu" else 1 - h[i + 1] ** 2)
                gradients[2 * i], gradients[2 * i + 1] = h[i].T @ c, c.sum(axis=0)
                c = c @ one.flat[2 * i].T
            lines.append(np.concatenate([g.ravel() for g in gradients]))
        return np.stack(lines)

    return call


def forward(one: Problem) -> list[Array]:
    """Return x and the trunk's activations."""
    h = [one.x]
    for i in range(0, 2 * one.depth, 2):
        z = h[-1] @ one.flat[i]
        z += one.flat[i + 1]
        h.append(np.maximum(z, 0.0, out=z) if one.activation == "relu" else np.tanh(z, out=z))
    return h


def head_slope(one: Problem, z: Array, k: int) -> Array:
    """Return ∂L_k/∂z of a head's outputs z (B, outputs)."""
    if one.loss == "mse":
        return np.asarray((z - one.targets[k]) * (2 / z.size))
    e = np.exp(z - z.max(axis=1, keepdims=True))
    e /= e.sum(axis=1, keepdims=True)
    e[np.arange(len(z)), one.targets[k]] -= 1
    return np.asarray(e / len(z))


# THE BOUND


def bound(one: Problem) -> Callable[[], None]:
    """Return the bare matrix products, into arrays that are there: nothing is allocated, nothing else is done."""
    d, K, B, m, o = one.depth, one.K, one.batch, one.width, one.outputs
    W, H = one.flat[0], one.flat[2 * d]
    block = max(1, min(K, BLOCK // (B * m)))
    blocks = [min(block, K - first) for first in range(0, K, block)]
    c, z, e = np.full((block * B, m), 0.5), np.empty((B, m)), np.full((B, o), 0.5)
    out, slope, spread = np.empty_like(c), np.empty((block, m, m)), np.empty((B, m))
    y, head = np.empty((B, o)), np.empty((m, o))

    def call() -> None:
        for _ in range(d):
            np.matmul(one.x, W, out=z)
        for _ in range(K):
            np.matmul(one.x, H, out=y)
            np.matmul(one.x.T, e, out=head)
            np.matmul(e, H.T, out=spread)
        for n in blocks:
            for i in range(d):
                np.matmul(one.x.T, c[: n * B].reshape(n, B, m), out=slope[:n])
                if i:
                    np.matmul(c[: n * B], W.T, out=out[: n * B])

    return call
