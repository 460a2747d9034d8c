"""CoV-Weighting: a task whose loss still varies, measured against its own mean, gets a larger weight.

Groenendijk, Karaoglu, Gevers and Mensink, "Multi-Loss Weighting with Coefficient of Variations", WACV 2021,
arXiv 2009.01717. Sections 3.2 and 3.3.

At every step the newest value gets a share of the running statistics, 1/t or a decaying one (COV-1). The loss is
divided by its running mean (COV-2), which then moves on (COV-3); mean and variance of these ratios are kept by
Welford's recursion (COV-4, COV-5). Standard deviation over mean is the coefficient of variation (COV-6), and the
weights are the coefficients, scaled to a sum of one (COV-7). They are in use at once, or one step later
(COV-8), for the trunk and the heads (COV-9), and start equal (COV-10). No gradient is read.

Derivation: derivations/cov.md.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import ArrayLike

from mtlref.contract import Cadence, Method, Reads, Step, same_tasks
from mtlref.notation import Array, DomainError, count, equation, matrix, positive, require, vector
from mtlref.state import State

Statistics = Literal["current", "previous"]


@dataclass(frozen=True, eq=False)
class CoVState(State):
    """What CoV-Weighting remembers after t steps.

    `step`: t; `loss_means` (K,): μ_L(t), None before the first step; `ratio_means`, `M` (K,): mean and variance
    of the loss ratios, zeros before the first step; `weights` (K,): α(t), which were in use at step t with
    current statistics, and come into use at step t + 1 with previous ones.
    """

    step: int
    loss_means: Array | None
    ratio_means: Array
    M: Array
    weights: Array


@dataclass(frozen=True)
class CoVWeighting(Method):
    """CoV-Weighting (COV-1 … COV-10). The weights sum to 1, not to K.

    `statistics` (COV-C3): "current", weights from the statistics that include this step's losses, as the equations
    have it; "previous", from those before it, as the official code has it.
    `decay` (COV-C4): None, every step counts alike; a number β between 0 and 1, a step counts β times as much as
    the one after it, in the means and in the variance.
    `observed` (COV-C5): "ratio", the coefficient of variation of the loss ratios; "loss", that of the losses.
    Errors: DomainError for a hyper-parameter out of range.
    """

    statistics: Statistics = "current"
    decay: float | None = None
    observed: Literal["ratio", "loss"] = "ratio"

    stem: ClassVar[str] = "cov"
    title: ClassVar[str] = "CoV-Weighting"
    source: ClassVar[str] = "Groenendijk et al., WACV 2021, arXiv 2009.01717, section 3"
    reads: ClassVar[Reads] = "losses"
    cadence: ClassVar[Cadence] = "step"
    tags: ClassVar[dict[str, str]] = {
        "gain": "COV-1",
        "ratio": "COV-2",
        "mu_L": "COV-3",
        "mu_ratio": "COV-4",
        "M": "COV-5",
        "c": "COV-6",
        "alpha": "COV-7",
        "w": "COV-8",
    }
    start: ClassVar[str] = "COV-10"
    heads: ClassVar[str] = "COV-9"

    def __post_init__(self) -> None:
        for argument, value, allowed, tag in (
            ("statistics", self.statistics, ("current", "previous"), "COV-8"),
            ("observed", self.observed, ("ratio", "loss"), "COV-2"),
        ):
            if value not in allowed:
                message = f"{argument} = {value!r} must be {allowed[0]!r} or {allowed[1]!r}"
                raise DomainError(message, argument=argument, value=value, equation=tag)
        if self.decay is not None and positive("decay", self.decay, "COV-1") >= 1:
            message = f"decay = {self.decay!r} must be below 1; None is no decay (COV-1)"
            raise DomainError(message, argument="decay", value=self.decay, equation="COV-1")

    @property
    def lagged(self) -> bool:
        """Whether the weights in use come from earlier steps alone: with previous statistics (COV-C3)."""
        return self.statistics == "previous"

    def init(self, n_tasks: int) -> CoVState:
        """Return the state before the first step: no statistics, α(0) = 1/K."""
        alpha = initial_weights(count("n_tasks", n_tasks))
        return CoVState(0, None, np.zeros(n_tasks), np.zeros(n_tasks), alpha)

    def step(self, state: State, losses: ArrayLike, jacobian: ArrayLike | None = None) -> Step:
        """Return the weights in use now and the next state, from losses (K,).

        Errors: ShapeError, DomainError (a negative loss, a mean of 0 before this step), NonFiniteError.
        """
        # MEASURE
        known, alpha_prev = same_tasks(state, CoVState)
        L, mu_L_prev, mu_ratio_prev, M_prev = self._inputs(known, losses, jacobian, len(alpha_prev))
        t = count("state.step", known.step, 0) + 1
        a = gain(t, self.decay)
        ratio = loss_ratio(L, mu_L_prev) if self.observed == "ratio" else L

        # STATISTICS
        mu_L = loss_mean(mu_L_prev, L, a)
        mu_ratio = ratio_mean(mu_ratio_prev, ratio, a)
        M = ratio_variance(M_prev, ratio, mu_ratio_prev, a)

        # WEIGHTS
        c = coefficient_of_variation(M, mu_ratio)
        alpha = normalise(c)
        w = in_use(alpha, alpha_prev, self.statistics)
        return Step(
            weights=w,
            head_weights=head_weights(w),
            state=CoVState(t, mu_L, mu_ratio, M, alpha),
            terms=dict(zip(self.tags, (a, ratio, mu_L, mu_ratio, M, c, alpha, w), strict=True)),
        )

    def resumed(self, state: State, weights: Array) -> CoVState:
        """Return `state` with `weights` as its α(t); the statistics stay, and they alone make α(t+1)."""
        known, _ = same_tasks(state, CoVState)
        return replace(known, weights=vector("weights", weights))

    def _inputs(
        self, known: CoVState, losses: ArrayLike, jacobian: ArrayLike | None, K: int
    ) -> tuple[Array, Array | None, Array, Array]:
        """Return the checked losses (K,) and the state's statistics."""
        L = vector("losses", losses, K, "COV-2")
        require(L >= 0, "losses", L, "COV-2", "compares losses of at least 0, not")
        if jacobian is not None:
            matrix("jacobian", jacobian, K)
        mu_L_prev = known.loss_means
        M_prev = vector("state.M", known.M, K, "COV-5")
        require(M_prev >= 0, "state.M", M_prev, "COV-5", "continues a variance of at least 0, not")
        return (
            L,
            mu_L_prev if mu_L_prev is None else vector("state.loss_means", mu_L_prev, K, "COV-2"),
            vector("state.ratio_means", known.ratio_means, K, "COV-4"),
            M_prev,
        )


@equation
def gain(t: int, decay: float | None) -> float:
    """COV-1: a_t = 1/t, or (1 − β)/(1 − β^t) with a decay β: the share of step t in the statistics.

    `t` ≥ 1; returns a number in (0, 1], 1 at t = 1. The second tends to the first as β → 1. Its distance from 1 is
    rounded to a multiple of 1e-16, so a β below 1e-3 costs digits of M. Source: section 3.3; derivation.
    """
    if decay is None:
        return 1.0 / t
    log = float(np.log(decay))
    return float(np.expm1(log) / np.expm1(t * log))


@equation
def loss_ratio(L: Array, mu_L_prev: Array | None) -> Array:
    """COV-2: ℓ_i(t) = L_i(t) / μ_{L,i}(t−1), and 1 where no mean is there yet.

    `L`, `mu_L_prev` (K,), at least 0; returns (K,): above 1 for a loss above its mean so far.
    Errors: DomainError if a mean is not positive. Source: equation 3; COV-C1 for the first step.
    """
    if mu_L_prev is None:
        return np.ones(len(L))
    require(mu_L_prev > 0, "loss_means", mu_L_prev, "COV-2", "divides by")
    return L / mu_L_prev


@equation
def loss_mean(mu_L_prev: Array | None, L: Array, a: float) -> Array:
    """COV-3: μ_{L,i}(t) = (1 − a_t) μ_{L,i}(t−1) + a_t L_i(t), the loss itself where no mean is there yet.

    `mu_L_prev`, `L` (K,), `a` in (0, 1]; returns (K,). Source: section 3.3, the first of Welford's recursions.
    """
    return L if mu_L_prev is None else mixture(mu_L_prev, L, a)


@equation
def ratio_mean(mu_ratio_prev: Array, ratio: Array, a: float) -> Array:
    """COV-4: μ_{ℓ,i}(t) = (1 − a_t) μ_{ℓ,i}(t−1) + a_t ℓ_i(t).

    `mu_ratio_prev`, `ratio` (K,), `a` in (0, 1]; returns (K,). Source: section 3.3, the second recursion.
    """
    return mixture(mu_ratio_prev, ratio, a)


@equation
def ratio_variance(M_prev: Array, ratio: Array, mu_ratio_prev: Array, a: float) -> Array:
    """COV-5: M_i(t) = (1 − a_t) M_i(t−1) + a_t (ℓ_i(t) − μ_{ℓ,i}(t−1)) (ℓ_i(t) − μ_{ℓ,i}(t)).

    `M_prev`, `ratio`, `mu_ratio_prev` (K,), `a` in (0, 1]; returns (K,), at least 0: the last factor is
    (1 − a_t)(ℓ_i(t) − μ_{ℓ,i}(t−1)), which is how it is formed here. Errors: DomainError if a deviation is so
    small that its square is lost. Source: section 3.3, the third recursion.
    """
    before = ratio - mu_ratio_prev
    after = (1 - a) * before
    M = (1 - a) * M_prev + a * (before * after)
    kept = (after == 0) | (np.finfo(np.float64).tiny <= M)
    require(kept, "ratio", ratio, "COV-5", "loses the square of the deviation of")
    return M


@equation
def coefficient_of_variation(M: Array, mu_ratio: Array) -> Array:
    """COV-6: c_i = σ_i / μ_{ℓ,i}, with σ_i = √M_i.

    `M`, `mu_ratio` (K,); returns (K,), at least 0. Errors: DomainError if a mean is not positive.
    Source: equations 2 and 4.
    """
    require(mu_ratio > 0, "ratio_means", mu_ratio, "COV-6", "divides by")
    return np.sqrt(M) / mu_ratio


@equation
def normalise(c: Array) -> Array:
    """COV-7: α_i = c_i / Σ_j c_j, and 1/K where all c are 0 (COV-C2).

    `c` (K,), at least 0; returns (K,) with sum 1. Source: equation 4, with 1/z for the normalisation.
    """
    total = float(np.sum(c))
    if total == 0:
        return np.full(len(c), 1 / len(c))
    return c / total


@equation
def in_use(alpha: Array, alpha_prev: Array, statistics: Statistics) -> Array:
    """COV-8: w_i(t) = α_i(t) with current statistics, α_i(t−1) with previous ones.

    `alpha`, `alpha_prev` (K,); returns (K,). Source: equation 4, and the official code (COV-C3).
    """
    return alpha if statistics == "current" else alpha_prev


@equation
def head_weights(w: Array) -> Array:
    """COV-9: h_i = w_i: head i descends ∇(w_i L_i), the total Σ_i w_i L_i being one loss.

    `w` (K,), constants: no gradient flows into the statistics; returns (K,). Source: equation 1.
    """
    return w


@equation
def initial_weights(K: int) -> Array:
    """COV-10: α_i(0) = 1/K.

    Returns (K,). Source: the official code's first steps; the rule of COV-C2 before anything has been seen.
    """
    return np.full(K, 1 / K)


def mixture(mean: Array, value: Array, a: float) -> Array:
    """Return (1 − a) mean + a value, formed from the nearer end.

    A value equal to the mean leaves it as it is to the last bit, and a = 1 gives the value to the last bit.
    """
    if a <= 0.5:
        return mean + a * (value - mean)
    return value + (1 - a) * (mean - value)
