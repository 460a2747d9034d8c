"""Wrong variants of PE-LTR. Each function takes what the equation's own function takes."""

from __future__ import annotations

import numpy as np

from mtlref.contract import Step, from_gram
from mtlref.defects.defect import Defect
from mtlref.methods.pe_ltr import gram, relaxed_weights
from mtlref.notation import Array, norms
from mtlref.qp import minimum_norm
from mtlref.state import State


def elementwise_gram(jacobian: Array) -> Array:
    """A_ij = J_ij J_ji: `*` on arrays for a matrix product, over as many coordinates as there are tasks."""
    K, D = jacobian.shape
    square = np.zeros((K, K))
    square[:, : min(K, D)] = jacobian[:, :K]
    return np.asarray(square * square.T)


def cosines(jacobian: Array) -> Array:
    """A_ij = cos(g_i, g_j): the gradients are brought to length 1 first."""
    lengths = norms(jacobian)
    return gram(jacobian / np.where(lengths > 0, lengths, 1.0)[:, None])


def diagonal_gram(jacobian: Array) -> Array:
    """A_ij = 0 for i ≠ j: the norms are all that is read."""
    return np.diag(norms(jacobian) ** 2)


def centred_gram(jacobian: Array) -> Array:
    """A_ij = (g_i − mean g_i)·(g_j − mean g_j): covariances, whose factor 1/D or 1/(D − 1) changes no weight."""
    centred = jacobian - np.mean(jacobian, axis=1, keepdims=True)
    return gram(centred)


def squared_condition(A: Array, c: Array, slack: float) -> Array:
    """ŵ = (MᵀM)⁻¹ Mᵀ z as it is printed: right, with half of the digits, for M has its condition squared."""
    K = len(A)
    M = np.block([[A, np.ones((K, 1))], [np.ones((1, K)), np.zeros((1, 1))]])
    z = np.append(-A @ c, slack)
    solution: Array = np.linalg.lstsq(M.T @ M, M.T @ z, rcond=None)[0]
    return solution[:K]


def unshifted_system(A: Array, c: Array, slack: float) -> Array:
    """z = [0; s]: the term −A c of the bounds is missing."""
    return relaxed_weights(A, np.zeros(len(A)), slack)


def bounds_sign(A: Array, c: Array, slack: float) -> Array:
    """z = [+A c; s]: the bounds enter with the wrong sign."""
    return relaxed_weights(A, -c, slack)


def unit_sum(A: Array, c: Array, slack: float) -> Array:
    """Σ ŵ = 1: the bounds are not taken from the sum."""
    return relaxed_weights(A, c, 1.0)


def quadratic_program(A: Array, c: Array, slack: float) -> Array:
    """ŵ = the optimum with ŵ ≥ 0: the inequality is kept, and there is nothing left to project."""
    w = minimum_norm(from_gram((A + A.T) / 2), c).weights
    return np.asarray(w - c)


def positive_multiplier(A: Array, w_hat: Array, c: Array) -> float:
    """λ = (ŵ + c)ᵀ A (ŵ + c): of the wrong sign."""
    w = w_hat + c
    return float(w @ A @ w)


def literal_projection(w_hat: Array, slack: float) -> Array:
    """Σ w̃ = 1 in the projection: the weights then sum to 1 + Σ c."""
    return _nearest(w_hat, 1.0)


def clip_and_divide(w_hat: Array, slack: float) -> Array:
    """w̃ = s max(ŵ, 0) / Σ max(ŵ, 0): a division for the projection."""
    positive = np.maximum(w_hat, 0.0)
    total = float(np.sum(positive))
    return slack * (positive / total) if total > 0 else np.full(len(w_hat), slack / len(w_hat))


def clip_only(w_hat: Array, slack: float) -> Array:
    """w̃ = max(ŵ, 0): the sum is not restored."""
    return np.maximum(w_hat, 0.0)


def one_shift(w_hat: Array, slack: float) -> Array:
    """w̃ = max(ŵ + t, 0) on the tasks with ŵ > 0, t such that their shifted weights sum to s: of the active-set
    rounds, the first alone."""
    inside = w_hat > 0
    if not inside.any():
        return np.full(len(w_hat), slack / len(w_hat))
    shift = (slack - float(np.sum(w_hat[inside]))) / int(np.count_nonzero(inside))
    return np.where(inside, np.maximum(w_hat + shift, 0.0), 0.0)


def softmax_projection(w_hat: Array, slack: float) -> Array:
    """w̃ = s softmax(ŵ)."""
    exponential = np.exp(w_hat - np.max(w_hat))
    return np.asarray(slack * exponential / np.sum(exponential))


def no_projection(w_hat: Array, slack: float) -> Array:
    """w̃ = ŵ: negative weights stay."""
    return w_hat


def length(jacobian: Array, w_tilde: Array, c: Array) -> float:
    """f = ‖d‖: the square is missing."""
    return float(np.linalg.norm((w_tilde + c) @ jacobian))


def unshifted_residual(jacobian: Array, w_tilde: Array, c: Array, slack: float) -> float:
    """ρ = max_i (d·d − d·g_i)₊: as if there were no bounds."""
    d = (w_tilde + c) @ jacobian
    return max(0.0, float(d @ d - np.min(jacobian @ d)))


def bounds_forgotten(w_tilde: Array, c: Array) -> Array:
    """w(t+1) = w̃: the bounds are not added back."""
    return w_tilde


def bounds_as_floor(w_tilde: Array, c: Array) -> Array:
    """w(t+1) = max(w̃, c)."""
    return np.maximum(w_tilde, c)


def next_weights(weights: Array, head_weights: Array, state: State, terms: dict[str, Array]) -> Step:
    """w(t+1) in use at step t."""
    return Step(terms["w_next"], terms["w_next"], state, terms)


def ones(w: Array) -> Array:
    """h_i = 1: the heads descend their unweighted losses."""
    return np.ones(len(w))


def start_at_one(K: int) -> Array:
    """w_i(0) = 1."""
    return np.ones(K)


def _nearest(v: Array, total: float) -> Array:
    """Return the point of {x ≥ 0, Σ x = total} nearest to v."""
    falling = np.sort(v)[::-1]
    theta = (np.cumsum(falling) - total) / np.arange(1, len(v) + 1)
    return np.asarray(np.maximum(v - theta[np.flatnonzero(falling >= theta)[-1]], 0.0))


DEFECTS = (
    Defect(
        "ElementwiseGram",
        "PELTR-1",
        "element-wise products of the gradients for their inner products",
        {"gram": elementwise_gram},
        "jackielinxiao/PE-LTR before 33b96f5",
    ),
    Defect(
        "SquaredCondition",
        "PELTR-2",
        "the relaxed system solved through MᵀM: half of the digits",
        {"relaxed_weights": squared_condition},
        "weberrr/PE-LTR, alibaba/TorchEasyRec",
    ),
    Defect(
        "LiteralProjection",
        "PELTR-4",
        "a projection onto a sum of 1, as printed: with bounds the weights sum to 1 + Σ c",
        {"projected_weights": literal_projection},
    ),
    Defect(
        "ExactQP",
        "PELTR-2",
        "the optimum of the quadratic program for the published two steps",
        {"relaxed_weights": quadratic_program},
    ),
    Defect(
        "ClipAndDivide", "PELTR-4", "a division by the sum for the projection", {"projected_weights": clip_and_divide}
    ),
    Defect(
        "ClipOnly", "PELTR-4", "negative weights set to 0, the sum not restored", {"projected_weights": clip_only}
    ),
    Defect(
        "OneShift",
        "PELTR-4",
        "negative weights set to 0 and the others shifted once, whatever becomes negative then",
        {"projected_weights": one_shift},
    ),
    Defect("SoftmaxProjection", "PELTR-4", "a softmax for the projection", {"projected_weights": softmax_projection}),
    Defect(
        "NoProjection", "PELTR-4", "the relaxed weights, negative ones included", {"projected_weights": no_projection}
    ),
    Defect("UnitGradients", "PELTR-1", "gradients of length 1 for the gradients", {"gram": cosines}),
    Defect(
        "CentredGram", "PELTR-1", "covariances of the gradients' entries for inner products", {"gram": centred_gram}
    ),
    Defect("DiagonalGram", "PELTR-1", "the norms alone, as if gradients were orthogonal", {"gram": diagonal_gram}),
    Defect("UnshiftedSystem", "PELTR-2", "a relaxed system without −A c", {"relaxed_weights": unshifted_system}),
    Defect("BoundsSign", "PELTR-2", "a relaxed system with +A c for −A c", {"relaxed_weights": bounds_sign}),
    Defect("UnitSum", "PELTR-2", "relaxed weights that sum to 1, not to 1 − Σ c", {"relaxed_weights": unit_sum}),
    Defect("PositiveMultiplier", "PELTR-3", "λ of the wrong sign", {"relaxed_multiplier": positive_multiplier}),
    Defect("LengthForSquare", "PELTR-5", "the length of the sum for its square", {"squared_length": length}),
    Defect(
        "UnshiftedResidual", "PELTR-6", "a residual without the bounds", {"optimality_residual": unshifted_residual}
    ),
    Defect(
        "BoundsForgotten",
        "PELTR-7",
        "weights to which the bounds are not added",
        {"bounded_weights": bounds_forgotten},
    ),
    Defect(
        "BoundsAsFloor",
        "PELTR-7",
        "the larger of weight and bound for their sum",
        {"bounded_weights": bounds_as_floor},
    ),
    Defect(
        "NextWeightsAtOnce",
        "PELTR-8",
        "a step with the weights that it makes itself, for those of the step before",
        {"Step": next_weights},
        "alibaba/TorchEasyRec",
    ),
    Defect("HeadsUnweighted", "PELTR-8", "weights of 1 for the heads", {"head_weights": ones}),
    Defect("StartAtOne", "PELTR-9", "weights that start at 1, not at 1/K", {"initial_weights": start_at_one}),
)
"""Known wrong variants of PE-LTR, those met in public code first."""
