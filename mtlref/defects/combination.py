"""Wrong variants of the combination. Each function takes what the equation's own function takes.

A strength used as a factor of the weights is no defect of its own: COMB-5 cancels it, and what is left is
`StrengthsIgnored`.
"""

from __future__ import annotations

import numpy as np

from mtlref.defects.defect import Defect
from mtlref.notation import Array


def cascaded_losses(L: Array, sums: Array, steps: int, waits: bool, before: Array) -> Array:
    """ℓ = the losses times the weights of the stages before: each stage weights what the last one weighted."""
    return before * ((sums + L) / (steps + 1) if waits else L)


def last_batch(L: Array, sums: Array, steps: int, waits: bool, before: Array) -> Array:
    """ℓ = L(t) for a stage that waits for the epoch's end too: the last batch for the epoch's mean."""
    return L


def cascaded_gradients(before: Array) -> Array:
    """s = the weights of the stages before: GradNorm balances gradients that are weighted already."""
    return before


def softmax_stage(weights: Array, name: str) -> Array:
    """u = K softmax(w): a stage's weights passed through a softmax for a division by their sum."""
    exponential = np.exp(weights - np.max(weights))
    return np.asarray(len(weights) * exponential / np.sum(exponential))


def weighted_mean(u: Array, strengths: Array) -> Array:
    """p = Σ_m β_m u^(m): the sum for the product."""
    return np.asarray(strengths @ u)


def geometric_mean(u: Array, strengths: Array) -> Array:
    """p = (Π_m (u^(m))^β_m)^(1/M): the product's root, which halves the effect of two stages."""
    return np.asarray(np.prod(u ** strengths[:, None], axis=0) ** (1 / len(u)))


def bare_product(u: Array, strengths: Array) -> Array:
    """p = Π_m u^(m): every strength is 1."""
    return np.asarray(np.prod(u, axis=0))


def linear_strengths(u: Array, strengths: Array) -> Array:
    """p = Π_m (1 + β_m (u^(m) − 1)): the strength as a factor of the distance from 1."""
    return np.asarray(np.prod(1 + strengths[:, None] * (u - 1), axis=0))


def unchanged(p: Array) -> Array:
    """λ = p: the product is not brought to a sum of K."""
    return p


def sum_to_one(p: Array) -> Array:
    """λ = p / Σ p: the weights sum to 1."""
    return np.asarray(p / np.sum(p))


def raw_factor(loss_weights: Array) -> Array:
    """f = 1: the aggregator reads the unweighted gradients."""
    return np.ones(len(loss_weights))


def squared_factor(loss_weights: Array) -> Array:
    """f = λ²: the gradients of the weighted losses, weighted once more."""
    return loss_weights**2


def unit_sum_coefficients(omega: Array, sums_to_one: bool) -> Array:
    """c = ω for PE-LTR as well: the step is a K-th of the plain sum's scale."""
    return omega


def coefficients_alone(c: Array, loss_weights: Array) -> Array:
    """w = c: the weights are lost after the aggregator has read the weighted gradients."""
    return c


def weighted_twice(c: Array, loss_weights: Array) -> Array:
    """w = c λ²: the aggregator's direction is weighted once more."""
    return c * loss_weights**2


def heads_of_one(loss_weights: Array, w: Array) -> Array:
    """h = 1: the heads descend their unweighted losses."""
    return np.ones(len(w))


def heads_aggregated(loss_weights: Array, w: Array) -> Array:
    """h = w = c λ: the heads get the aggregator's coefficients as well."""
    return w


def held_back(ahead: Array, w: Array, lagged: bool) -> Array:
    """The state's weights are those of the step that is over."""
    return w


DEFECTS = (
    Defect(
        "Cascade",
        "COMB-1",
        "each stage on losses that the stages before it have weighted, not on raw ones",
        {"seen_losses": cascaded_losses},
    ),
    Defect(
        "LastBatchForEpoch",
        "COMB-1",
        "the last batch's losses for their mean over the epoch",
        {"seen_losses": last_batch},
    ),
    Defect(
        "WeightedGradients",
        "COMB-2",
        "GradNorm on gradients that the stages before it have weighted",
        {"seen_gradients": cascaded_gradients},
    ),
    Defect(
        "SoftmaxStages",
        "COMB-3",
        "a softmax of each stage's weights for a division by their sum",
        {"stage_weights": softmax_stage},
    ),
    Defect("SumForProduct", "COMB-4", "the sum of the stages' weights for their product", {"product": weighted_mean}),
    Defect("GeometricMean", "COMB-4", "the M-th root of the product of M stages", {"product": geometric_mean}),
    Defect("StrengthsIgnored", "COMB-4", "a product in which every strength is 1", {"product": bare_product}),
    Defect(
        "LinearStrengths",
        "COMB-4",
        "1 + β (u − 1) for u^β: the strength as a factor, not an exponent",
        {"product": linear_strengths},
    ),
    Defect(
        "NotRenormalised", "COMB-5", "a product that is not brought to a sum of K", {"loss_level_weights": unchanged}
    ),
    Defect("SumToOne", "COMB-5", "loss-level weights that sum to 1, not to K", {"loss_level_weights": sum_to_one}),
    Defect(
        "AggregatorOnRaw",
        "COMB-6",
        "the aggregator's coefficients from the unweighted gradients",
        {"aggregator_factor": raw_factor},
    ),
    Defect(
        "SquaredFactor",
        "COMB-6",
        "the aggregator's coefficients from gradients that are weighted twice",
        {"aggregator_factor": squared_factor},
    ),
    Defect(
        "UnitSumCoefficients",
        "COMB-7",
        "PE-LTR's weights without the factor K: a K-th of the step",
        {"coefficients": unit_sum_coefficients},
    ),
    Defect(
        "CoefficientsAlone",
        "COMB-8",
        "the aggregator's coefficients of the weighted gradients, put on the unweighted ones",
        {"weights_in_use": coefficients_alone},
    ),
    Defect(
        "WeightedTwice",
        "COMB-8",
        "the loss-level weights once more on the aggregator's direction",
        {"weights_in_use": weighted_twice},
    ),
    Defect("HeadsOfOne", "COMB-9", "unweighted losses in the heads", {"head_weights": heads_of_one}),
    Defect(
        "HeadsAggregated",
        "COMB-9",
        "the aggregator's coefficients in the heads as well",
        {"head_weights": heads_aggregated},
    ),
    Defect(
        "HeldBack", "COMB-10", "the weights in use, not those to come, in the state", {"state_weights": held_back}
    ),
)
"""Plausible wrong variants of the combination."""
