"""GradNorm: weights that bring the tasks' gradient norms to a common scale and the tasks to a common pace.

Chen, Badrinarayanan, Lee and Rabinovich, "GradNorm: Gradient Normalization for Adaptive Loss Balancing in
Deep Multitask Networks", ICML 2018, arXiv 1711.02257. Section 3 and Algorithm 1.

At every step the norm of each weighted task gradient (GN-1) and their mean (GN-2) are measured, and how far
each task lags (GN-3). The target of a norm is the mean, raised for tasks that lag (GN-4). The weights descend
the distance from the targets (GN-5) along its closed-form gradient (GN-6), by any optimiser, and are brought
back to a sum of K (GN-7). The network descends with the weights from *before* this update, heads included (GN-8).
They start at one (GN-9).

Derivation: derivations/gradnorm.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import ArrayLike

from mtlref.contract import Cadence, Method, Reads, Step, same_tasks
from mtlref.notation import Array, DomainError, count, equation, nonnegative, norms, require, unseen_matrix, vector
from mtlref.optimisers import SGD, Optimiser
from mtlref.state import State


@dataclass(frozen=True, eq=False)
class GradNormState(State):
    """What GradNorm remembers.

    `weights` (K,): w(t), in use at the next step; `initial_losses` (K,): L(0), None until the first step has
    been seen unless it was given; `optimiser`: the state of the optimiser that moves the weights.
    """

    weights: Array
    initial_losses: Array | None
    optimiser: State


@dataclass(frozen=True)
class GradNorm(Method):
    """GradNorm (GN-1 … GN-9).

    `alpha` ≥ 0: strength of the pull towards a common training rate; 0 asks for equal norms. 1.5 is the paper's
    value on NYUv2, 0.12 on its toy.
    `lr` > 0: step size of the weights, for the default optimiser, SGD(lr).
    `optimiser` (GN-C1): the rule that moves the weights; it replaces SGD(lr), and `lr` with it. The paper's
    experiments use Adam(0.025).
    `negative` (GN-C3): what becomes of a weight that the update takes below zero: "keep" it, as the paper's
    silence has it, or "clamp" it to zero before GN-7.
    `initial_losses` (GN-C2): L(0), (K,), above 0; None is the losses of the first step. A theoretical value, such as
    log C for a cross-entropy over C classes, or that of a run which goes on.
    Errors: ShapeError, DomainError for a hyper-parameter out of range.
    """

    alpha: float = 1.5
    lr: float = 0.025
    optimiser: Optimiser | None = None
    negative: Literal["keep", "clamp"] = "keep"
    initial_losses: Sequence[float] | None = None

    stem: ClassVar[str] = "gradnorm"
    title: ClassVar[str] = "GradNorm"
    source: ClassVar[str] = "Chen et al., ICML 2018, arXiv 1711.02257, Algorithm 1"
    reads: ClassVar[Reads] = "norms"
    cadence: ClassVar[Cadence] = "step"
    tags: ClassVar[dict[str, str]] = {
        "G": "GN-1",
        "G_bar": "GN-2",
        "r": "GN-3",
        "target": "GN-4",
        "L_grad": "GN-5",
        "dw": "GN-6",
        "w_next": "GN-7",
    }
    start: ClassVar[str] = "GN-9"
    heads: ClassVar[str] = "GN-8"

    def __post_init__(self) -> None:
        nonnegative("alpha", self.alpha, "GN-4")
        SGD(self.lr)
        if self.negative not in ("keep", "clamp"):
            message = f"negative = {self.negative!r} must be 'keep' or 'clamp' (GN-C3)"
            raise DomainError(message, argument="negative", value=self.negative, equation="GN-7")
        if self.initial_losses is not None:
            L_0 = vector("initial_losses", self.initial_losses)
            require(L_0 > 0, "initial_losses", L_0, "GN-3", "divides by")
            object.__setattr__(self, "initial_losses", tuple(L_0.tolist()))

    @cached_property
    def rule(self) -> Optimiser:
        """The optimiser that moves the weights (GN-C1)."""
        return SGD(self.lr) if self.optimiser is None else self.optimiser

    def init(self, n_tasks: int) -> GradNormState:
        """Return the state before the first step: w_i(0) = 1, and L(0) if it is given. Errors: ShapeError."""
        K = count("n_tasks", n_tasks)
        weights = initial_weights(K)
        L_0 = None if self.initial_losses is None else vector("initial_losses", self.initial_losses, K, "GN-3")
        return GradNormState(weights, L_0, self.rule.init(weights))

    def step(self, state: State, losses: ArrayLike, jacobian: ArrayLike | None = None) -> Step:
        """Return w(t), in use now, and the state with w(t+1), from losses (K,) and the Jacobian (K, D).

        The rows of `jacobian` are the unweighted ∇_W L_i, W the parameters whose norms are balanced.
        Errors: ShapeError, DomainError (a negative loss, L_i(0) = 0, all losses 0), NonFiniteError.
        """
        # MEASURE
        known, w = same_tasks(state, GradNormState)
        L, J = self._inputs(losses, jacobian, len(w))
        L_0 = L if known.initial_losses is None else vector("state.initial_losses", known.initial_losses, len(w))
        n = norms(J)
        G = gradient_norms(w, n)

        # TARGET
        G_bar = mean_norm(G)
        r = relative_rate(L, L_0)
        target = target_norms(G_bar, r, self.alpha)  # a constant from here on: GN-E1

        # UPDATE
        L_grad = gradient_loss(G, target)
        dw = gradient_loss_slope(G, target, w, n)
        u, optimiser = self.rule.step(known.optimiser, w, dw)

        # RENORMALISE
        w_next = renormalise(np.maximum(u, 0.0) if self.negative == "clamp" else u)
        return Step(
            weights=w,
            head_weights=head_weights(w),
            state=GradNormState(w_next, L_0, optimiser),
            terms=dict(zip(self.tags, (G, G_bar, r, target, L_grad, dw, w_next), strict=True)),
        )

    def resumed(self, state: State, weights: Array) -> GradNormState:
        """Return `state` with `weights` in use; what else it remembers stays."""
        known, _ = same_tasks(state, GradNormState)
        return GradNormState(vector("weights", weights), known.initial_losses, known.optimiser)

    def _inputs(self, losses: ArrayLike, jacobian: ArrayLike | None, K: int) -> tuple[Array, Array]:
        """Return the checked losses (K,) and the Jacobian (K, D), whose entries `norms` looks at."""
        L = vector("losses", losses, K, "GN-3")
        require(L >= 0, "losses", L, "GN-3", "compares losses of at least 0, not")
        if jacobian is None:
            raise DomainError("GN-1 needs the Jacobian; jacobian is None", argument="jacobian", equation="GN-1")
        return L, unseen_matrix("jacobian", jacobian, K, "GN-1")


@equation
def gradient_norms(w: Array, n: Array) -> Array:
    """GN-1: G_i = ‖∇_W (w_i L_i)‖₂ = |w_i| n_i, with n_i = ‖∇_W L_i‖₂.

    `w`, `n` (K,); returns (K,), at least 0. Source: section 3.1.
    """
    return np.abs(w) * n


@equation
def mean_norm(G: Array) -> float:
    """GN-2: Ḡ = (1/K) Σ_i G_i.

    `G` (K,); returns a number of at least 0. Source: section 3.1.
    """
    return float(np.mean(G))


@equation
def relative_rate(L: Array, L_0: Array) -> Array:
    """GN-3: r_i = (L_i / L_i(0)) / mean_j (L_j / L_j(0)).

    `L`, `L_0` (K,); returns (K,), at least 0, with mean 1: above 1 for a task that has made less progress than
    the average. Errors: DomainError if an L_i(0) is not positive or all losses are 0. Source: section 3.1.
    """
    require(L_0 > 0, "initial_losses", L_0, "GN-3", "divides by")
    L_tilde = L / L_0
    mean = float(np.mean(L_tilde))
    if mean == 0:
        message = "GN-3 divides by mean_j (L_j / L_j(0)) = 0: all losses are 0, or vanish beside L(0)"
        raise DomainError(message, argument="losses", task=0, value=float(L[0]), equation="GN-3")
    return L_tilde / mean


@equation
def target_norms(G_bar: float, r: Array, alpha: float) -> Array:
    """GN-4: target_i = Ḡ r_i^α, a constant in what follows.

    `G_bar` ≥ 0, `r` (K,) ≥ 0, `alpha` ≥ 0, 0⁰ = 1; returns (K,). Source: equation 1.
    """
    return G_bar * r**alpha


@equation
def gradient_loss(G: Array, target: Array) -> float:
    """GN-5: L_grad = Σ_i |G_i − target_i|.

    `G`, `target` (K,); returns a number of at least 0. Source: equation 2.
    """
    return float(np.sum(np.abs(G - target)))


@equation
def gradient_loss_slope(G: Array, target: Array, w: Array, n: Array) -> Array:
    """GN-6: ∂L_grad/∂w_i = sign(G_i − target_i) sign(w_i) n_i, sign(0) = 0.

    All (K,). The derivative of GN-5 with the target held constant (Algorithm 1), since |w_i|' = sign(w_i).
    """
    return np.sign(G - target) * np.sign(w) * n


@equation
def renormalise(u: Array) -> Array:
    """GN-7: w_i(t+1) = K u_i / Σ_j u_j, with u the weights after the optimiser's step along GN-6.

    `u` (K,); returns (K,) with sum K. Errors: DomainError if Σ u is not positive. Source: Algorithm 1.
    """
    total = float(np.sum(u))
    if total <= 0:
        task = int(np.argmin(u))
        message = (
            f"GN-7 divides by Σ u = {total!r}, which must be above 0: the update took u[{task}] to "
            f"{float(u[task])!r}; lr is too large for these gradient norms"
        )
        raise DomainError(message, argument="lr", task=task, value=float(u[task]), equation="GN-7")
    return len(u) * (u / total)


@equation
def head_weights(w: Array) -> Array:
    """GN-8: h_i = w_i: head i descends ∇(w_i L_i), the label loss Σ_i w_i L_i being one loss.

    `w` (K,); returns (K,). Source: section 3.1 and Algorithm 1, which updates the whole network with it.
    """
    return w


@equation
def initial_weights(K: int) -> Array:
    """GN-9: w_i(0) = 1.

    Returns (K,). Source: Algorithm 1.
    """
    return np.ones(K)
