"""The checks of CoV-Weighting. Lag, decay and what is observed are what an implementation declares."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from mtlref.conformance.check import answering, check, replaying
from mtlref.conformance.laws import other, permuted
from mtlref.conformance.problem import Case
from mtlref.conformance.strategies import Plan
from mtlref.conformance.trial import Trial, Undecided
from mtlref.methods.cov import CoVWeighting
from mtlref.notation import Array

PLAN = Plan(
    mandatory="weights",
    choices={
        "COV-C3": ({"statistics": "previous"}, {"statistics": "current"}),
        "COV-C4": ({"decay": None}, {"decay": 0.9}, {"decay": 0.99}, {"decay": 0.999}),
        "COV-C5": ({"observed": "loss"}, {"observed": "ratio"}),
    },
    gradients=("generic", "conflicting", "zero row"),
    losses=("falling", "far from 1", "rising", "steady", "with a zero"),
)
"""What varies is the losses: much, little, by other units."""


# EQUATIONS


@check("gain")
def check_cov_gain(trial: Trial) -> None:
    """COV-1: a_t = 1/t, or with a decay β, (1 − β)/(1 − β^t)."""
    trial.matches("gain")


@check("ratio")
def check_cov_ratios_are_to_the_mean_before(trial: Trial) -> None:
    """COV-2: ℓ_i is the loss over its mean before this step, and 1 in the first."""
    trial.matches("ratio")


@check("mu_L")
def check_cov_mean_of_the_losses(trial: Trial) -> None:
    """COV-3: μ_L moves towards the loss by its share a_t."""
    trial.matches("mu_L")


@check("mu_ratio")
def check_cov_mean_of_the_ratios(trial: Trial) -> None:
    """COV-4: μ_ℓ moves towards the ratio by its share a_t."""
    trial.matches("mu_ratio")


@check("M")
def check_cov_variance_of_the_ratios(trial: Trial) -> None:
    """COV-5: M takes the product of the deviations from the mean before and after."""
    trial.matches("M")


@check("c")
def check_cov_coefficient_of_variation(trial: Trial) -> None:
    """COV-6: c_i = √M_i / μ_ℓ,i."""
    trial.matches("c")


@check("alpha")
def check_cov_coefficients_over_their_sum(trial: Trial) -> None:
    """COV-7: α_i = c_i / Σ c."""
    trial.matches("alpha")


@check("w")
def check_cov_weights_of_the_declared_statistics(trial: Trial) -> None:
    """COV-8: w is α(t), or α(t−1) where previous statistics are declared."""
    trial.matches("w")


@check("weights")
def check_cov_weights_in_use(trial: Trial) -> None:
    """COV-8: the shared parameters' gradients are weighted with w."""
    trial.matches("weights")


@check("head_weights")
def check_cov_heads_descend_the_total(trial: Trial) -> None:
    """COV-9: head i descends w_i ∇L_i."""
    trial.matches("head_weights")


@check("direction")
def check_cov_direction_is_that_of_the_total(trial: Trial) -> None:
    """MTL-1: the shared parameters descend Σ w_i ∇L_i, and nothing through the statistics."""
    trial.matches("direction")


@check("weights", on="run")
def check_cov_starts_equal(trial: Trial) -> None:
    """COV-10: α(0) = 1/K, and where nothing has varied yet the weights are equal."""
    if trial.case.injected:
        raise Undecided
    K = trial.case.n_tasks
    trial.equal("weights", 0, trial.value("weights"), np.full(K, 1 / K))


@check("weights", on="run")
def check_cov_follows_its_own_run(trial: Trial) -> None:
    """COV-8: over a run, the weights are those of all steps so far, and of no evaluation between them."""
    trial.matches("weights")


# LAWS


@check("weights")
def check_cov_weights_sum_to_one(trial: Trial) -> None:
    """COV-7: Σ w_i = 1."""
    for t in range(len(trial.expected)):
        trial.equal("weights", t, np.sum(trial.value("weights", t)), 1.0, "Σ w = 1")


@check("weights", on="run")
def check_cov_permutes_with_the_tasks(trial: Trial) -> None:
    """COV-7: a permutation of the tasks permutes the weights, and changes nothing else."""
    case, order = permuted(trial.case)
    again = trial.on(case)
    for t in range(len(trial.expected)):
        moved = trial.value("weights", t)[order]
        trial.equal("weights", t, again.value("weights", t), moved, "the tasks are permuted", factor=2)


@check("weights", on="run")
def check_cov_ignores_the_unit_of_a_loss(trial: Trial) -> None:
    """COV-2: a task's losses times a number, from the start, change no weight."""
    if trial.case.injected:
        raise Undecided
    again = trial.on(in_units(trial.case, np.exp(np.linspace(-2, 3, trial.case.n_tasks))))
    for t in range(len(trial.expected)):
        got, before = again.value("weights", t), trial.value("weights", t)
        trial.equal("weights", t, got, before, "losses in other units", factor=2)


@check("weights", on="run")
def check_cov_weights_are_those_of_the_whole_history(trial: Trial) -> None:
    """COV-6: over a run, the weights are the coefficients of variation of the history, taken at once."""
    if trial.case.injected or not trial.expected:
        raise Undecided
    method = trial.case.method
    assert isinstance(method, CoVWeighting)
    history = np.array([problem.losses for problem in trial.case.steps])
    for t in range(1, len(trial.expected)):
        seen = t + (method.statistics == "current")
        if seen > 1:
            trial.equal(
                "weights",
                t,
                trial.value("weights", t),
                of_history(method, history[:seen]),
                "of the history",
                factor=4,
            )


@check("weights", on="run")
def check_cov_ignores_evaluations(trial: Trial) -> None:
    """COV-1: losses of an evaluation between two steps are no step, and change nothing."""
    if all(problem.evaluation is None for problem in trial.case.steps):
        raise Undecided
    steps = tuple(replace(problem, evaluation=None) for problem in trial.case.steps)
    again = trial.on(other(trial.case, steps))
    for t in range(len(trial.expected)):
        got, without = trial.value("weights", t), again.value("weights", t)
        trial.equal("weights", t, got, without, "without the evaluations")


def of_history(method: CoVWeighting, history: Array) -> Array:
    """Return the weights from all losses (T, K) at once: weighted means and variances, no recursion."""
    observed = history
    if method.observed == "ratio":
        means = [average(method, history[:t]) for t in range(1, len(history))]
        observed = np.vstack([np.ones(history.shape[1]), history[1:] / np.array(means)])
    mean = average(method, observed)
    c = np.sqrt(average(method, (observed - mean) ** 2)) / mean
    total = float(np.sum(c))
    if total == 0:
        raise Undecided
    return np.asarray(c / total)


def average(method: CoVWeighting, values: Array) -> Array:
    """Return the mean over the steps (T, K), in which a step counts β times as much as the one after it."""
    share = (1.0 if method.decay is None else method.decay) ** np.arange(len(values))[::-1]
    return np.asarray(share @ values / np.sum(share))


def in_units(case: Case, factor: Array) -> Case:
    """Return a run with each task's losses times a number of its own."""
    evaluations = [None if p.evaluation is None else p.evaluation * factor for p in case.steps]
    steps = tuple(
        replace(problem, losses=problem.losses * factor, evaluation=evaluation)
        for problem, evaluation in zip(case.steps, evaluations, strict=True)
    )
    return other(case, steps)


CHECKS = (
    answering("cov", "COV-8"),
    check_cov_gain,
    check_cov_ratios_are_to_the_mean_before,
    check_cov_mean_of_the_losses,
    check_cov_mean_of_the_ratios,
    check_cov_variance_of_the_ratios,
    check_cov_coefficient_of_variation,
    check_cov_coefficients_over_their_sum,
    check_cov_weights_of_the_declared_statistics,
    check_cov_weights_in_use,
    check_cov_heads_descend_the_total,
    check_cov_direction_is_that_of_the_total,
    check_cov_starts_equal,
    check_cov_follows_its_own_run,
    check_cov_weights_sum_to_one,
    check_cov_permutes_with_the_tasks,
    check_cov_ignores_the_unit_of_a_loss,
    check_cov_weights_are_those_of_the_whole_history,
    check_cov_ignores_evaluations,
    replaying("cov", "COV-10"),
)
"""In tag order, the laws last."""
