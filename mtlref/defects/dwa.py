"""Wrong variants of Dynamic Weight Average. Each function takes what the equation's own function takes.

What needs another memory than the last epoch's mean losses is no replaced equation, and is not listed: ratios of
single batches or of sliding windows, weights that come an epoch late. Nor is a ratio that carries gradient, which
is the training loop's. The tests of the conformance checks have them as implementations that must fail.
"""

from __future__ import annotations

import numpy as np

from mtlref.contract import Step
from mtlref.defects.defect import Defect
from mtlref.methods.dwa import softmax_weights
from mtlref.notation import Array
from mtlref.state import State


def history_of_ones(L: Array, L_prev: Array | None) -> Array:
    """w_k = L_k / 1 in the first epoch: a history filled with ones is read before it is filled."""
    return np.asarray(L if L_prev is None else L / L_prev)


def inverted_ratio(L: Array, L_prev: Array | None) -> Array:
    """w_k = L_k(t−1) / L_k(t): a task that descends fast gets the larger weight."""
    return np.ones(len(L)) if L_prev is None else np.asarray(L_prev / L)


def difference(L: Array, L_prev: Array | None) -> Array:
    """w_k = L_k(t) − L_k(t−1): the change of the loss for its ratio."""
    return np.zeros(len(L)) if L_prev is None else L - L_prev


def losses_for_ratio(L: Array, L_prev: Array | None) -> Array:
    """w_k = L_k(t): the loss itself for its ratio."""
    return L


def sum_to_one(ratio: Array, T: float) -> Array:
    """λ = softmax(w/T): the factor K is missing."""
    return softmax_weights(ratio, T) / len(ratio)


def no_temperature(ratio: Array, T: float) -> Array:
    """λ = K softmax(w): the temperature is not used."""
    return softmax_weights(ratio, 1.0)


def multiplied_temperature(ratio: Array, T: float) -> Array:
    """λ = K softmax(w T): the temperature multiplies."""
    return softmax_weights(ratio, 1.0 / T)


def linear_weights(ratio: Array, T: float) -> Array:
    """λ_k = K w_k / Σ w_i: no exponential."""
    return np.asarray(len(ratio) * ratio / np.sum(ratio))


def ratio_against_first(L: Array, L_prev: Array | None) -> Array:
    """w_k = (L_k(t)/L_k(t−1)) / (L_1(t)/L_1(t−1)): relative to the first task."""
    ratio = np.ones(len(L)) if L_prev is None else np.asarray(L / L_prev)
    return np.asarray(ratio / ratio[0])


def ones(w: Array) -> Array:
    """h_k = 1: the heads descend their own losses, unweighted."""
    return np.ones(len(w))


def mean_of_tasks(weights: Array, head_weights: Array, state: State, terms: dict[str, Array]) -> Step:
    """The total (1/K) Σ λ_k L_k: the mean of the weighted losses for their sum."""
    return Step(weights / len(weights), head_weights / len(weights), state, terms)


def next_weights(weights: Array, head_weights: Array, state: State, terms: dict[str, Array]) -> Step:
    """The total with λ(t+1): this epoch's losses weigh this epoch's losses."""
    return Step(terms["w_next"], terms["w_next"], state, terms)


DEFECTS = (
    Defect(
        "HistoryOfOnes",
        "DWA-1",
        "the ratio to a loss history of ones in the first epoch, for no ratio at all",
        {"descending_rate": history_of_ones},
    ),
    Defect("SumToOne", "DWA-2", "weights that sum to 1, not to K", {"softmax_weights": sum_to_one}),
    Defect("InvertedRatio", "DWA-1", "L(t−1)/L(t) for L(t)/L(t−1)", {"descending_rate": inverted_ratio}),
    Defect("DifferenceForRatio", "DWA-1", "L(t) − L(t−1) for their ratio", {"descending_rate": difference}),
    Defect(
        "LossForRatio",
        "DWA-1",
        "the loss itself for its ratio to the epoch before",
        {"descending_rate": losses_for_ratio},
    ),
    Defect(
        "RatioAgainstFirst",
        "DWA-1",
        "ratios relative to the first task's",
        {"descending_rate": ratio_against_first},
    ),
    Defect("NoTemperature", "DWA-2", "a temperature of 1 whatever T is", {"softmax_weights": no_temperature}),
    Defect("MultipliedTemperature", "DWA-2", "exp(w T) for exp(w/T)", {"softmax_weights": multiplied_temperature}),
    Defect(
        "LinearWeights", "DWA-2", "the ratios themselves for their exponentials", {"softmax_weights": linear_weights}
    ),
    Defect(
        "MeanOfTasks", "DWA-3", "the mean of the weighted losses for their sum", {"Step": mean_of_tasks}, "nash-mtl"
    ),
    Defect("HeadsUnweighted", "DWA-3", "weights of 1 for the heads", {"head_weights": ones}),
    Defect(
        "NextWeightsAtOnce",
        "DWA-3",
        "weights from an epoch's own losses in that epoch, for those of the epochs before",
        {"Step": next_weights},
    ),
)
"""Known wrong variants of DWA."""
