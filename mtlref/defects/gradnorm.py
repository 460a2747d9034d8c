"""Wrong variants of GradNorm. Each function takes what the equation's own function takes.

What needs a memory of its own, or the network's second derivatives, is no replaced equation, and is not listed: an
L(0) that is the mean of a whole epoch, a gradient of L_grad that reaches the network. The tests of the conformance
checks have them as implementations that must fail.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from mtlref.contract import Step
from mtlref.defects.defect import Defect
from mtlref.methods.gradnorm import relative_rate
from mtlref.notation import Array, require
from mtlref.optimisers import Optimiser, same_shape
from mtlref.state import State


def squared_norms(w: Array, n: Array) -> Array:
    """G_i = (w_i n_i)²: the square root is forgotten."""
    return (w * n) ** 2


def raw_norms(w: Array, n: Array) -> Array:
    """G_i = n_i: the norm of the unweighted loss's gradient."""
    return n


def sums_of_entries(J: Array) -> Array:
    """n_i = Σ_d |J_id|: the absolute entries added up, without squares and root."""
    return np.asarray(np.sum(np.abs(J), axis=1))


def sum_of_norms(G: Array) -> float:
    """Ḡ = Σ G_i: the sum over the tasks for their mean."""
    return float(np.sum(G))


def rate_without_mean(L: Array, L_0: Array) -> Array:
    """r_i = L_i / L_i(0): not set against the mean over the tasks."""
    return L / L_0


def rate_summing_to_one(L: Array, L_0: Array) -> Array:
    """r_i = L̃_i / Σ_j L̃_j: the sum over the tasks for their mean."""
    return relative_rate(L, L_0) / len(L)


def rate_of_losses(L: Array, L_0: Array) -> Array:
    """r_i = L_i / mean_j L_j: the losses themselves, not their progress since the start."""
    return np.asarray(L / np.mean(L))


def rate_against_first(L: Array, L_0: Array) -> Array:
    """r_i = L̃_i / L̃_1: the first task for the mean over the tasks."""
    L_tilde = L / L_0
    return np.asarray(L_tilde / L_tilde[0])


def inverted_target(G_bar: float, r: Array, alpha: float) -> Array:
    """target_i = Ḡ r_i^(−α): tasks that lag are slowed further."""
    with np.errstate(divide="ignore"):
        return np.asarray(G_bar * r ** (-alpha))


def linear_target(G_bar: float, r: Array, alpha: float) -> Array:
    """target_i = α Ḡ r_i: the exponent used as a factor."""
    return alpha * G_bar * r


def attached_slope(G: Array, target: Array, w: Array, n: Array) -> Array:
    """∂L_grad/∂w_i with Ḡ differentiated too: (s_i − (1/K) Σ_j s_j r_j^α) sign(w_i) n_i, s = sign(G − target)."""
    s = np.sign(G - target)
    G_bar = float(np.mean(G))
    pull = 0.0 if G_bar == 0 else float(np.mean(s * target)) / G_bar
    return (s - pull) * np.sign(w) * n


def mean_loss(G: Array, target: Array) -> float:
    """L_grad = (1/K) Σ |G_i − target_i|."""
    return float(np.mean(np.abs(G - target)))


def mean_slope(G: Array, target: Array, w: Array, n: Array) -> Array:
    """The slope of `mean_loss`: a K-th of GN-6."""
    return np.sign(G - target) * np.sign(w) * n / len(G)


def squared_loss(G: Array, target: Array) -> float:
    """L_grad = Σ (G_i − target_i)²."""
    return float(np.sum((G - target) ** 2))


def squared_slope(G: Array, target: Array, w: Array, n: Array) -> Array:
    """The slope of `squared_loss`: 2 (G_i − target_i) sign(w_i) n_i."""
    return 2 * (G - target) * np.sign(w) * n


def sign_only_slope(G: Array, target: Array, w: Array, n: Array) -> Array:
    """∂L_grad/∂w_i = sign(G_i − target_i): the factor n_i is missing."""
    return np.sign(G - target) * np.sign(w)


def ascending_slope(G: Array, target: Array, w: Array, n: Array) -> Array:
    """−∂L_grad/∂w_i: the weights climb L_grad."""
    return np.sign(target - G) * np.sign(w) * n


def unchanged(u: Array) -> Array:
    """w(t+1) = u: no renormalisation."""
    return u


def sum_to_one(u: Array) -> Array:
    """w_i(t+1) = u_i / Σ u: the weights sum to 1."""
    return np.asarray(u / np.sum(u))


def absolute_sum(u: Array) -> Array:
    """w_i(t+1) = K u_i / Σ |u_j|: another sum once a weight is negative."""
    return np.asarray(len(u) * u / np.sum(np.abs(u)))


def softmax_sum(u: Array) -> Array:
    """w(t+1) = K softmax(u): the weights passed through a softmax for a division by their sum."""
    exponential = np.exp(u - np.max(u))
    return np.asarray(len(u) * exponential / np.sum(exponential))


@dataclass(frozen=True)
class LogitsRule(Optimiser):
    """w = K softmax(v): `rule` moves the logits v = log w along w_i (s_i − mean_j w_j s_j), s the slope in w.

    A constant added to all logits changes neither weights nor steps, so v is not remembered. Errors: DomainError.
    """

    rule: Optimiser

    def init(self, shape_like: ArrayLike) -> State:
        return self.rule.init(shape_like)

    def step(self, state: State, w: ArrayLike, g: ArrayLike) -> tuple[Array, State]:
        w, g = same_shape(w=w, g=g)
        require(w > 0, "weights", w, "GN-7", "as a softmax has no")
        v, moved = self.rule.step(state, np.log(w), w * (g - np.mean(w * g)))
        return softmax_sum(v), moved


def last_takes_the_rest(u: Array) -> Array:
    """w_i(t+1) = u_i, and K − Σ u for the last task, which has no weight of its own."""
    last = np.arange(len(u)) == len(u) - 1
    return np.where(last, len(u) - np.sum(u[:-1]), u)


def ones(w: Array) -> Array:
    """h_i = 1: the heads descend their own losses, unweighted."""
    return np.ones(len(w))


def next_weights(weights: Array, head_weights: Array, state: State, terms: dict[str, Array]) -> Step:
    """The label loss with w(t+1): the weights are updated first."""
    w_next = terms["w_next"]
    return Step(w_next, w_next, state, terms)


def shares(K: int) -> Array:
    """w_i(0) = 1/K."""
    return np.full(K, 1 / K)


DEFECTS = (
    Defect(
        "InvertedRate",
        "GN-4",
        "Ḡ·r^(−α) as the target of the norms: a task that lags is slowed, not sped up",
        {"target_norms": inverted_target},
        "gradnorm-pytorch 0.2.3",
    ),
    Defect(
        "MeanForSum",
        "GN-5",
        "the mean of |G − target| over the tasks for their sum: the weights move at a K-th of the rate",
        {"gradient_loss": mean_loss, "gradient_loss_slope": mean_slope},
        "gradnorm-pytorch 0.2.3",
    ),
    Defect(
        "TargetNotDetached",
        "GN-6",
        "the gradient of |G − target| through the target too, which Algorithm 1 holds constant",
        {"gradient_loss_slope": attached_slope},
    ),
    Defect(
        "NoRenormalisation", "GN-7", "weights that are not brought back to a sum of K", {"renormalise": unchanged}
    ),
    Defect("SumToOne", "GN-7", "weights that sum to 1, not to K", {"renormalise": sum_to_one}),
    Defect(
        "AbsoluteSum",
        "GN-7",
        "weights whose absolute values, not themselves, sum to K",
        {"renormalise": absolute_sum},
    ),
    Defect(
        "SoftmaxSum", "GN-7", "a softmax of the weights for a division by their sum", {"renormalise": softmax_sum}
    ),
    Defect(
        "LogitsMoved",
        "GN-7",
        "K softmax(v), of logits v that the optimiser moves, for weights that it moves and a division by their sum",
        {"rule": LogitsRule},
        "LibMTL 1.1.5",
    ),
    Defect(
        "RawNorms", "GN-1", "the norms of the unweighted gradients, n_i for |w_i| n_i", {"gradient_norms": raw_norms}
    ),
    Defect("SquaredNorms", "GN-1", "squared norms, (w_i n_i)² for |w_i| n_i", {"gradient_norms": squared_norms}),
    Defect(
        "SumOfEntries",
        "GN-1",
        "the sum of a gradient's absolute entries for its norm",
        {"norms": sums_of_entries},
    ),
    Defect("SumOfNorms", "GN-2", "the sum of the norms for their mean", {"mean_norm": sum_of_norms}),
    Defect(
        "RateWithoutMean", "GN-3", "L_i/L_i(0) without the mean over the tasks", {"relative_rate": rate_without_mean}
    ),
    Defect("RateSumsToOne", "GN-3", "relative rates that sum to 1, not to K", {"relative_rate": rate_summing_to_one}),
    Defect(
        "NoBaseline", "GN-3", "the losses themselves for their progress since L(0)", {"relative_rate": rate_of_losses}
    ),
    Defect(
        "RateAgainstFirst",
        "GN-3",
        "rates relative to the first task's, not to the mean",
        {"relative_rate": rate_against_first},
    ),
    Defect("FactorForExponent", "GN-4", "α as a factor of r for its exponent", {"target_norms": linear_target}),
    Defect(
        "SquaredDistance",
        "GN-5",
        "squared distances from the targets for absolute ones",
        {"gradient_loss": squared_loss, "gradient_loss_slope": squared_slope},
    ),
    Defect("SignOnly", "GN-6", "a slope without its factor n_i", {"gradient_loss_slope": sign_only_slope}),
    Defect(
        "Ascent", "GN-6", "a slope of the wrong sign: the weights climb", {"gradient_loss_slope": ascending_slope}
    ),
    Defect(
        "LastTakesTheRest",
        "GN-7",
        "a last weight that takes what the others leave of K, for a common factor",
        {"renormalise": last_takes_the_rest},
    ),
    Defect("HeadsUnweighted", "GN-8", "weights of 1 for the heads", {"head_weights": ones}, "LibMTL 1.1.5"),
    Defect(
        "NextWeightsAtOnce",
        "GN-8",
        "a label loss with the weights of the next step: they are updated before the network, not after",
        {"Step": next_weights},
    ),
    Defect("StartAtShares", "GN-9", "weights that start at 1/K, not at 1", {"initial_weights": shares}),
)
"""Known wrong variants of GradNorm, those met in public code first."""
