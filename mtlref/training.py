"""The training loop that joins a network, data, a method and an optimiser, and the history that it returns.

A step, in order:

1. The batch's K task losses, and their Jacobian with respect to all parameters, in one sweep.
2. The method's step on the losses and on the *measured* columns of the Jacobian: GradNorm measures the last shared
   layer, most methods all shared parameters.
3. The shared parameters descend Σ_i w_i ∇L_i (MTL-1), head i descends h_i ∇L_i, with the weights in use now.

A method that steps once an epoch keeps its weights through the epoch and then steps on the mean of the batches'
losses (DWA-C2). The history holds a row a step, and writes the log that `mtlref audit` reads.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from mtlref.autograd import Tensor, value_and_jacobian
from mtlref.contract import Method, direction, weights_of
from mtlref.networks import Parameters
from mtlref.notation import Array, DomainError, count, norms
from mtlref.optimisers import Optimiser
from mtlref.progress import track
from mtlref.state import State

Batch = TypeVar("Batch")
Losses = Callable[[Any, Batch], Sequence[Tensor]]
"""From the parameters as tensors, laid out as the `Parameters` given, and a batch to the K task losses."""


@dataclass(frozen=True)
class History:
    """What a training run did: a row a step, N steps of K tasks, and what it left.

    `epochs` (N,); `losses`, `norms` (of the measured gradients), `weights` and `head_weights` (N, K);
    `gram` (N, K, K), the measured gradients' inner products; `parameters` and `state` after the last step.
    """

    epochs: Array
    losses: Array
    norms: Array
    gram: Array
    weights: Array
    head_weights: Array
    parameters: Parameters[Array]
    state: State

    def columns(self, tasks: Sequence[str] | None = None, gram: bool = False) -> dict[str, Array]:
        """Return the audit's columns: step, epoch, loss/, norm/, weight/ of tasks, gram/ of pairs if asked."""
        names = [str(i) for i in range(self.losses.shape[1])] if tasks is None else tasks
        columns = {"step": np.arange(len(self.epochs), dtype=np.float64), "epoch": self.epochs}
        for kind, values in (("loss", self.losses), ("norm", self.norms), ("weight", self.weights)):
            columns.update({f"{kind}/{name}": values[:, i] for i, name in enumerate(names)})
        if gram:
            pairs = itertools.combinations_with_replacement(enumerate(names), 2)
            columns.update({f"gram/{a}/{b}": self.gram[:, i, j] for (i, a), (j, b) in pairs})
        return columns

    def write_log(
        self,
        path: str | os.PathLike[str],
        method: Method,
        settings: Mapping[str, object],
        tasks: Sequence[str] | None = None,
    ) -> None:
        """Write the audit's log to a .csv at `path`, and its side file: the method and its plain settings."""
        from mtlref.audit.writers import write_log

        write_log(
            path, self.columns(tasks, method.reads == "gram"), {"method": method.stem, "settings": dict(settings)}
        )


def train(
    losses: Losses[Batch],
    parameters: Parameters[Array],
    batches: Callable[[int], Iterable[Batch]],
    method: Method,
    optimiser: Optimiser,
    *,
    epochs: int,
    measured: slice = slice(None),
    rng: np.random.Generator | None = None,
    progress: bool | None = None,
) -> History:
    """Train, and return the history.

    `losses(parameters, batch)`: the K scalar losses; `batches(epoch)`: the epoch's batches; `optimiser` moves all
    parameters as one vector; `measured`: which of the shared arrays the method looks at; `rng` makes the draws of a
    method that takes them, default_rng(0) unless given.
    Errors: those of the method and the autograd; DomainError if an epoch has no batches.
    """
    run = _Run(losses, parameters, method, optimiser, measured, rng or np.random.default_rng(0))
    for epoch in track(range(count("epochs", epochs)), epochs, f"{method.title}: epoch", progress):
        first = len(run.rows)
        for batch in batches(epoch):
            run.step(epoch, batch)
        if len(run.rows) == first:
            raise DomainError(f"batches({epoch}) holds no batch", argument="batches", value=epoch)
        if method.cadence == "epoch":
            run.end_epoch(np.mean([row[1] for row in run.rows[first:]], axis=0))
    return run.history()


class _Run:
    """A run under way: the parameters, the two states, and the rows so far."""

    def __init__(
        self,
        losses: Losses[Any],
        parameters: Parameters[Array],
        method: Method,
        optimiser: Optimiser,
        measured: slice,
        rng: np.random.Generator,
    ) -> None:
        self.losses, self.method, self.optimiser, self.measured, self.rng = losses, method, optimiser, measured, rng
        self.parameters = parameters
        self.moving = optimiser.init(raveled(parameters.flat))
        self.state = method.init(len(parameters.heads))
        self.rows: list[tuple[int, Array, Array, Array, Array, Array]] = []

    def step(self, epoch: int, batch: Any) -> None:
        """Take one step of the network, and one of a method that steps every time."""
        L, J = value_and_jacobian(lambda t: self.losses(self.parameters.rebuilt(t), batch), self.parameters.flat)
        n_shared = len(self.parameters.shared)
        blocks = [block.reshape(len(L), -1) for block in J.blocks]
        seen = np.concatenate(blocks[:n_shared][self.measured], axis=1)
        w, h = self.weigh(L, seen)
        shared = direction(w, np.concatenate(blocks[:n_shared], axis=1))
        heads = [direction(h, block) for block in blocks[n_shared:]]
        self.rows.append((epoch, L, norms(seen), seen @ seen.T, w, h))
        self.move(np.concatenate([shared, *heads]))

    def weigh(self, L: Array, seen: Array) -> tuple[Array, Array]:
        """Return the weights in use on the trunk and on the heads."""
        if self.method.cadence == "epoch":
            w = weights_of(self.state)
            return w, w
        draw = self.method.sample(self.rng, len(L))
        out = self.method.step(self.state, L, seen, **({} if draw is None else {"draw": draw}))
        self.state = out.state
        return out.weights, out.head_weights

    def end_epoch(self, means: Array) -> None:
        """Step the method on the epoch's mean losses."""
        self.state = self.method.step(self.state, means).state

    def move(self, gradient: Array) -> None:
        """Move all parameters by one step of the optimiser."""
        flat, self.moving = self.optimiser.step(self.moving, raveled(self.parameters.flat), gradient)
        ends = np.cumsum([array.size for array in self.parameters.flat])[:-1]
        parts = zip(np.split(flat, ends), self.parameters.flat, strict=True)
        self.parameters = self.parameters.rebuilt([part.reshape(array.shape) for part, array in parts])

    def history(self) -> History:
        """Return the rows as arrays."""
        epochs, *columns = zip(*self.rows, strict=True)
        losses, n, gram, w, h = (np.array(column) for column in columns)
        return History(np.array(epochs, dtype=np.float64), losses, n, gram, w, h, self.parameters, self.state)


def raveled(arrays: Sequence[Array]) -> Array:
    """Return the arrays as one vector."""
    return np.concatenate([array.ravel() for array in arrays])
