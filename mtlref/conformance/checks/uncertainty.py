"""The checks of Uncertainty Weighting. Likelihoods, outputs and optimiser are what an implementation declares."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from mtlref.conformance.check import answering, check, replaying
from mtlref.conformance.laws import other, permuted
from mtlref.conformance.problem import Case
from mtlref.conformance.strategies import Plan
from mtlref.conformance.trial import Trial, Undecided
from mtlref.methods.uncertainty import LIKELIHOODS, UncertaintyWeighting
from mtlref.notation import Array

FARTHEST = 20.0
"""The farthest that a step may take a log-variance: e^s of what comes then is a number in any type."""

PLAN = Plan(
    mandatory="s_next",
    settings=({"lr": 0.05}, {"lr": 0.3}, {"lr": 0.001}, {"lr": 0.02}),
    choices={
        "UW-C1": ({"optimiser": "adam"}, {"optimiser": "momentum"}),
        "UW-1": ({"likelihoods": "gaussian"}, {"likelihoods": "softmax"}, {"likelihoods": "laplace"}),
    },
    gradients=("generic", "conflicting", "zero row"),
    losses=("falling", "far from 1", "rising", "with a zero"),
    decides=lambda problem, eps: vars(problem.method)["lr"] * np.max(problem.losses) <= FARTHEST,
)
"""Rates that move the log-variances much and little."""


# EQUATIONS


@check("w")
def check_uncertainty_weights_are_precisions(trial: Trial) -> None:
    """UW-1: w_i = a_i exp(−b_i s_i), with the factors of the task's likelihood."""
    trial.matches("w")


@check("objective")
def check_uncertainty_objective(trial: Trial) -> None:
    """UW-2: the objective is Σ w_i L_i and half the log-variances, once an output."""
    trial.matches("objective")


@check("ds")
def check_uncertainty_slope(trial: Trial) -> None:
    """UW-3: ∂𝓛/∂s_i = D_i/2 − b_i w_i L_i."""
    trial.matches("ds")


@check("s_next")
def check_uncertainty_next_log_variances(trial: Trial) -> None:
    """UW-4: s(t+1) is s(t) after the optimiser's step, of either sign."""
    trial.matches("s_next")


@check("weights")
def check_uncertainty_weights_in_use_are_those_before_the_update(trial: Trial) -> None:
    """UW-5: the network descends with the weights of s(t)."""
    trial.matches("weights")


@check("head_weights")
def check_uncertainty_heads_descend_the_objective(trial: Trial) -> None:
    """UW-5: head i descends w_i ∇L_i."""
    trial.matches("head_weights")


@check("direction")
def check_uncertainty_direction_is_that_of_the_objective(trial: Trial) -> None:
    """MTL-1: the shared parameters descend Σ w_i ∇L_i."""
    trial.matches("direction")


@check("s_next", on="run")
def check_uncertainty_starts_at_zero(trial: Trial) -> None:
    """UW-6: s(0) = 0, so that the first step of a run starts there."""
    if trial.case.injected or not trial.expected:
        raise Undecided
    trial.equal("s_next", 0, trial.value("s_next"), trial.expected[0]["s_next"], "from s = 0")


@check("s_next", on="run")
def check_uncertainty_follows_its_own_run(trial: Trial) -> None:
    """UW-4: over a run, each step follows from the one before, with the optimiser's memory kept."""
    trial.matches("s_next")


@check("weights", on="run")
def check_uncertainty_weights_follow_the_log_variances(trial: Trial) -> None:
    """UW-1: over a run, the weights in use are those of the log-variances that the step before has left."""
    trial.matches("weights")


# LAWS


@check("s_next")
def check_uncertainty_rests_where_the_likelihood_is_largest(trial: Trial) -> None:
    """UW-3: s_i with w_i L_i = D_i/(2 b_i), the maximum-likelihood noise (gaussian: e^s = L), does not move."""
    case = trial.case
    if not case.injected or len(case.steps) > 1 or np.any(case.steps[0].losses == 0):
        raise Undecided
    method = case.method
    assert isinstance(method, UncertaintyWeighting)
    a, b, D = (each(method, name, case.n_tasks) for name in ("a", "b", "D"))
    s = np.log(2 * a * b * case.steps[0].losses / D) / b
    again = trial.on(other(case, case.steps, method.at(s)))
    again.equal("s_next", 0, again.value("s_next"), s, "s rests at the maximum of the likelihood")


@check("s_next")
def check_uncertainty_permutes_with_the_tasks(trial: Trial) -> None:
    """UW-3: a permutation of the tasks permutes the log-variances, and changes nothing else."""
    method = trial.case.method
    assert isinstance(method, UncertaintyWeighting)
    if isinstance(method.likelihoods, tuple) or isinstance(method.dimensions, tuple):
        raise Undecided
    case, order = permuted(trial.case)
    again = trial.on(case)
    for t in range(len(trial.expected)):
        moved = trial.value("s_next", t)[order]
        trial.equal("s_next", t, again.value("s_next", t), moved, "the tasks are permuted", factor=2)


@check("s_next")
def check_uncertainty_moves_with_the_unit_of_a_loss(trial: Trial) -> None:
    """UW-1: a loss times c, with its s raised by log(c)/b, is the same step: s(t+1) is raised by as much."""
    case = trial.case
    if not case.injected or len(case.steps) > 1:
        raise Undecided
    method = case.method
    assert isinstance(method, UncertaintyWeighting)
    factor = np.exp(np.linspace(-1, 2, case.n_tasks))
    shift = np.log(factor) / each(method, "b", case.n_tasks)
    again = trial.on(raised(case, factor, shift))
    again.equal("s_next", 0, again.value("s_next"), trial.value("s_next") + shift, "losses in other units", factor=4)


def raised(case: Case, factor: Array, shift: Array) -> Case:
    """Return the step with its losses times `factor` and its log-variances raised by `shift`."""
    s = vars(case.state)["log_variances"] + shift
    method = case.method
    assert isinstance(method, UncertaintyWeighting)
    state = replace(method.at(s), optimiser=vars(case.state)["optimiser"])
    return other(case, tuple(replace(problem, losses=problem.losses * factor) for problem in case.steps), state)


def each(method: UncertaintyWeighting, name: str, K: int) -> Array:
    """Return the factor a, the exponent b or the number of outputs D of each of K tasks."""
    given = method.dimensions if name == "D" else method.likelihoods
    every = given if isinstance(given, tuple) else (given,) * K
    if name == "D":
        return np.array([1.0 if D is None else float(D) for D in every])
    return np.array([LIKELIHOODS[str(likelihood)][name == "b"] for likelihood in every])


CHECKS = (
    answering("uncertainty", "UW-4"),
    check_uncertainty_weights_are_precisions,
    check_uncertainty_objective,
    check_uncertainty_slope,
    check_uncertainty_next_log_variances,
    check_uncertainty_weights_in_use_are_those_before_the_update,
    check_uncertainty_heads_descend_the_objective,
    check_uncertainty_direction_is_that_of_the_objective,
    check_uncertainty_starts_at_zero,
    check_uncertainty_follows_its_own_run,
    check_uncertainty_weights_follow_the_log_variances,
    check_uncertainty_rests_where_the_likelihood_is_largest,
    check_uncertainty_permutes_with_the_tasks,
    check_uncertainty_moves_with_the_unit_of_a_loss,
    replaying("uncertainty", "UW-6"),
)
"""In tag order, the laws last."""
