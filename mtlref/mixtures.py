"""Mixtures of experts: MMoE, a network whose tasks share experts and weigh them by gates of their own.

Ma, Zhao, Yi, Chen, Hong and Chi, "Modeling Task Relationships in Multi-task Learning with Multi-gate
Mixture-of-Experts", KDD 2018.

The experts are perceptrons of one shape that all tasks share (MMOE-1). A gate turns the input into shares that sum
to 1 (MMOE-2), by which a task mixes the experts' outputs (MMOE-3), and its tower maps the mixture to the prediction
(MMOE-4). The neighbours have the same interface:

    SharedTrunk(n_inputs, trunk=(16,), heads=((8, 1), (8, 1)))                                # shared bottom
    MMoE(n_inputs, n_experts=8, experts=(16,), towers=((8, 1), (8, 1)), share_gate=True)      # OMoE, one gate
    MMoE(n_inputs, n_experts=8, experts=(16,), towers=((8, 1), (8, 1)))                       # MMoE, a gate a task
    HMoE(n_inputs, n_experts=8, experts=(16,), towers=((8, 1), (8, 1)))                       # see methods/hmoe.py

The layers of all N experts are stacked along a first axis, weights (N, n, m) and biases (N, 1, m), so that one
product serves all of them. Derivation: derivations/mmoe.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from mtlref import autograd as ad
from mtlref.autograd import Operand, Tensor
from mtlref.networks import Activation, Parameters, activated, drawn, glorot, he, mlp
from mtlref.notation import Array, DomainError, ShapeError, count, real

V = TypeVar("V", Array, Tensor)
Each = tuple[Tensor, ...]
"""A tensor for each task, in task order."""


@dataclass(frozen=True)
class MMoE:
    """A multi-gate mixture of experts (MMOE-1 … MMOE-4).

    `n_experts`: how many experts there are. `experts`: the width of each layer of an expert, at least one. `towers`:
    for each task the number of its outputs, which makes a linear tower, or a tuple of hidden widths followed by the
    number of outputs. `share_gate` (MMOE-C1): one gate for all tasks, which the paper calls OMoE.

    Its parameters: `shared` holds the gate, if there is one for all, and then the experts' stacked layers, so that
    the last two arrays are the experts' last layer; `heads[k]` holds gate k, if there is one a task, and tower k.
    Errors: DomainError for a size that is not a whole number of at least 1.
    """

    n_inputs: int
    n_experts: int
    experts: tuple[int, ...]
    towers: tuple[int | tuple[int, ...], ...]
    activation: Activation = "relu"
    share_gate: bool = False

    def __post_init__(self) -> None:
        activated(self.activation)
        count("n_inputs", self.n_inputs)
        count("n_experts", self.n_experts)
        count("the number of towers", len(self.towers))
        for argument, widths in (("experts", self.experts), *(("towers", tower) for tower in self.tower_widths)):
            count(f"the number of layers of {argument}", len(widths))
            for width in widths:
                count(f"a width of {argument}", width)
        switch("share_gate", self.share_gate)

    @property
    def tower_widths(self) -> tuple[tuple[int, ...], ...]:
        """The widths of each tower's layers, the number of its outputs last."""
        return tuple(tower if isinstance(tower, tuple) else (tower,) for tower in self.towers)

    def init(self, rng: np.random.Generator) -> Parameters[Array]:
        """Return initial parameters: zero biases, layers before a relu by NN-2, gates and all others by NN-3."""
        return joined((self._gates(rng),), *self._layers(rng), (self.share_gate,))

    def forward(self, parameters: Parameters[V], x: Operand) -> Each:
        """Return ŷ_k (B, outputs of tower k) for every task k, from `x` (B, n_inputs). Errors: ShapeError."""
        return self.terms(parameters, x)["z"]

    def terms(self, parameters: Parameters[V], x: Operand) -> dict[str, Each]:
        """Return every tagged intermediate: E (the experts, stacked, alone in a tuple), g, f and z, one a task."""
        x = self._input(x)
        (gates,), experts, towers = split(parameters, (self.share_gate,))
        E = expert_outputs(experts, x, self.activation)
        g = gate_shares(gates, x)
        f = expert_mixtures(g, E)
        z = tower_outputs(towers, f, self.activation)
        return {"E": (E,), "g": g, "f": f, "z": z}

    def _gates(self, rng: np.random.Generator) -> tuple[Array, ...]:
        """Return the initial gates: one a task, or one."""
        return tuple(
            glorot(rng, self.n_inputs, self.n_experts) for _ in (self.towers[:1] if self.share_gate else self.towers)
        )

    def _layers(self, rng: np.random.Generator) -> tuple[tuple[Array, ...], tuple[tuple[Array, ...], ...]]:
        """Return the initial layers of the experts, stacked, and of each tower."""
        hidden = he if self.activation == "relu" else glorot
        each = [drawn(rng, (self.n_inputs, *self.experts), hidden, hidden) for _ in range(self.n_experts)]
        towers = (drawn(rng, (self.experts[-1], *widths), hidden, glorot) for widths in self.tower_widths)
        return stacked(each), tuple(towers)

    def _input(self, x: Operand) -> Tensor:
        """Return the checked input as a tensor. Errors: ShapeError, DomainError."""
        x = x if isinstance(x, Tensor) else ad.constant(real("x", x, 2, "MMOE-1"))
        if len(x.shape) != 2 or x.shape[1] != self.n_inputs:
            message = f"x must be (B, {self.n_inputs}); its shape is {x.shape}"
            raise ShapeError(message, argument="x", value=x.shape, equation="MMOE-1")
        return x


# EQUATIONS


def expert_outputs(experts: Sequence[Operand], x: Operand, activation: Activation) -> Tensor:
    """MMOE-1: E_i = φ(mlp(expert_i, x)), for every expert i.

    `experts`: the stacked layers W (N, n, m), b (N, 1, m), …; `x` (B, n_inputs); returns (N, B, m). Source: Ma et
    al., whose experts are perceptrons with a relu.
    """
    return activated(activation)(mlp(experts, x, activation))


def gate_shares(gates: Sequence[Operand], x: Operand) -> Each:
    """MMOE-2: g_k = softmax(x V_k) over the experts, for every task k.

    `gates`: V_k (n_inputs, N), without a bias; `x` (B, n_inputs); returns (B, N) a task, rows that sum to 1.
    Source: Ma et al., gᵏ(x) = softmax(W_gk x), a linear map of the input.
    """
    return tuple(ad.softmax(ad.matmul(x, V_k), axis=1) for V_k in gates)


def expert_mixtures(g: Each, E: Tensor) -> Each:
    """MMOE-3: f_k = Σ_i g_ki E_i, example by example, for every task k.

    `g` (B, N) a task, `E` (N, B, m); returns (B, m) a task. Source: Ma et al., fᵏ(x) = Σ_i gᵏ(x)_i f_i(x).
    """
    N, B, _ = E.shape
    return tuple((g_k.T.reshape((N, B, 1)) * E).sum(axis=0) for g_k in g)


def tower_outputs(towers: Sequence[Sequence[Operand]], f: Each, activation: Activation) -> Each:
    """MMOE-4: z_k = mlp(tower_k, f_k), for every task k.

    `towers`: each one's layers; `f` (B, m) a task; returns (B, outputs of tower k). Source: Ma et al., y_k = hᵏ(fᵏ).
    """
    return tuple(mlp(tower, f_k, activation) for tower, f_k in zip(towers, f, strict=True))


# THE LAYOUT OF THE PARAMETERS


def joined(
    matrices: Sequence[Sequence[Array]],
    experts: Sequence[Array],
    towers: Sequence[tuple[Array, ...]],
    common: Sequence[bool],
) -> Parameters[Array]:
    """Return the parameters with each kind of gate in front: of the experts if it is common, else of each tower."""
    shared, heads = tuple(experts), list(towers)
    for kind, one in reversed(list(zip(matrices, common, strict=True))):
        if one:
            shared = (kind[0], *shared)
        else:
            heads = [(matrix, *head) for matrix, head in zip(kind, heads, strict=True)]
    return Parameters(shared, tuple(heads))


def split(
    parameters: Parameters[V], common: Sequence[bool]
) -> tuple[tuple[tuple[V, ...], ...], tuple[V, ...], tuple[tuple[V, ...], ...]]:
    """Return what `joined` put together: each kind of gate, one a task (a common one repeated), experts, towers."""
    shared, heads = parameters.shared, parameters.heads
    matrices = []
    for one in common:
        if one:
            matrices.append(shared[:1] * len(heads))
            shared = shared[1:]
        else:
            matrices.append(tuple(head[0] for head in heads))
            heads = tuple(head[1:] for head in heads)
    return tuple(matrices), shared, heads


def stacked(experts: Sequence[Sequence[Array]]) -> tuple[Array, ...]:
    """Return the layers (W_1, b_1, …) of N experts stacked: W (N, n, m), b (N, 1, m), …"""
    return tuple(np.stack([np.atleast_2d(array) for array in arrays]) for arrays in zip(*experts, strict=True))


def unstacked(experts: Sequence[Array]) -> Iterator[tuple[Array, ...]]:
    """Yield the layers of each expert, weights (n, m) and bias (m,), from the stacked ones."""
    for arrays in zip(*experts, strict=True):
        yield tuple(array[0] if i % 2 else array for i, array in enumerate(arrays))


def switch(argument: str, value: object) -> None:
    """Raise DomainError unless the value of an option is True or False."""
    if not isinstance(value, bool):
        raise DomainError(f"{argument} must be True or False; it is {value!r}", argument=argument, value=value)
