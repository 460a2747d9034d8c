"""Live problems: a small network with its batch, of which the framework under judgement makes its own gradients.

A `Live` is one training step: a trunk that the tasks share, a head each, a batch, targets and kinds of losses. What
the specification says of it comes from `mtlref.autograd` (LIVE-1 … LIVE-3). It is put to two kinds of code:

    Implementation("jacobian", name=…, step=step)     # step(live, state) -> {"losses", "jacobian", "head_gradients"}
    Implementation("gradnorm", name=…, live=run)      # run(live_run) -> {"direction": [… a step], "weights": […], …}

A `LiveRun` is a few training steps in turn. The parameters of each are given, as if the network had been trained in
between: so every step is judged by itself. Derivation: derivations/jacobian.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mtlref.autograd import Operand, Tensor, value_and_jacobian
from mtlref.conformance.problem import Given, Problem, shaken
from mtlref.contract import Method, Reads, Step, same_tasks, weights_of
from mtlref.defects.defect import Defect
from mtlref.networks import Parameters, SharedTrunk, absolute_error, cross_entropy, mse
from mtlref.notation import Array, count, matrix, vector
from mtlref.state import State
from mtlref.vectors.replay import observables

LOSSES: Mapping[str, Callable[[Operand, ArrayLike], Tensor]] = {
    "mse": mse,
    "absolute": absolute_error,
    "cross-entropy": cross_entropy,
}
"""The kinds of losses, each a mean over the examples of the batch and the outputs of an example (NN-6,
NN-7, NN-8)."""

Batch = tuple[Array, tuple[NDArray[Any], ...]]
"""Inputs (B, n), and for each task its targets, (B, outputs) or labels (B,)."""


@dataclass(frozen=True, eq=False)
class Live(Given):
    """One training step of a network.

    `network`: its sizes and activation; `shared`: the trunk's W, b, W, b, each W (inputs, outputs), a layer being h =
    φ(x W + b); `heads`: W, b of each task's affine head; `x` (B, n); `targets`: one array a task; `kinds`: each
    task's loss, a key of `LOSSES`. `weights` (K,): weights that are in use and that no task's own gradient contains;
    None in a run. `draw`: as in a `Problem`. `evaluation`: a batch of a validation that follows and must change
    nothing.
    """

    method: Method
    network: SharedTrunk
    shared: tuple[Array, ...]
    heads: tuple[tuple[Array, ...], ...]
    x: Array
    targets: tuple[NDArray[Any], ...]
    kinds: tuple[str, ...]
    weights: Array | None = None
    draw: NDArray[Any] | None = None
    evaluation: Batch | None = None

    @property
    def n_tasks(self) -> int:
        """K."""
        return len(self.kinds)

    @property
    def described(self) -> str:
        """The network in words."""
        return f"network {self.network.n_inputs} → {self.network.trunk} → {self.network.heads}, batch {len(self.x)}"


@dataclass(frozen=True)
class LiveRun(Given):
    """A few training steps of one network, to be taken in turn from the method's own start: `for live in run`."""

    steps: tuple[Live, ...]

    def __iter__(self) -> Iterator[Live]:
        return iter(self.steps)

    def __len__(self) -> int:
        return len(self.steps)

    @property
    def method(self) -> Method:
        """The specification with its hyper-parameters."""
        return self.steps[0].method

    @property
    def n_tasks(self) -> int:
        """K."""
        return self.steps[0].n_tasks


# WHAT A BACKWARD PASS MEASURES


@dataclass(frozen=True)
class Measured:
    """`losses` (K,), `jacobian` (K, D) over the shared parameters, and each task's gradient of its own head."""

    losses: Array
    jacobian: Array
    heads: tuple[Array, ...]


@lru_cache(maxsize=4096)
def measured(live: Live) -> Measured:
    """Return the losses and gradients of a live problem; remembered, for a diagnosis asks for the same ones often."""
    L, J = backward(live)
    return Measured(task_losses(L), task_gradients(J, live.shared), head_gradients(J, live.shared, live.heads))


def backward(live: Live) -> tuple[Array, Array]:
    """Return the losses (K,) and their Jacobian over all parameters, the shared ones first, then head by head."""
    structure = Parameters(live.shared, live.heads)

    def losses(flat: tuple[Tensor, ...]) -> list[Tensor]:
        outputs = live.network.forward(structure.rebuilt(flat), live.x)
        return [LOSSES[kind](y, t) for kind, y, t in zip(live.kinds, outputs, live.targets, strict=True)]

    L, J = value_and_jacobian(losses, structure.flat)
    return L, J.matrix


def task_losses(L: Array) -> Array:
    """LIVE-1: L_i is the mean of task i's error over the examples of the batch and the outputs of an example.

    `L` (K,), unweighted; returns it.
    """
    return L


def task_gradients(J: Array, shared: Sequence[Array]) -> Array:
    """LIVE-2: J_i = ∇_θ L_i, θ all shared parameters in order, each raveled in C order.

    `J` (K, all parameters); returns (K, D): row i is of loss i alone, and unweighted.
    """
    return J[:, : sum(array.size for array in shared)]


def head_gradients(J: Array, shared: Sequence[Array], heads: Sequence[Sequence[Array]]) -> tuple[Array, ...]:
    """LIVE-3: H_i = ∇_{φ_i} L_i, φ_i the parameters of head i in order, each raveled in C order."""
    ends = np.cumsum([sum(array.size for array in part) for part in (shared, *heads)])
    return tuple(J[i, ends[i] : ends[i + 1]] for i in range(len(heads)))


def head_descents(h: Array, H: Sequence[Array]) -> Array:
    """LIVE-4: head i descends h_i H_i, as the shared parameters descend Σ_i w_i J_i (MTL-1).

    `h` (K,); returns the heads' descents one after another, as one vector.
    """
    return np.concatenate([weight * gradient for weight, gradient in zip(h, H, strict=True)])


@dataclass(frozen=True)
class LiveProblem(Problem):
    """The problem whose losses and Jacobian are those of `live`; `heads`: the heads' gradients.

    `plumbing`: known defects of the measurement that have been put in; `layer`: which shared layers' gradients the
    method reads (`columns`).
    """

    live: Live = field(kw_only=True)
    heads: tuple[Array, ...] = field(kw_only=True)
    plumbing: tuple[Defect, ...] = field(default=(), kw_only=True)
    layer: str = field(default="all", kw_only=True)

    @property
    def asked(self) -> Live:
        """The network without the answers."""
        return replace(self.live, method=self.method, draw=self.draw)

    def bare(self) -> Problem:
        """Return the same numbers as a problem without a network."""
        return Problem(self.method, self.losses, self.jacobian, self.draw, self.batches)

    def step(self, state: State) -> Step:
        """Return the specification's own step from `state`, on the columns that the method reads."""
        known = self.with_weights(state)
        more: dict[str, Any] = {} if self.draw is None else {"draw": self.draw}
        return self.method.step(state, known.losses, known.jacobian[:, columns(self.live, self.layer)], **more)

    def with_weights(self, state: State) -> LiveProblem:
        """Return the problem measured with the weights in use, where known defects of the measurement
        may read them."""
        if not self.plumbing or self.live.weights is not None:
            return self
        found = plumbed(measured(self.live), replace(self.live, weights=weights_of(state)), self.plumbing)
        return replace(self, losses=found.losses, jacobian=found.jacobian, heads=found.heads)

    def taken(self, state: State) -> tuple[Step, Mapping[str, Any]]:
        """Return the step, and every observable: those of the method, and what the network's parts descend."""
        out, known = self.step(state), self.with_weights(state)
        descents = head_descents(out.head_weights, known.heads)
        own = {"losses": known.losses, "jacobian": known.jacobian, "head_gradients": descents}
        return out, {**observables(out, known.jacobian), **own}

    def moved(self, rng: np.random.Generator, by: float) -> Problem:
        """Return the problem with the network's parameters, inputs and targets moved by a share `by` of
        themselves."""
        return self.on(moved_network(self.live, int(rng.integers(2**32)), by))

    def on(self, live: Live) -> LiveProblem:
        """Return the problem of another network, read in the same way."""
        found = plumbed(measured(live), live, self.plumbing)
        batches = None if self.batches is None else found.losses[None]
        return replace(
            self, live=live, losses=found.losses, jacobian=found.jacobian, heads=found.heads, batches=batches
        )

    def doubled(self) -> LiveProblem:
        """Return the problem with every example of the batch twice."""
        live = self.live
        return self.on(
            replace(
                live, x=np.concatenate([live.x, live.x]), targets=tuple(np.concatenate([t, t]) for t in live.targets)
            )
        )


@lru_cache(maxsize=4096)
def moved_network(live: Live, seed: int, by: float) -> Live:
    """Return the network with its parameters, inputs and targets moved; remembered, as what is measured on it is."""
    rng = np.random.default_rng(seed)
    return replace(
        live,
        shared=tuple(shaken(array, rng, by) for array in live.shared),
        heads=tuple(tuple(shaken(array, rng, by) for array in head) for head in live.heads),
        x=shaken(live.x, rng, by),
        targets=tuple(t if t.dtype.kind == "i" else shaken(t, rng, by) for t in live.targets),
    )


def live_problem(method: Method, live: Live, layer: str = "all") -> LiveProblem:
    """Return the problem of a network, of which the method reads `layer`."""
    found = measured(live)
    batches = found.losses[None] if method.cadence == "epoch" else None
    values: dict[str, Any] = {"live": live, "heads": found.heads, "layer": layer}
    return LiveProblem(method, found.losses, found.jacobian, live.draw, batches, **values)


LAYERS = ("all", "last", "matrix")
"""Whose gradients a method reads: those of all shared layers, of the last one, of the last one's matrix (LIVE-C1)."""


def columns(live: Live, layer: str) -> slice:
    """Return the columns of the Jacobian that a method reads."""
    start = sum(array.size for array in live.shared[:-2])
    return {"all": slice(None), "last": slice(start, None), "matrix": slice(start, start + live.shared[-2].size)}[
        layer
    ]


def plumbed(found: Measured, live: Live, plumbing: Sequence[Defect]) -> Measured:
    """Return what has been measured as known defects of the measurement would have it."""
    for defect in plumbing:
        if "measured" in defect.replaces:
            found = defect.replaces["measured"](found, live)
    return found


# PER-TASK GRADIENTS AS A METHOD


@dataclass(frozen=True, eq=False)
class PerTaskState(State):
    """`weights` (K,): ones."""

    weights: Array


@dataclass(frozen=True)
class PerTaskGradients(Method):
    """The losses and their gradients, task by task (LIVE-1 … LIVE-3): what every weighting method starts from."""

    stem: ClassVar[str] = "jacobian"
    title: ClassVar[str] = "Per-task gradients"
    source: ClassVar[str] = "what every weighting method reads"
    reads: ClassVar[Reads] = "gram"
    tags: ClassVar[dict[str, str]] = {"losses": "LIVE-1", "jacobian": "LIVE-2", "head_gradients": "LIVE-3"}
    start: ClassVar[str] = "LIVE-2"
    heads: ClassVar[str] = "LIVE-3"

    @property
    def lagged(self) -> bool:
        """False: there is no weight to remember."""
        return False

    def init(self, n_tasks: int) -> PerTaskState:
        """Return the state: nothing but ones."""
        return PerTaskState(np.ones(count("n_tasks", n_tasks)))

    def step(self, state: State, losses: ArrayLike, jacobian: ArrayLike | None = None) -> Step:
        """Return weights of one; the losses (K,) and the Jacobian (K, D) are the terms."""
        known, w = same_tasks(state, PerTaskState)
        L, J = vector("losses", losses), matrix("jacobian", np.zeros((0, 0)) if jacobian is None else jacobian)
        w = np.ones(len(J))
        return Step(
            weights=w, head_weights=np.ones(len(known.weights)), state=known, terms={"losses": L, "jacobian": J}
        )


# NETWORKS

MARGIN = 1e-3
"""How far from its kink every relu and every absolute value is kept: rounding must not decide the side."""

INPUTS, TRUNK, BATCH, OUTPUTS = 3, (5, 2), 7, {"mse": 4, "absolute": 1, "cross-entropy": 6}
"""The sizes of every network: all different, and always the same, for some frameworks compile anew for each."""

PACE = 0.15
"""The length of a training step between two problems of a run."""


def train(method: Method, rng: np.random.Generator, K: int, steps: int, weights: bool) -> list[Live] | None:
    """Return `steps` training steps of a network of K tasks.

    None where one of them is too near to a kink, or its relus let no gradient of a task through.
    """
    live = network(method, rng, K)
    found = []
    for _ in range(steps):
        live = with_batch(live, rng, weights)
        J = backward(live)[1]
        if nearest_kink(live) < MARGIN or not np.all(task_gradients(J, live.shared).any(axis=1)):
            return None
        found.append(live)
        live = stepped(live, PACE * np.sum(J, axis=0) / np.linalg.norm(np.sum(J, axis=0)))
    return found


def network(method: Method, rng: np.random.Generator, K: int) -> Live:
    """Return a network of K tasks, all sizes different and biases that are not zero; it has no batch yet."""
    kinds = tuple(str(kind) for kind in rng.choice(list(LOSSES), K))
    outputs = tuple(OUTPUTS[kind] for kind in kinds)
    activation = "tanh" if rng.random() < 0.7 else "relu"
    sizes = SharedTrunk(INPUTS, TRUNK, outputs, activation)  # type: ignore[arg-type]
    start = sizes.init(rng)
    shared = tuple(array + 0.3 * rng.standard_normal(array.shape) for array in start.shared)
    heads = tuple(tuple(array + 0.3 * rng.standard_normal(array.shape) for array in head) for head in start.heads)
    return Live(method, sizes, shared, heads, np.zeros((0, sizes.n_inputs)), (), kinds)


def with_batch(live: Live, rng: np.random.Generator, weights: bool) -> Live:
    """Return the network with a fresh batch, a draw, and half the time an evaluation to come."""
    batch = batch_of(live, rng, BATCH)
    evaluation = batch_of(live, rng, BATCH + 1) if rng.random() < 0.5 else None
    w = np.exp(rng.uniform(-1, 1, live.n_tasks)) if weights else None
    draw = live.method.sample(rng, live.n_tasks)
    return replace(live, x=batch[0], targets=batch[1], draw=draw, weights=w, evaluation=evaluation)


def batch_of(live: Live, rng: np.random.Generator, B: int) -> Batch:
    """Return a batch of B examples; the sizes of the targets differ from task to task."""
    x = rng.standard_normal((B, live.network.n_inputs))
    targets: list[NDArray[Any]] = []
    for i, (kind, head) in enumerate(zip(live.kinds, live.heads, strict=True)):
        outputs = len(head[-1])
        size = (0.5, 2.0, 1.0)[i % 3]
        labels = kind == "cross-entropy"
        targets.append(rng.integers(0, outputs, B) if labels else size * rng.standard_normal((B, outputs)))
    return x, tuple(targets)


def nearest_kink(live: Live) -> float:
    """Return the smallest absolute value at a kink: before a relu, or inside an absolute error."""
    phi = np.tanh if live.network.activation == "tanh" else lambda z: np.maximum(z, 0.0)
    h, nearest = live.x, np.inf
    for W, b in zip(live.shared[::2], live.shared[1::2], strict=True):
        z = h @ W + b
        nearest = min(nearest, float(np.min(np.abs(z)))) if live.network.activation == "relu" else nearest
        h = phi(z)
    for kind, (W, b), target in zip(live.kinds, live.heads, live.targets, strict=True):
        if kind == "absolute":
            nearest = min(nearest, float(np.min(np.abs(h @ W + b - target))))
    return nearest


def stepped(live: Live, change: Array) -> Live:
    """Return the network with all its parameters, in order, moved against `change`."""
    structure = Parameters(live.shared, live.heads)
    parts = np.split(change, np.cumsum([array.size for array in structure.flat])[:-1])
    moved = [array - part.reshape(array.shape) for array, part in zip(structure.flat, parts, strict=True)]
    after = structure.rebuilt(moved)
    return replace(live, shared=after.shared, heads=after.heads)
