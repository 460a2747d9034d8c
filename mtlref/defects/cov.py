"""Wrong variants of CoV-Weighting. Each function takes what the equation's own function takes.

Updates of the statistics during validation are no wrong equation but extra steps, and are not listed: the tests of
the conformance checks have them as an implementation that must fail. Nor are the
sample variance and an undivided sum of squares: they change every M by one common factor, which COV-7 cancels.
"""

from __future__ import annotations

import numpy as np

from mtlref.defects.defect import Defect
from mtlref.methods.cov import normalise
from mtlref.notation import Array


class CountedGain(float):
    """A gain that remembers the step it belongs to, for a variance that is averaged in another way."""

    t: int

    def __new__(cls, value: float, t: int) -> CountedGain:
        gain = super().__new__(cls, value)
        gain.t = t
        return gain


def constant_gain(t: int, decay: float | None) -> float:
    """a_t = 1 − β from the second step on: the first value keeps the weight of all that came before it."""
    return 1.0 / t if decay is None or t == 1 else CountedGain(1.0 - decay, t)


def plain_variance(M_prev: Array, ratio: Array, mu_ratio_prev: Array, a: float) -> Array:
    """M = (1 − 1/t) M + (1/t)(ℓ − μ_prev)(ℓ − μ): averaged over all steps alike, whatever the means do."""
    share = 1.0 / a.t if isinstance(a, CountedGain) else a
    before = ratio - mu_ratio_prev
    return np.asarray((1 - share) * M_prev + share * (before * ((1 - a) * before)))


def new_deviation_squared(M_prev: Array, ratio: Array, mu_ratio_prev: Array, a: float) -> Array:
    """M = (1 − a) M + a (ℓ − μ)²: the mean after the step in both factors."""
    return (1 - a) * M_prev + a * ((1 - a) * (ratio - mu_ratio_prev)) ** 2


def old_deviation_squared(M_prev: Array, ratio: Array, mu_ratio_prev: Array, a: float) -> Array:
    """M = (1 − a) M + a (ℓ − μ_prev)²: the mean before the step in both factors; at t = 1 it counts as ℓ."""
    before = np.zeros(len(ratio)) if a == 1 else ratio - mu_ratio_prev
    return np.asarray((1 - a) * M_prev + a * before**2)


def first_loss_for_mean(mu_L_prev: Array | None, L: Array, a: float) -> Array:
    """μ_L = L(1): the ratio is to the first loss, as in GradNorm."""
    return L if mu_L_prev is None else mu_L_prev


def last_loss_for_mean(mu_L_prev: Array | None, L: Array, a: float) -> Array:
    """μ_L = L(t): the ratio is to the loss of the step before, as in DWA."""
    return L


def inverted_ratio(L: Array, mu_L_prev: Array | None) -> Array:
    """ℓ = μ_L(t−1) / L(t)."""
    return np.ones(len(L)) if mu_L_prev is None else np.asarray(mu_L_prev / L)


def mean_over_tasks(mu_L_prev: Array | None, L: Array, a: float) -> Array:
    """μ_L is one number, the running mean over steps and tasks: losses of different units are mixed."""
    mean = np.mean(L) * np.ones(len(L))
    return mean if mu_L_prev is None else np.asarray((1 - a) * mu_L_prev + a * mean)


def floored_coefficient(M: Array, mu_ratio: Array) -> Array:
    """c = √(M + 1e-8) / μ: a deviation below 1e-4 counts as 1e-4."""
    return np.asarray(np.sqrt(M + 1e-8) / mu_ratio)


def deviation_alone(M: Array, mu_ratio: Array) -> Array:
    """c = √M: not set against the mean."""
    return np.asarray(np.sqrt(M))


def variance_for_deviation(M: Array, mu_ratio: Array) -> Array:
    """c = M / μ: the square root is forgotten."""
    return M / mu_ratio


def sum_to_K(c: Array) -> Array:
    """α = K c / Σ c."""
    return len(c) * normalise(c)


def softmax(c: Array) -> Array:
    """α = softmax(c)."""
    exponential = np.exp(c - np.max(c))
    return np.asarray(exponential / np.sum(exponential))


def inverted_weights(c: Array) -> Array:
    """α ∝ 1/c: the steadier loss gets the larger weight; equal where a c is 0."""
    return np.full(len(c), 1 / len(c)) if np.any(c == 0) else normalise(1 / c)


def against_first(c: Array) -> Array:
    """α_i = c_i/c_1: the first task for the sum; equal where it has not varied."""
    return np.full(len(c), 1 / len(c)) if c[0] == 0 else np.asarray(c / c[0])


def ones(w: Array) -> Array:
    """h_i = 1: the heads descend their own losses, unweighted."""
    return np.ones(len(w))


def start_at_one(K: int) -> Array:
    """α_i(0) = 1."""
    return np.ones(K)


DEFECTS = (
    Defect(
        "FloorUnderRoot",
        "COV-6",
        "√(M + 1e-8) for √M: a floor that dominates small deviations",
        {"coefficient_of_variation": floored_coefficient},
        "the official code",
    ),
    Defect(
        "DecayedMeanOnly",
        "COV-1",
        "means that decay by 1 − β beside a variance over all steps alike",
        {"gain": constant_gain, "ratio_variance": plain_variance},
        "the official code, with a decay",
    ),
    Defect(
        "ConstantGain", "COV-1", "1 − β for (1 − β)/(1 − β^t) as the newest value's share", {"gain": constant_gain}
    ),
    Defect(
        "RatioToFirst", "COV-3", "ratios to the first loss for those to the mean", {"loss_mean": first_loss_for_mean}
    ),
    Defect(
        "RatioToLast", "COV-3", "ratios to the loss before for those to the mean", {"loss_mean": last_loss_for_mean}
    ),
    Defect(
        "MeanOverTasks",
        "COV-3",
        "one mean over the losses of all tasks for a mean a task",
        {"loss_mean": mean_over_tasks},
    ),
    Defect("InvertedRatio", "COV-2", "μ_L/L for L/μ_L", {"loss_ratio": inverted_ratio}),
    Defect(
        "NewDeviationSquared",
        "COV-5",
        "the square of the deviation from the new mean for the product of both deviations",
        {"ratio_variance": new_deviation_squared},
    ),
    Defect(
        "OldDeviationSquared",
        "COV-5",
        "the square of the deviation from the old mean for the product of both deviations",
        {"ratio_variance": old_deviation_squared},
    ),
    Defect("DeviationAlone", "COV-6", "σ for σ/μ", {"coefficient_of_variation": deviation_alone}),
    Defect("VarianceForDeviation", "COV-6", "M/μ for √M/μ", {"coefficient_of_variation": variance_for_deviation}),
    Defect("SumToK", "COV-7", "weights that sum to K, not to 1", {"normalise": sum_to_K}),
    Defect("SoftmaxWeights", "COV-7", "a softmax of c for c over its sum", {"normalise": softmax}),
    Defect(
        "InvertedWeights",
        "COV-7",
        "1/c for c: the steadier loss gets the larger weight",
        {"normalise": inverted_weights},
    ),
    Defect(
        "AgainstFirst", "COV-7", "c relative to the first task's for c over its sum", {"normalise": against_first}
    ),
    Defect("HeadsUnweighted", "COV-9", "weights of 1 for the heads", {"head_weights": ones}),
    Defect("StartAtOne", "COV-10", "first weights of 1, not of 1/K", {"initial_weights": start_at_one}),
)
"""Known wrong variants of CoV-Weighting, those met in public code first."""
