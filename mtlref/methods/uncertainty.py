"""Uncertainty Weighting: every task has a noise of its own, learned, and a noisy task counts for less.

Kendall, Gal and Cipolla, "Multi-Task Learning Using Uncertainty to Weigh Losses for Scene Geometry and Semantics",
CVPR 2018, arXiv 1705.07115. Section 3.

A likelihood with noise σ turns a task's loss L into a weight times L and a price for the noise; with s = log σ²
the weight is an exponential (UW-1), the price linear (UW-2). The log-variances descend the sum of both over the
tasks along its slope (UW-3), by any optimiser (UW-4), while the network descends it with the weights as they are,
heads included (UW-5). They start at zero (UW-6).

For classification the price is an approximation. The likelihood it approximates (UW-7), its exact price (UW-8) and
the slope of that (UW-9) are here as functions, to measure by how much. Derivation: derivations/uncertainty.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike

from mtlref.contract import Cadence, Method, Reads, Step, same_tasks
from mtlref.notation import Array, DomainError, ShapeError, count, equation, matrix, require, vector
from mtlref.optimisers import SGD, Optimiser
from mtlref.state import State

LIKELIHOODS: Mapping[str, tuple[float, float]] = {
    "gaussian": (0.5, 1.0),
    "softmax": (1.0, 1.0),
    "laplace": (1.0, 0.5),
}
"""The factor a and the exponent b of w = a e^(−b s), by the likelihood's name.

gaussian: L = ‖y − f‖², s = log σ², σ² the variance. softmax: L the cross-entropy of the unscaled logits, s = log σ²,
σ² the temperature. laplace: L = ‖y − f‖₁, s = log b² with b the scale of the density; its variance is 2 e^s.
"""


@dataclass(frozen=True, eq=False)
class UncertaintyState(State):
    """What Uncertainty Weighting remembers.

    `log_variances` (K,): s(t); `weights` (K,): UW-1 of them, those of the step to come, kept for whoever looks at
    the state: a step reads `log_variances` alone; `optimiser`: the state of the optimiser that moves them.
    """

    log_variances: Array
    weights: Array
    optimiser: State


@dataclass(frozen=True)
class UncertaintyWeighting(Method):
    """Uncertainty Weighting (UW-1 … UW-6).

    `likelihoods`: "gaussian", "softmax" or "laplace" for all tasks, or a tuple with one of these for each task.
    `lr` > 0: step size of the log-variances, for the default optimiser, SGD(lr).
    `optimiser` (UW-C1): the rule that moves them; it replaces SGD(lr), and `lr` with it.
    `dimensions` (UW-E1): outputs a task, D in UW-2: None or 1 counts the noise once a task, as printed; a whole
    number for all tasks, or a tuple with one for each.

    The objective is a negative log-likelihood of a density, and is itself negative where the noise is small: its
    size says nothing. A negative *loss* is refused: with it the objective has no lower bound.
    Errors: DomainError for a hyper-parameter out of range.
    """

    likelihoods: str | tuple[str, ...] = "gaussian"
    lr: float = 0.001
    optimiser: Optimiser | None = None
    dimensions: int | tuple[int, ...] | None = None

    stem: ClassVar[str] = "uncertainty"
    title: ClassVar[str] = "Uncertainty Weighting"
    source: ClassVar[str] = "Kendall, Gal and Cipolla, CVPR 2018, arXiv 1705.07115, section 3"
    reads: ClassVar[Reads] = "losses"
    cadence: ClassVar[Cadence] = "step"
    tags: ClassVar[dict[str, str]] = {"w": "UW-1", "objective": "UW-2", "ds": "UW-3", "s_next": "UW-4"}
    start: ClassVar[str] = "UW-6"
    heads: ClassVar[str] = "UW-5"

    def __post_init__(self) -> None:
        for name in ("likelihoods", "dimensions"):
            if isinstance(getattr(self, name), list):
                object.__setattr__(self, name, tuple(getattr(self, name)))
        for task, likelihood in enumerate(_each(self.likelihoods)):
            if likelihood not in LIKELIHOODS:
                message = f"likelihoods: {likelihood!r} is not one of {', '.join(LIKELIHOODS)} (UW-1)"
                raise DomainError(message, argument="likelihoods", task=task, value=likelihood, equation="UW-1")
        every = (
            self.dimensions
            if isinstance(self.dimensions, tuple)
            else (1 if self.dimensions is None else self.dimensions,)
        )
        for D in every:
            count("dimensions", D)
        SGD(self.lr)

    @property
    def rule(self) -> Optimiser:
        """The optimiser that moves the log-variances (UW-C1)."""
        return SGD(self.lr) if self.optimiser is None else self.optimiser

    def init(self, n_tasks: int) -> UncertaintyState:
        """Return the state before the first step: s_i(0) = 0."""
        return self.at(initial_log_variances(count("n_tasks", n_tasks)))

    def at(self, log_variances: ArrayLike) -> UncertaintyState:
        """Return the state with `log_variances` (K,) and an optimiser that has not stepped (UW-C2)."""
        s = vector("log_variances", log_variances, equation="UW-1")
        a, b, _ = self._constants(len(s))
        return UncertaintyState(s, effective_weights(s, a, b), self.rule.init(s))

    def step(self, state: State, losses: ArrayLike, jacobian: ArrayLike | None = None) -> Step:
        """Return the weights in use now and the state with s(t+1), from losses (K,).

        Errors: ShapeError, DomainError (a negative loss), NonFiniteError (a weight overflows).
        """
        # MEASURE
        known, s, L = self._inputs(state, losses)
        if jacobian is not None:
            matrix("jacobian", jacobian, len(s))
        a, b, D = self._constants(len(s))
        w = effective_weights(s, a, b)

        # OBJECTIVE
        total = total_objective(L, w, s, D)
        ds = objective_slope(L, w, b, D)

        # UPDATE
        u, optimiser = self.rule.step(known.optimiser, s, ds)
        s_next = next_log_variances(u)
        return Step(
            weights=w,
            head_weights=head_weights(w),
            state=UncertaintyState(s_next, effective_weights(s_next, a, b), optimiser),
            terms={"w": w, "objective": total, "ds": ds, "s_next": s_next},
        )

    def objective(self, losses: ArrayLike, state: State) -> float:
        """Return the objective, UW-2, that the network and the log-variances descend."""
        _, s, L = self._inputs(state, losses)
        a, b, D = self._constants(len(s))
        return total_objective(L, effective_weights(s, a, b), s, D)

    def objective_gradient(self, losses: ArrayLike, state: State) -> Array:
        """Return the objective's slope in the log-variances, UW-3, (K,). Its slope in the losses is UW-1."""
        _, s, L = self._inputs(state, losses)
        a, b, D = self._constants(len(s))
        return objective_slope(L, effective_weights(s, a, b), b, D)

    def resumed(self, state: State, weights: Array) -> UncertaintyState:
        """Return `state` with the log-variances that lead to `weights`, all above 0; the optimiser's state stays."""
        known, s, _ = self._inputs(state, np.zeros(len(weights)))
        w = vector("weights", weights, len(s), "UW-1")
        require(w > 0, "weights", w, "UW-1", "is an exponential, above 0, not")
        a, b, _ = self._constants(len(s))
        return UncertaintyState(-np.log(w / a) / b, w, known.optimiser)

    def followed(self, state: State, terms: Mapping[str, ArrayLike]) -> State:
        """Return the `state` after a step with the log-variances `s_next` that `terms` have, if they have them."""
        if "s_next" not in terms:
            return state
        return replace(self.at(terms["s_next"]), optimiser=same_tasks(state, UncertaintyState)[0].optimiser)

    def _inputs(self, state: State, losses: ArrayLike) -> tuple[UncertaintyState, Array, Array]:
        """Return the state, its checked log-variances (K,) and the checked losses (K,)."""
        known, s = same_tasks(state, UncertaintyState, "log_variances")
        L = vector("losses", losses, len(s), "UW-2")
        require(L >= 0, "losses", L, "UW-2", "has no lower bound for a loss below 0, as")
        return known, s, L

    def _constants(self, K: int) -> tuple[Array, Array, Array]:
        """Return the factors a, the exponents b and the dimensions D, each (K,)."""
        columns = []
        for name, given in (("likelihoods", self.likelihoods), ("dimensions", self.dimensions)):
            every = _each(given)
            if isinstance(given, tuple) and len(every) != K:
                message = f"{name} must have one entry a task, {K}; it has {len(every)}"
                raise ShapeError(message, argument=name, value=len(every))
            columns.append(every if isinstance(given, tuple) else every * K)
        a, b = np.array([LIKELIHOODS[str(name)] for name in columns[0]]).T
        return a, b, np.array([1.0 if D is None else D for D in columns[1]], dtype=np.float64)


def _each(given: object) -> tuple[object, ...]:
    """Return what was given for each task: a tuple as it is, a single value as a tuple of one."""
    return given if isinstance(given, tuple) else (given,)


@equation
def effective_weights(s: Array, a: Array, b: Array) -> Array:
    """UW-1: w_i = a_i exp(−b_i s_i): ½ e^(−s) gaussian, e^(−s) softmax, e^(−s/2) laplace.

    `s` (K,), `a`, `b` (K,) of `LIKELIHOODS`; returns (K,), above 0. Source: equations 5 and 10; laplace derived.
    """
    return a * np.exp(-b * s)


@equation
def total_objective(L: Array, w: Array, s: Array, D: Array) -> float:
    """UW-2: 𝓛 = Σ_i (w_i L_i + (D_i/2) s_i).

    All (K,), `L` ≥ 0; returns a number of either sign. Source: equations 7 and 10, with D = 1; UW-E1.
    """
    return float(np.sum(w * L + D / 2 * s))


@equation
def objective_slope(L: Array, w: Array, b: Array, D: Array) -> Array:
    """UW-3: ∂𝓛/∂s_i = D_i/2 − b_i w_i L_i.

    All (K,); returns (K,), 0 where w_i L_i = D_i/(2 b_i). The derivative of UW-2 through UW-1.
    """
    return D / 2 - b * w * L


@equation
def next_log_variances(u: Array) -> Array:
    """UW-4: s_i(t+1) = u_i, with u the log-variances after the optimiser's step along UW-3.

    `u` (K,); returns (K,), unconstrained. Plain SGD: u = s − lr ∂𝓛/∂s. Source: section 3.2, joint descent.
    """
    return u


@equation
def head_weights(w: Array) -> Array:
    """UW-5: h_i = w_i: head i descends ∇(w_i L_i), the objective being one function of all parameters.

    `w` (K,); returns (K,). Source: equation 7.
    """
    return w


@equation
def initial_log_variances(K: int) -> Array:
    """UW-6: s_i(0) = 0, that is σ_i = 1 and w_i(0) = a_i.

    Returns (K,). Source: the authors' demonstration code (UW-C2).
    """
    return np.zeros(K)


# THE SCALED SOFTMAX


@equation
def scaled_softmax_loss(f: Array, c: int, s: float) -> float:
    """UW-7: −log Softmax(f/σ²)_c = −e^(−s) f_c + log Σ_k exp(e^(−s) f_k).

    `f` (C,) logits, `c` the true class, `s` = log σ²; returns a number of at least 0, up to rounding. A Boltzmann
    distribution with temperature σ². Source: section 3.2.
    """
    tau = float(np.exp(-s))
    return log_sum_exp(tau * f) - tau * float(f[c])


@equation
def log_ratio(f: Array, s: float) -> float:
    """UW-8: R(s) = log( Σ_k exp(f_k/σ²) / (Σ_k exp f_k)^(1/σ²) ), so that UW-7 = e^(−s) CE + R(s).

    `f` (C,), `s` = log σ², CE = UW-7 at s = 0; returns a number, 0 at s = 0, log C for s → ∞. UW-2 puts s/2 in its
    place (UW-E2). Source: equation 10 before its approximation.
    """
    tau = float(np.exp(-s))
    return log_sum_exp(tau * f) - tau * log_sum_exp(f)


@equation
def log_ratio_slope(f: Array, s: float) -> float:
    """UW-9: dR/ds = e^(−s) (log Σ_k exp f_k − Σ_k p_k f_k), with p = Softmax(f/σ²).

    `f` (C,), `s` = log σ²; returns a number: at s = 0 the entropy of Softmax(f), where UW-2 has ½. In σ it is
    dR/dσ = (2/σ) dR/ds. Derived.
    """
    tau = float(np.exp(-s))
    exponential = np.exp(tau * (f - np.max(f)))
    mean = float(np.sum(exponential * f) / np.sum(exponential))
    return tau * (log_sum_exp(f) - mean)


def log_sum_exp(f: Array) -> float:
    """Return log Σ_k exp f_k, with the largest exponent taken to 0 on the way."""
    largest = float(np.max(f))
    return largest + float(np.log(np.sum(np.exp(f - largest))))
