"""HMoE: a mixture of experts in feature space, and a mixture of all scenarios' scores in label space.

Li, Li, Da, Zeng and Zhang, "Improving Multi-Scenario Learning to Rank in E-commerce by Exploiting Task Relationships
in the Label Space", CIKM 2020, doi 10.1145/3340531.3412713. **This is a reconstruction**, from the paper's abstract,
a textbook chapter and public code: derivations/hmoe.md says what is known from where.

The K tasks are scenarios with the same features and the same labels. The implicit part is MMoE: experts, gates,
mixtures and towers (MMOE-1 … MMOE-4). The explicit part mixes the towers' scores (HMOE-2) by relation weights that
depend on the input (HMOE-1, HMOE-4). Task-constrained back-propagation lets the loss of a scenario into no other
scenario's tower: their scores enter its mixture as constants (HMOE-3). A sample has a loss in its own scenario alone
(HMOE-5).

HMoE weights no losses. It is a network with a mask on its gradient, and any weighting method composes with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from mtlref import autograd as ad
from mtlref.autograd import Operand, Tensor
from mtlref.contract import Cadence
from mtlref.mixtures import (
    Each,
    MMoE,
    expert_mixtures,
    expert_outputs,
    gate_shares,
    joined,
    split,
    switch,
    tower_outputs,
)
from mtlref.networks import Activation, Parameters, activated, linear, mlp
from mtlref.notation import Array, DomainError, ShapeError, count

V = TypeVar("V", Array, Tensor)


@dataclass(frozen=True)
class HMoE(MMoE):
    """The hybrid of implicit and explicit mixture of experts (HMOE-1 … HMOE-5, MMOE-1 … MMOE-4).

    `n_inputs`, `n_experts`, `experts`, `towers` and `activation` are those of MMoE; all towers have as many outputs.

    `share_gate` (HMOE-C1): one gate for all scenarios, or one each.
    `share_w` (HMOE-C2): one matrix of relation weights for all scenarios, or one each.
    `mix` (HMOE-C3): what is mixed: the towers' scores as they are ("logit"), their sigmoids ("prob"), or the towers'
    last hidden vectors ("hidden").
    `constrained` (HMOE-C4): whether the other scenarios' scores are constants.
    `mode` (HMOE-C5): "end_to_end", or "stacked": all scores are constants, the towers having been trained before.

    Its parameters: `shared` holds the gate and the relation matrix, as far as they are common, then the experts'
    stacked layers; `heads[k]` holds gate k and relation matrix k, as far as they are not, then the layers of tower k.
    Errors: DomainError for a size or an option out of range.
    """

    share_w: bool = False
    mix: Literal["logit", "prob", "hidden"] = "logit"
    constrained: bool = True
    mode: Literal["end_to_end", "stacked"] = "end_to_end"

    stem: ClassVar[str] = "hmoe"
    title: ClassVar[str] = "Hybrid of implicit and explicit Mixture-of-Experts (a reconstruction)"
    source: ClassVar[str] = "Li et al., CIKM 2020, doi 10.1145/3340531.3412713; reconstructed from secondary sources"
    cadence: ClassVar[Cadence] = "step"
    tags: ClassVar[dict[str, str]] = {
        "E": "MMOE-1",
        "g": "MMOE-2",
        "f": "MMOE-3",
        "z": "MMOE-4",
        "a": "HMOE-1",
        "S": "HMOE-2",
        "seen": "HMOE-3",
        "out": "HMOE-4",
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        if len({widths[-1] for widths in self.tower_widths}) > 1:
            message = f"towers must have one number of outputs, the labels being the same; they are {self.towers}"
            raise DomainError(message, argument="towers", value=self.towers, equation="HMOE-4")
        switch("share_w", self.share_w)
        switch("constrained", self.constrained)
        one_of("mix", self.mix, ("logit", "prob", "hidden"), "HMOE-2", "HMOE-C3")
        one_of("mode", self.mode, ("end_to_end", "stacked"), "HMOE-3", "HMOE-C5")
        if self.mode == "stacked" and not self.constrained:
            message = "constrained = False has no meaning when stacked: all scores are constants then (HMOE-C5)"
            raise DomainError(message, argument="constrained", value=False, equation="HMOE-3")
        if self.mode == "stacked" and self.mix == "hidden":
            message = "mix = 'hidden' has no meaning when stacked: the towers' scores are what is stacked (HMOE-C5)"
            raise DomainError(message, argument="mix", value="hidden", equation="HMOE-2")
        last = {widths[:-1][-1:] for widths in self.tower_widths}
        if self.mix == "hidden" and (len(last) > 1 or () in last):
            message = f"mix = 'hidden' needs towers with hidden layers that end in one width; they are {self.towers}"
            raise DomainError(message, argument="towers", value=self.towers, equation="HMOE-2")

    def init(self, rng: np.random.Generator) -> Parameters[Array]:
        """Return initial parameters: those of MMoE, and relation matrices of zeros (HMOE-C6)."""
        gates, (experts, towers) = self._gates(rng), self._layers(rng)
        K = len(towers)
        relations = [np.zeros((self.n_inputs, K)) for _ in towers]
        return joined((gates, relations), experts, towers, (self.share_gate, self.share_w))

    def forward(self, parameters: Parameters[V], x: Operand) -> Each:
        """Return out_k (B, outputs) for every scenario k, from `x` (B, n_inputs). Errors: ShapeError, DomainError."""
        return self.terms(parameters, x)["out"]

    def scores(self, parameters: Parameters[V], x: Operand) -> Each:
        """Return MMoE's own predictions z_k (B, outputs), which the first stage of "stacked" trains (HMOE-C5)."""
        return self.terms(parameters, x)["z"]

    def terms(self, parameters: Parameters[V], x: Operand) -> dict[str, Each]:
        """Return every tagged intermediate by its name in `tags`, one a scenario.

        E, the experts, is stacked and alone in its tuple; `seen` is S̃_11, S̃_12, …, S̃_KK. Errors: ShapeError,
        DomainError.
        """
        # IMPLICIT: FEATURE SPACE
        x = self._input(x)
        (gates, relations), experts, towers = split(parameters, (self.share_gate, self.share_w))
        E = expert_outputs(experts, x, self.activation)
        g = gate_shares(gates, x)
        f = expert_mixtures(g, E)
        z = tower_outputs(towers, f, self.activation)

        # EXPLICIT: LABEL SPACE
        a = relation_weights(relations, x)
        S = hidden_vectors(towers, f, self.activation) if self.mix == "hidden" else mixed_scores(z, self.mix)
        seen = tuple(self._seen(S, k) for k in range(len(S)))
        out = tuple(score_mixture(a_k, S_k) for a_k, S_k in zip(a, seen, strict=True))
        if self.mix == "hidden":
            out = tuple(linear(out_k, *tower[-2:]) for out_k, tower in zip(out, towers, strict=True))
        return {"E": (E,), "g": g, "f": f, "z": z, "a": a, "S": S, "seen": sum(seen, ()), "out": out}

    def _seen(self, S: Each, k: int) -> Each:
        """Return the scores as scenario k sees them: with its mask, with none, or all of them constants."""
        if self.mode == "stacked":
            return tuple(ad.stop_gradient(S_j) for S_j in S)  # HMOE-C5
        return constrained_scores(S, k) if self.constrained else S


def one_of(argument: str, value: object, allowed: Sequence[str], equation: str, choice: str) -> None:
    """Raise DomainError unless the value of an option is one of those allowed."""
    if value not in allowed:
        message = f"{argument} = {value!r} must be one of {', '.join(map(repr, allowed))} ({choice})"
        raise DomainError(message, argument=argument, value=value, equation=equation)


# EQUATIONS


def relation_weights(relations: Sequence[Operand], x: Operand) -> Each:
    """HMOE-1: a_k = softmax(x R_k) over the scenarios, for every scenario k.

    `relations`: R_k (n_inputs, K), without a bias; `x` (B, n_inputs); returns (B, K) a scenario, rows that sum to 1.
    Source: the chapter's W(x), fed by x; softmax and the linear map are public code's last layer.
    """
    return tuple(ad.softmax(ad.matmul(x, R_k), axis=1) for R_k in relations)


def mixed_scores(z: Each, mix: str) -> Each:
    """HMOE-2: S_k = z_k (mix = logit), or S_k = σ(z_k) (mix = prob), for every scenario k.

    `z` (B, outputs) a scenario; returns the same shapes. Source: the title's label space; the chapter's scores.
    """
    return z if mix == "logit" else tuple(ad.sigmoid(z_k) for z_k in z)


def hidden_vectors(towers: Sequence[Sequence[Operand]], f: Each, activation: Activation) -> Each:
    """Return what mix = "hidden" puts in the place of the scores: φ of a tower's last layer but one (HMOE-C3)."""
    phi = activated(activation)
    return tuple(phi(mlp(tower[:-2], f_k, activation)) for tower, f_k in zip(towers, f, strict=True))


def constrained_scores(S: Each, k: int) -> Each:
    """HMOE-3: S̃_kj = S_j for j = k, and a constant of the same value for j ≠ k: no gradient passes (AD-5).

    `S` (B, outputs) a scenario; returns the same shapes and values. Source: the abstract's task-constrained
    back-propagation; the chapter's stop-gradient.
    """
    return tuple(S_j if j == k else ad.stop_gradient(S_j) for j, S_j in enumerate(S))


def score_mixture(a_k: Tensor, S_k: Each) -> Tensor:
    """HMOE-4: out_k = Σ_j a_kj S̃_kj, example by example.

    `a_k` (B, K), `S_k` (B, outputs) a scenario; returns (B, outputs). Source: the chapter's label-space mixture.
    """
    products = [a_k[:, j : j + 1] * S_j for j, S_j in enumerate(S_k)]
    return sum(products[1:], products[0])


def own_rows(out: Sequence[Tensor], scenario: ArrayLike) -> Each:
    """HMOE-5: L_k reads out_k(x_b) for the samples b of scenario k alone: out_k[scenario = k].

    `out` (B, outputs) a scenario, `scenario` (B,) whole numbers from 0 to K − 1; returns (B_k, outputs) a scenario.
    Errors: ShapeError; DomainError for a number that is no scenario's, and for a scenario without samples.
    """
    s = np.asarray(scenario)
    if s.shape != out[0].shape[:1]:
        message = f"scenario must have one entry a sample, {out[0].shape[0]}; its shape is {s.shape}"
        raise ShapeError(message, argument="scenario", value=s.shape, equation="HMOE-5")
    for b, value in enumerate(s.tolist()):
        if count(f"scenario[{b}]", value, least=0) >= len(out):
            message = f"scenario[{b}] = {value} must be below the number of scenarios, {len(out)}"
            raise DomainError(message, argument="scenario", value=value, equation="HMOE-5")
    for k in range(len(out)):
        if not np.any(s == k):
            message = f"HMOE-5 has no sample of scenario {k} in this batch: its loss has no value"
            raise DomainError(message, argument="scenario", task=k, value=k, equation="HMOE-5")
    return tuple(out_k[np.flatnonzero(s == k)] for k, out_k in enumerate(out))
