"""The checks of GradNorm. Where a gradient norm meets its target the slope jumps; there either side is accepted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from mtlref.conformance.check import answering, check, replaying
from mtlref.conformance.laws import permuted, rotated
from mtlref.conformance.strategies import Plan
from mtlref.conformance.trial import Trial, Undecided
from mtlref.vectors.replay import state_of

PLAN = Plan(
    mandatory="w_next",
    settings=(
        {"alpha": 1.5, "lr": 0.025},
        {"alpha": 0.12, "lr": 0.1},
        {"alpha": 1.0, "lr": 0.025},
        {"alpha": 0.5, "lr": 0.01},
        {"alpha": 0.0, "lr": 0.025},
        {"alpha": 2.0, "lr": 0.3},
    ),
    choices={
        "GN-C1": ({"optimiser": "adam"}, {"optimiser": "momentum"}),
        "GN-C3": ({"negative": "clamp"},),
    },
    gradients=("generic", "conflicting", "orthogonal", "zero row", "duplicated"),
    losses=("falling", "far from 1", "rising", "with a zero"),
)
"""Exponents on both sides of 1, rates that move the weights much and little."""


# EQUATIONS


@check("G")
def check_gradnorm_norms_are_of_the_weighted_losses(trial: Trial) -> None:
    """GN-1: G_i = |w_i| n_i."""
    trial.matches("G")


@check("G_bar")
def check_gradnorm_mean_norm(trial: Trial) -> None:
    """GN-2: Ḡ is the mean of the norms over the tasks."""
    trial.matches("G_bar")


@check("r")
def check_gradnorm_rates_are_relative_to_the_start(trial: Trial) -> None:
    """GN-3: r_i = L̃_i / mean L̃, L̃ = L / L(0)."""
    trial.matches("r")


@check("target")
def check_gradnorm_targets(trial: Trial) -> None:
    """GN-4: target_i = Ḡ r_i^α, so that a task that lags has the larger target."""
    trial.matches("target")


@check("L_grad")
def check_gradnorm_loss_sums_absolute_differences(trial: Trial) -> None:
    """GN-5: L_grad = Σ |G_i − target_i|."""
    trial.matches("L_grad")


@check("dw")
def check_gradnorm_slope_holds_the_target_constant(trial: Trial) -> None:
    """GN-6: ∂L_grad/∂w_i = sign(G_i − target_i) sign(w_i) n_i."""
    trial.matches("dw")


@check("w_next")
def check_gradnorm_next_weights(trial: Trial) -> None:
    """GN-7: w(t+1) is w(t) after the optimiser's step, times K over its sum."""
    trial.matches("w_next")


@check("weights")
def check_gradnorm_weights_in_use_are_those_before_the_update(trial: Trial) -> None:
    """GN-8: the network descends with w(t), not with w(t+1)."""
    trial.matches("weights")


@check("head_weights")
def check_gradnorm_heads_descend_the_label_loss(trial: Trial) -> None:
    """GN-8: head i descends w_i ∇L_i."""
    trial.matches("head_weights")


@check("direction")
def check_gradnorm_direction_is_that_of_the_label_loss(trial: Trial) -> None:
    """MTL-1: the shared parameters descend Σ w_i ∇L_i, and nothing of ∇L_grad."""
    trial.matches("direction")


@check("weights", on="run")
def check_gradnorm_starts_at_one(trial: Trial) -> None:
    """GN-9: w(0) = 1."""
    if trial.case.injected:
        raise Undecided
    trial.equal("weights", 0, trial.value("weights", 0), np.ones(trial.case.n_tasks))


@check("w_next", on="run")
def check_gradnorm_follows_its_own_run(trial: Trial) -> None:
    """GN-7: over a run, each step follows from the one before, with L(0) and the optimiser's memory kept."""
    trial.matches("w_next")


# LAWS


@check("w_next")
def check_gradnorm_weights_sum_to_K(trial: Trial) -> None:
    """GN-7: Σ w_i(t+1) = K."""
    for t in range(len(trial.expected)):
        trial.equal("w_next", t, np.sum(trial.value("w_next", t)), trial.case.n_tasks, "Σ w_next = K")


@check("w_next")
def check_gradnorm_permutes_with_the_tasks(trial: Trial) -> None:
    """GN-7: a permutation of the tasks permutes the weights, and changes nothing else."""
    other, order = permuted(trial.case)
    again = trial.on(other)
    for t in range(len(trial.expected)):
        moved = trial.value("w_next", t)[order]
        trial.equal("w_next", t, again.value("w_next", t), moved, "the tasks are permuted", factor=2)


@check("w_next")
def check_gradnorm_sees_gradients_through_their_norms(trial: Trial) -> None:
    """GN-1: a rotation of gradient space changes no weight."""
    again = trial.on(rotated(trial.case))
    for t in range(len(trial.expected)):
        trial.equal(
            "w_next", t, again.value("w_next", t), trial.value("w_next", t), "gradient space is rotated", factor=2
        )


@check("w_next")
def check_gradnorm_ignores_the_unit_of_a_loss_beside_its_start(trial: Trial) -> None:
    """GN-3: losses and L(0) of a task times a number, its gradient kept, change no weight."""
    case = trial.case
    factor = np.exp(np.linspace(-2, 2, case.n_tasks))
    state = case.state
    L_0 = vars(state).get("initial_losses")
    if L_0 is not None:
        state = state_of(state, {"initial_losses": list(L_0 * factor)})
    steps = tuple(replace(problem, losses=problem.losses * factor) for problem in case.steps)
    again = trial.on(replace(case, steps=steps, state=state, label="", expected=None))
    for t in range(len(trial.expected)):
        trial.equal(
            "w_next", t, again.value("w_next", t), trial.value("w_next", t), "losses in other units", factor=2
        )


CHECKS = (
    answering("gradnorm", "GN-7"),
    check_gradnorm_norms_are_of_the_weighted_losses,
    check_gradnorm_mean_norm,
    check_gradnorm_rates_are_relative_to_the_start,
    check_gradnorm_targets,
    check_gradnorm_loss_sums_absolute_differences,
    check_gradnorm_slope_holds_the_target_constant,
    check_gradnorm_next_weights,
    check_gradnorm_weights_in_use_are_those_before_the_update,
    check_gradnorm_heads_descend_the_label_loss,
    check_gradnorm_direction_is_that_of_the_label_loss,
    check_gradnorm_starts_at_one,
    check_gradnorm_follows_its_own_run,
    check_gradnorm_weights_sum_to_K,
    check_gradnorm_permutes_with_the_tasks,
    check_gradnorm_sees_gradients_through_their_norms,
    check_gradnorm_ignores_the_unit_of_a_loss_beside_its_start,
    replaying("gradnorm", "GN-9"),
)
"""In tag order, the laws last."""
