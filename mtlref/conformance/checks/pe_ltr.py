"""The checks of PE-LTR. Affinely dependent gradients are left out: there the source does not say (PELTR-C3).

An implementation that declares to follow the specification's rule, `silent="ruled"`, is put to them as well.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mtlref.conformance.allowance import ROUNDINGS
from mtlref.conformance.check import answering, check, replaying
from mtlref.conformance.laws import permuted, rotated, scaled
from mtlref.conformance.problem import Problem
from mtlref.conformance.strategies import Plan
from mtlref.conformance.trial import Trial, Undecided
from mtlref.notation import Array

CONDITION = 1e5
"""The largest condition of the relaxed system that is asked for; a shorter type's eps may allow less."""


def equal_shares(total: float) -> Callable[[int], tuple[float, ...]]:
    """Return, by K, equal bounds of that sum."""
    return lambda K: (total / K,) * K


def rising_shares(total: float) -> Callable[[int], tuple[float, ...]]:
    """Return, by K, bounds of that sum that rise from 0."""
    return lambda K: tuple(total * i / max(1, K * (K - 1) / 2) for i in range(K))


def regular(problem: Problem, eps: float) -> bool:
    """Return whether the relaxed system, its gradients brought to a common size, is regular for a type
    of that eps."""
    return conditioned(problem.jacobian, eps, len(problem.jacobian) + 1)


def dependent(problem: Problem, eps: float) -> bool:
    """Return whether there are so many tasks that their gradients are affinely dependent, however they are rounded,
    and no nearer to a further dependence than a regular system may be. The solver is the published one."""
    K, D = problem.jacobian.shape
    published = vars(problem.method)["solver"] == "published"
    return published and K > D + 1 and conditioned(problem.jacobian, eps, D + 2)


def conditioned(J: Array, eps: float, rank: int) -> bool:
    """Return whether the first `rank` singular values of the relaxed system are within its largest condition."""
    K, size = len(J), float(np.max(np.linalg.norm(J, axis=1)))
    if size == 0:
        return False
    A = (J / size) @ (J / size).T
    M = np.block([[A, np.ones((K, 1))], [np.ones((1, K)), np.zeros((1, 1))]])
    values = np.linalg.svd(M, compute_uv=False)
    return bool(values[rank - 1] * min(CONDITION, 0.1 / (ROUNDINGS * eps)) >= values[0])


PLAN = Plan(
    mandatory="w_next",
    settings=(
        {"bounds": None},
        {"bounds": equal_shares(0.5)},
        {"bounds": rising_shares(0.6)},
        {"bounds": rising_shares(0.1)},
    ),
    choices={
        "PELTR-C1": ({"timing": "same"},),
        "PELTR-C2": ({"solver": "exact"},),
    },
    dimensions=(5, 7, 3, 2, 9, 4),
    gradients=("generic", "conflicting", "orthogonal", "agreeing", "nearly parallel", "small", "planar"),
    losses=("falling", "rising"),
    matrixwise=True,
    decides=regular,
    rules=dependent,
)
"""No bounds, equal and unequal ones."""


# EQUATIONS


@check("gram")
def check_pe_ltr_gram_holds_inner_products(trial: Trial) -> None:
    """PELTR-1: A_ij = g_i · g_j."""
    trial.matches("gram")


@check("w_hat")
def check_pe_ltr_relaxed_weights(trial: Trial) -> None:
    """PELTR-2: ŵ solves the relaxed system, bounds in its right-hand side and in its sum."""
    trial.matches("w_hat")


@check("multiplier")
def check_pe_ltr_multiplier(trial: Trial) -> None:
    """PELTR-3: λ = −‖Jᵀ(ŵ + c)‖²."""
    trial.matches("multiplier")


@check("w_tilde")
def check_pe_ltr_projection(trial: Trial) -> None:
    """PELTR-4: w̃ is the point of the simplex of sum 1 − Σ c that is nearest to ŵ."""
    trial.matches("w_tilde")


@check("objective")
def check_pe_ltr_objective_is_a_square(trial: Trial) -> None:
    """PELTR-5: f = ‖Jᵀ(w̃ + c)‖²."""
    trial.matches("objective")


@check("kkt_residual")
def check_pe_ltr_residual(trial: Trial) -> None:
    """PELTR-6: ρ is how far the farthest gradient lies below the optimal plane."""
    trial.matches("kkt_residual")


@check("w_next")
def check_pe_ltr_next_weights(trial: Trial) -> None:
    """PELTR-7: w(t+1) = w̃ + c."""
    trial.matches("w_next")


@check("weights")
def check_pe_ltr_weights_in_use(trial: Trial) -> None:
    """PELTR-7: a step uses the weights that the step before made, or its own where that is declared."""
    trial.matches("weights")


@check("head_weights")
def check_pe_ltr_heads_descend_the_weighted_losses(trial: Trial) -> None:
    """PELTR-8: head i descends w_i ∇L_i."""
    trial.matches("head_weights")


@check("direction")
def check_pe_ltr_direction(trial: Trial) -> None:
    """MTL-1: the shared parameters descend Σ w_i ∇L_i, with the weights in use."""
    trial.matches("direction")


@check("weights", on="run")
def check_pe_ltr_starts_at_equal_weights(trial: Trial) -> None:
    """PELTR-9: w(0) = 1/K."""
    if trial.case.injected or not trial.case.method.lagged:
        raise Undecided
    K = trial.case.n_tasks
    trial.equal("weights", 0, trial.value("weights", 0), np.full(K, 1 / K))


@check("w_next", on="run")
def check_pe_ltr_follows_its_own_run(trial: Trial) -> None:
    """PELTR-7: over a run, each step's weights are made from its own gradients."""
    trial.matches("w_next")


@check("w_next")
def check_pe_ltr_dependent_gradients_have_relaxed_weights_of_least_norm(trial: Trial) -> None:
    """PELTR-C3: of all relaxed weights those of least norm are projected, for one that follows the rule."""
    if not all(dependent(problem, trial.answers.impl.eps) for problem in trial.case.steps):
        raise Undecided
    trial.matches("w_next")


# LAWS


@check("w_next")
def check_pe_ltr_weights_sum_to_one_above_their_bounds(trial: Trial) -> None:
    """PELTR-7: Σ w_i(t+1) = 1 and w_i(t+1) ≥ c_i."""
    for t in range(len(trial.expected)):
        w = trial.value("w_next", t)
        trial.equal("w_next", t, np.sum(w), 1.0, "Σ w_next = 1")
        trial.equal("w_next", t, w, np.maximum(w, bounds(trial)), "w_next ≥ c")


@check("w_hat")
def check_pe_ltr_relaxed_slopes_are_equal(trial: Trial) -> None:
    """PELTR-2: Σ ŵ = 1 − Σ c, and g_i·Jᵀ(ŵ + c) is the same for every task."""
    c = bounds(trial)
    for t, problem in enumerate(trial.case.steps[: len(trial.expected)]):
        w_hat, J = trial.value("w_hat", t), problem.jacobian
        J = J / np.max(np.linalg.norm(J, axis=1))
        slopes = J @ (J.T @ (w_hat + c))
        scale = float(np.max(np.abs(w_hat + c)))
        trial.equal("w_hat", t, slopes + scale, np.full(len(c), np.mean(slopes) + scale), "equal slopes")
        trial.equal("w_hat", t, np.sum(w_hat), 1 - np.sum(c), "Σ ŵ = 1 − Σ c")


@check("w_next")
def check_pe_ltr_two_tasks_meet_at_the_foot_of_the_perpendicular(trial: Trial) -> None:
    """PELTR-4: for two tasks without bounds w_1 is (g_2 − g_1)·g_2 / ‖g_1 − g_2‖², brought into [0, 1]."""
    if trial.case.n_tasks != 2 or np.any(bounds(trial) > 0):
        raise Undecided
    for t, problem in enumerate(trial.case.steps[: len(trial.expected)]):
        g_1, g_2 = problem.jacobian
        apart = g_2 - g_1
        w_1 = min(max(float(apart @ g_2) / float(apart @ apart), 0.0), 1.0)
        trial.equal("w_next", t, trial.value("w_next", t), [w_1, 1 - w_1], "closed form for K = 2")


@check("w_next")
def check_pe_ltr_orthogonal_gradients_share_by_inverse_squares(trial: Trial) -> None:
    """PELTR-2: orthogonal gradients without bounds have w_i ∝ 1/‖g_i‖²."""
    for t, problem in enumerate(trial.case.steps[: len(trial.expected)]):
        J = problem.jacobian
        A = J @ J.T
        if np.any(bounds(trial) > 0) or np.any(np.diag(np.diag(A)) != A) or not np.all(np.diag(A) > 0):
            raise Undecided
        inverse = 1 / np.diag(A)
        trial.equal("w_next", t, trial.value("w_next", t), inverse / np.sum(inverse), "orthogonal gradients")


@check("w_next")
def check_pe_ltr_ignores_the_gradients_common_scale(trial: Trial) -> None:
    """PELTR-2: all gradients times a number change no weight: nothing is added to the inner products."""
    for factor in (2.0**-11, 2.0**9):
        unchanged(trial, trial.on(scaled(trial.case, factor)), f"gradients times {factor:g}")


@check("w_next")
def check_pe_ltr_sees_inner_products_alone(trial: Trial) -> None:
    """PELTR-1: a rotation of gradient space changes no weight."""
    unchanged(trial, trial.on(rotated(trial.case)), "gradient space is rotated")


@check("w_next")
def check_pe_ltr_permutes_with_the_tasks(trial: Trial) -> None:
    """PELTR-7: a permutation of the tasks permutes the weights, where their bounds are alike."""
    if np.ptp(bounds(trial)) > 0:
        raise Undecided
    other, order = permuted(trial.case)
    again = trial.on(other)
    for t in range(len(trial.expected)):
        moved = trial.value("w_next", t)[order]
        trial.equal("w_next", t, again.value("w_next", t), moved, "the tasks are permuted", factor=2)


def unchanged(trial: Trial, again: Trial, law: str) -> None:
    """Compare the next weights of two trials."""
    for t in range(len(trial.expected)):
        trial.equal("w_next", t, again.value("w_next", t), trial.value("w_next", t), law, factor=2)


def bounds(trial: Trial) -> Array:
    """Return c (K,)."""
    given = vars(trial.case.method)["bounds"]
    return np.zeros(trial.case.n_tasks) if given is None else np.array(given)


CHECKS = (
    answering("pe_ltr", "PELTR-7"),
    replaying("pe_ltr", "PELTR-9"),
    check_pe_ltr_gram_holds_inner_products,
    check_pe_ltr_relaxed_weights,
    check_pe_ltr_multiplier,
    check_pe_ltr_projection,
    check_pe_ltr_objective_is_a_square,
    check_pe_ltr_residual,
    check_pe_ltr_next_weights,
    check_pe_ltr_weights_in_use,
    check_pe_ltr_heads_descend_the_weighted_losses,
    check_pe_ltr_direction,
    check_pe_ltr_starts_at_equal_weights,
    check_pe_ltr_follows_its_own_run,
    check_pe_ltr_dependent_gradients_have_relaxed_weights_of_least_norm,
    check_pe_ltr_weights_sum_to_one_above_their_bounds,
    check_pe_ltr_relaxed_slopes_are_equal,
    check_pe_ltr_two_tasks_meet_at_the_foot_of_the_perpendicular,
    check_pe_ltr_orthogonal_gradients_share_by_inverse_squares,
    check_pe_ltr_ignores_the_gradients_common_scale,
    check_pe_ltr_sees_inner_products_alone,
    check_pe_ltr_permutes_with_the_tasks,
)
"""In tag order, the laws last."""
