"""The checks of Dynamic Weight Average. A step is an epoch: of its batches' losses the mean counts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from mtlref.conformance.check import answering, check, replaying
from mtlref.conformance.laws import other, permuted
from mtlref.conformance.problem import Case
from mtlref.conformance.strategies import Plan
from mtlref.conformance.trial import Trial, Undecided
from mtlref.notation import Array

PLAN = Plan(
    mandatory="w_next",
    settings=(
        {"temperature": 2.0},
        {"temperature": 0.7},
        {"temperature": 10.0},
        {"temperature": 0.25},
        {"temperature": 1.0},
    ),
    gradients=("generic", "conflicting", "zero row"),
    losses=("falling", "far from 1", "rising", "with a zero"),
)
"""Temperatures on both sides of 1, and 1."""


# EQUATIONS


@check("ratio")
def check_dwa_ratios_are_of_the_last_two_epochs(trial: Trial) -> None:
    """DWA-1: w_k is the epoch's mean loss over that of the epoch before, and 1 in the first."""
    trial.matches("ratio")


@check("w_next")
def check_dwa_next_weights(trial: Trial) -> None:
    """DWA-2: λ(t+1) is K times the softmax of w/T."""
    trial.matches("w_next")


@check("weights")
def check_dwa_weights_in_use_are_those_of_the_epochs_before(trial: Trial) -> None:
    """DWA-3: an epoch descends with the weights that the epochs before it made."""
    trial.matches("weights")


@check("head_weights")
def check_dwa_heads_descend_the_total(trial: Trial) -> None:
    """DWA-3: head k descends λ_k ∇L_k."""
    trial.matches("head_weights")


@check("direction")
def check_dwa_direction_is_that_of_the_total(trial: Trial) -> None:
    """MTL-1: the shared parameters descend Σ λ_k ∇L_k, a sum and not a mean, and nothing through the ratios."""
    trial.matches("direction")


@check("weights", on="run")
def check_dwa_starts_at_one(trial: Trial) -> None:
    """DWA-2: λ(0) = λ(1) = 1: the first epoch has no ratio, so the second has equal weights as well."""
    if trial.case.injected:
        raise Undecided
    for t in range(min(2, len(trial.expected))):
        trial.equal("weights", t, trial.value("weights", t), np.ones(trial.case.n_tasks))


@check("w_next", on="run")
def check_dwa_follows_its_own_run(trial: Trial) -> None:
    """DWA-1: over a run, each epoch's ratio is to the epoch before, of means over unequal batches."""
    trial.matches("w_next")


# LAWS


@check("w_next")
def check_dwa_weights_sum_to_K(trial: Trial) -> None:
    """DWA-2: Σ λ_k(t+1) = K."""
    for t in range(len(trial.expected)):
        trial.equal("w_next", t, np.sum(trial.value("w_next", t)), trial.case.n_tasks, "Σ w_next = K")


@check("w_next")
def check_dwa_permutes_with_the_tasks(trial: Trial) -> None:
    """DWA-2: a permutation of the tasks permutes the weights, and changes nothing else."""
    case, order = permuted(trial.case)
    again = trial.on(case)
    for t in range(len(trial.expected)):
        moved = trial.value("w_next", t)[order]
        trial.equal("w_next", t, again.value("w_next", t), moved, "the tasks are permuted", factor=2)


@check("w_next", on="run")
def check_dwa_ignores_the_unit_of_a_loss(trial: Trial) -> None:
    """DWA-1: a task's losses times a number, in all epochs, change no weight."""
    if trial.case.injected:
        raise Undecided
    again = trial.on(in_units(trial.case, np.exp(np.linspace(-2, 3, trial.case.n_tasks))))
    for t in range(len(trial.expected)):
        trial.equal(
            "w_next", t, again.value("w_next", t), trial.value("w_next", t), "losses in other units", factor=2
        )


@check("w_next")
def check_dwa_ignores_a_common_shift_of_the_ratios(trial: Trial) -> None:
    """DWA-2: every loss raised by the same share of that of the epoch before changes no weight."""
    before = vars(trial.case.state).get("losses_prev")
    if before is None or not trial.case.injected or len(trial.case.steps) > 1:
        raise Undecided
    steps = tuple(
        replace(
            problem,
            losses=problem.losses + before / 2,
            batches=None if problem.batches is None else problem.batches + before / 2,
        )
        for problem in trial.case.steps
    )
    again = trial.on(other(trial.case, steps))
    trial.equal("w_next", 0, again.value("w_next"), trial.value("w_next"), "all ratios rise by 1/2", factor=4)


def in_units(case: Case, factor: Array) -> Case:
    """Return a run with each task's losses times a number of its own."""
    steps = tuple(
        replace(
            problem,
            losses=problem.losses * factor,
            batches=None if problem.batches is None else problem.batches * factor,
        )
        for problem in case.steps
    )
    return other(case, steps)


CHECKS = (
    answering("dwa", "DWA-2"),
    check_dwa_ratios_are_of_the_last_two_epochs,
    check_dwa_next_weights,
    check_dwa_weights_in_use_are_those_of_the_epochs_before,
    check_dwa_heads_descend_the_total,
    check_dwa_direction_is_that_of_the_total,
    check_dwa_starts_at_one,
    check_dwa_follows_its_own_run,
    check_dwa_weights_sum_to_K,
    check_dwa_permutes_with_the_tasks,
    check_dwa_ignores_the_unit_of_a_loss,
    check_dwa_ignores_a_common_shift_of_the_ratios,
    replaying("dwa", "DWA-2"),
)
"""In tag order, the laws last."""
