"""Wrong variants of Uncertainty Weighting. Each function takes what the equation's own function takes.

A loss that is copied out of the graph gives the network no gradient at all, whatever the weights are; that is a fault
of the training loop, and is not listed. Nor are weights that are reported and not used. The tests of the conformance
checks have both as implementations that must fail.
"""

from __future__ import annotations

import numpy as np

from mtlref.contract import Step, weights_of
from mtlref.defects.defect import Defect
from mtlref.methods.uncertainty import effective_weights, objective_slope, total_objective
from mtlref.notation import Array
from mtlref.state import State


def whole_regulariser(L: Array, w: Array, s: Array, D: Array) -> float:
    """𝓛 = Σ (w L + D s): log σ² for log σ."""
    return total_objective(L, w, s, 2 * D)


def whole_slope(L: Array, w: Array, b: Array, D: Array) -> Array:
    """The slope of `whole_regulariser`: D − b w L."""
    return objective_slope(L, w, b, 2 * D)


def doubled_weights(s: Array, a: Array, b: Array) -> Array:
    """w = 2 e^(−s)."""
    return effective_weights(s, 2 * np.ones(len(s)), np.ones(len(s)))


def floor_at_zero(u: Array) -> Array:
    """s(t+1) = max(u, 0): no variance below 1."""
    return np.maximum(u, 0.0)


def squared_precision(s: Array, a: Array, b: Array) -> Array:
    """w = a e^(−2 b s): s taken for log σ, while the regulariser takes it for log σ²."""
    return effective_weights(s, a, 2 * b)


def squared_slope(L: Array, w: Array, b: Array, D: Array) -> Array:
    """The slope beside `squared_precision`: D/2 − 2 b w L."""
    return objective_slope(L, w, 2 * b, D)


def one_plus_square(L: Array, w: Array, s: Array, D: Array) -> float:
    """𝓛 = Σ (w L + D log(1 + e^s)): a regulariser that is always positive."""
    return total_objective(L, w, 2 * np.log1p(np.exp(s)), D)


def one_plus_square_slope(L: Array, w: Array, b: Array, D: Array) -> Array:
    """The slope of `one_plus_square` for a gaussian, whose e^s is 1/(2 w): D e^s/(1 + e^s) − b w L."""
    return np.asarray(D / (1 + 2 * w) - b * w * L)


def gaussian_weights(s: Array, a: Array, b: Array) -> Array:
    """w = ½ e^(−s), whatever the likelihood."""
    return effective_weights(s, np.full(len(s), 0.5), b)


def no_half(s: Array, a: Array, b: Array) -> Array:
    """w = e^(−b s), whatever the likelihood."""
    return effective_weights(s, np.ones(len(s)), b)


def once_a_task(L: Array, w: Array, s: Array, D: Array) -> float:
    """𝓛 = Σ (w L + ½ s): the noise of one output, however many there are."""
    return total_objective(L, w, s, np.ones(len(D)))


def once_a_task_slope(L: Array, w: Array, b: Array, D: Array) -> Array:
    """The slope of `once_a_task`: ½ − b w L."""
    return objective_slope(L, w, b, np.ones(len(D)))


def no_regulariser(L: Array, w: Array, s: Array, D: Array) -> float:
    """𝓛 = Σ w L: noise costs nothing."""
    return total_objective(L, w, s, np.zeros(len(D)))


def no_regulariser_slope(L: Array, w: Array, b: Array, D: Array) -> Array:
    """The slope of `no_regulariser`: −b w L, which only ever raises s."""
    return objective_slope(L, w, b, np.zeros(len(D)))


def ascending_slope(L: Array, w: Array, b: Array, D: Array) -> Array:
    """−∂𝓛/∂s: the log-variances climb."""
    return -objective_slope(L, w, b, D)


def accumulated_slope(L: Array, w: Array, b: Array, D: Array) -> Array:
    """∂𝓛/∂s_i is added to those of the tasks before: gradients that are not cleared between the tasks."""
    return np.cumsum(objective_slope(L, w, b, D))


def ones(w: Array) -> Array:
    """h_i = 1: the heads descend their own losses, unweighted."""
    return np.ones(len(w))


def next_weights(weights: Array, head_weights: Array, state: State, terms: dict[str, Array]) -> Step:
    """The network descends with the weights of s(t+1): the log-variances are updated first."""
    return Step(weights_of(state), weights_of(state), state, terms)


def start_below_zero(K: int) -> Array:
    """s_i(0) = −½."""
    return np.full(K, -0.5)


DEFECTS = (
    Defect(
        "MissingHalf",
        "UW-2",
        "s for s/2 as the price of the noise",
        {"total_objective": whole_regulariser, "objective_slope": whole_slope},
        "several repositories",
    ),
    Defect(
        "DoubledAndClamped",
        "UW-1",
        "2 e^(−s) L + s with s kept at 0 or above",
        {
            "effective_weights": doubled_weights,
            "total_objective": whole_regulariser,
            "objective_slope": whole_slope,
            "next_log_variances": floor_at_zero,
        },
        "torch-rechub",
    ),
    Defect(
        "SquaredPrecision",
        "UW-1",
        "e^(−2s) for e^(−s): a log-variance used as a log-deviation",
        {"effective_weights": squared_precision, "objective_slope": squared_slope},
        "an issue thread",
    ),
    Defect(
        "OnePlusSquare",
        "UW-2",
        "log(1 + σ²) for log σ as the price of the noise, which is Liebel and Körner's",
        {"total_objective": one_plus_square, "objective_slope": one_plus_square_slope},
        "AutomaticWeightedLoss",
    ),
    Defect(
        "GaussianForAll",
        "UW-1",
        "the gaussian's half for every likelihood",
        {"effective_weights": gaussian_weights},
        "LibMTL, MTAN, nash-mtl",
    ),
    Defect("NoHalf", "UW-1", "e^(−s) without the gaussian's half", {"effective_weights": no_half}),
    Defect(
        "OnceATask",
        "UW-2",
        "the noise counted once a task, not once an output",
        {"total_objective": once_a_task, "objective_slope": once_a_task_slope},
    ),
    Defect(
        "NoRegulariser",
        "UW-2",
        "no price of the noise: every weight falls to zero",
        {"total_objective": no_regulariser, "objective_slope": no_regulariser_slope},
    ),
    Defect(
        "Ascent", "UW-3", "a slope of the wrong sign: the log-variances climb", {"objective_slope": ascending_slope}
    ),
    Defect(
        "Accumulated",
        "UW-3",
        "slopes added up over the tasks: gradients that are not cleared between them",
        {"objective_slope": accumulated_slope},
    ),
    Defect("NonnegativeOnly", "UW-4", "s kept at 0 or above", {"next_log_variances": floor_at_zero}),
    Defect("HeadsUnweighted", "UW-5", "weights of 1 for the heads", {"head_weights": ones}),
    Defect(
        "NextWeightsAtOnce",
        "UW-5",
        "weights of the next log-variances: they are updated before the network, not beside it",
        {"Step": next_weights},
    ),
    Defect(
        "StartBelowZero",
        "UW-6",
        "log-variances that start at −1/2, not at 0",
        {"initial_log_variances": start_below_zero},
        "LibMTL, MTAN",
    ),
)
"""Known wrong variants of Uncertainty Weighting, those met in public code first."""
