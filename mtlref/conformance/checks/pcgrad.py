"""The checks of PCGrad. One that takes the draw is compared exactly; one that draws for itself must give an outcome
of it.

PCG-7, the weights before the first step, is read by no step: a run that is asked for again begins there.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from mtlref.conformance import outcomes
from mtlref.conformance.check import answering, check, replaying
from mtlref.conformance.laws import permuted, rotated, scaled
from mtlref.conformance.strategies import Plan, cosines
from mtlref.conformance.trial import Trial, Undecided

PLAN = Plan(
    mandatory="direction",
    settings=({},),
    choices={"PCG-C1": ({"include_self": True},), "PCG-C2": ({"reduction": "mean"},)},
    tasks=(3, 4, 2, 5, 8, 1),
    dimensions=(2, 3, 5, 7, 4, 9),
    gradients=("generic", "conflicting", "planar", "agreeing", "duplicated", "zero row", "small", "scaled"),
    losses=("falling", "rising"),
    most=4,
)
"""Many tasks in few dimensions, where meetings follow on meetings."""

TURNED = np.array([[1.0, 0.0], [-(3**0.5), 1.0], [-(3**0.5) * 0.75, -0.75]])
"""Gradients at 0°, 150° and 210°, where each of the eight orders gives another direction."""

ASKED = 60
"""How often an implementation that draws is asked there."""

FEWEST = 4
"""How many of the eight directions it has to give then. One that draws an order a task misses that once in 10²³;
one that shuffles all tasks once, and so has six of them, once in 5·10¹⁶. That a task keeps one of its two orders
throughout happens once in 10¹⁷."""


# EQUATIONS


@check("cosines", only="given")
def check_pcgrad_cosines(trial: Trial) -> None:
    """PCG-1: c_ij is the cosine of the angle between the gradients, 0 beside a zero gradient."""
    trial.matches("cosines")


@check("overlaps", only="given")
def check_pcgrad_overlaps_are_of_what_the_gradient_has_become(trial: Trial) -> None:
    """PCG-2: a task meets the others in the order drawn, with what its gradient has become, the other's as it was."""
    trial.matches("overlaps")


@check("projected", only="given")
def check_pcgrad_projects_on_conflict_alone(trial: Trial) -> None:
    """PCG-3: the component along the other's gradient is taken away where they conflict, and nothing elsewhere."""
    trial.matches("projected")


@check("coefficients", only="given")
def check_pcgrad_coefficients(trial: Trial) -> None:
    """PCG-4: g_i^PC = Σ_j coeff_ij g_j."""
    trial.matches("coefficients")


@check("weights", only="given")
def check_pcgrad_weights_are_column_sums(trial: Trial) -> None:
    """PCG-5: w_j = Σ_i coeff_ij."""
    trial.matches("weights")


@check("direction")
def check_pcgrad_direction(trial: Trial) -> None:
    """PCG-5: the shared parameters descend the sum of the projected gradients, one of those that an order allows."""
    trial.matches("direction")


@check("direction", on="run")
def check_pcgrad_remembers_nothing(trial: Trial) -> None:
    """PCG-5: over a run, each step is made from its own gradients."""
    trial.matches("direction")


@check("weights", "direction")
def check_pcgrad_direction_is_that_of_the_weights(trial: Trial) -> None:
    """MTL-1: the weights that are reported are those of the direction: d = Σ w_i g_i."""
    for t, problem in enumerate(trial.case.steps[: len(trial.expected)]):
        d = trial.value("weights", t) @ problem.jacobian
        trial.equal("direction", t, trial.value("direction", t), d, "Σ w_i g_i of the weights reported", factor=2)


@check("head_weights")
def check_pcgrad_heads_keep_their_gradients(trial: Trial) -> None:
    """PCG-6: h_i = 1."""
    trial.matches("head_weights")


# LAWS


@check("direction")
def check_pcgrad_agreeing_gradients_are_added(trial: Trial) -> None:
    """PCG-3: where no two gradients conflict, the direction is their sum, or their mean where that is declared."""
    for t, problem in enumerate(trial.case.steps):
        if problem.n_tasks == 1 or np.min(cosines(problem.jacobian)) < 0:
            raise Undecided
        total = np.sum(problem.jacobian, axis=0)
        share = problem.n_tasks if vars(problem.method)["reduction"] == "mean" else 1
        trial.equal("direction", t, trial.value("direction", t), total / share, "no conflict: the plain sum")


@check("direction")
def check_pcgrad_two_tasks_are_left_without_conflict(trial: Trial) -> None:
    """PCG-3: for two tasks the direction opposes neither gradient."""
    for t, problem in enumerate(trial.case.steps):
        if problem.n_tasks != 2:
            raise Undecided
        lengths = np.linalg.norm(problem.jacobian, axis=1)
        unit = problem.jacobian / np.where(lengths > 0, lengths, 1.0)[:, None]
        opposed = np.minimum(unit @ trial.value("direction", t), 0.0)
        trial.equal("direction", t, opposed, np.zeros(2), "d·g_i ≥ 0 for two tasks")


@check("direction", only="given")
def check_pcgrad_scales_with_the_gradients(trial: Trial) -> None:
    """PCG-3: all gradients times a number give the direction times that number: nothing is added under a norm."""
    for factor in (2.0**-17, 2.0**11):
        again = trial.on(scaled(trial.case, factor))
        for t in range(len(trial.expected)):
            moved = again.value("direction", t) / factor
            trial.equal("direction", t, moved, trial.value("direction", t), f"gradients times {factor:g}", factor=2)


@check("coefficients", only="given")
def check_pcgrad_is_linear_in_each_length(trial: Trial) -> None:
    """PCG-4: gradient i times b_i > 0 makes coeff_ij of coeff_ij b_i / b_j, with the same draw."""
    b = np.exp(np.linspace(-1, 1, trial.case.n_tasks))
    again = trial.on(scaled(trial.case, b))
    for t, problem in enumerate(trial.case.steps):
        if np.any(~problem.jacobian.any(axis=1)):
            raise Undecided
        moved = again.value("coefficients", t) * b[None, :] / b[:, None]
        trial.equal("coefficients", t, moved, trial.value("coefficients", t), "lengths times b_i", factor=2)


@check("direction", only="given")
def check_pcgrad_permutes_with_the_tasks(trial: Trial) -> None:
    """PCG-5: a permutation of the tasks, in their orders too, changes nothing of the direction."""
    again = trial.on(permuted(trial.case)[0])
    for t in range(len(trial.expected)):
        trial.equal(
            "direction",
            t,
            again.value("direction", t),
            trial.value("direction", t),
            "the tasks are permuted",
            factor=2,
        )


@check("weights", only="given")
def check_pcgrad_sees_inner_products_alone(trial: Trial) -> None:
    """PCG-1: a rotation of gradient space changes no weight."""
    again = trial.on(rotated(trial.case))
    for t in range(len(trial.expected)):
        trial.equal(
            "weights", t, again.value("weights", t), trial.value("weights", t), "gradient space is rotated", factor=2
        )


@check("direction", only="own")
def check_pcgrad_draws_anew(trial: Trial) -> None:
    """PCG-2: the order of every task is drawn at every step: where it matters, answers differ, for every task."""
    problem = trial.case.steps[0]
    if problem.n_tasks != 3 or not trial.case.injected or trial.case.label.startswith("vector"):
        raise Undecided
    turned = replace(problem, jacobian=TURNED)
    alone = replace(trial.case, steps=(turned,), label="")
    allowed = outcomes.directions(turned, trial.case.state)
    answers = [trial.answers.fresh(alone)[0]["direction"] for _ in range(ASKED)]
    met = {int(np.argmin(np.max(np.abs(allowed - answer), axis=1))) for answer in answers}
    trial.equal(
        "direction", 0, min(len(met), FEWEST), FEWEST, f"different directions among {ASKED}, {FEWEST} or more"
    )
    orders = len(allowed) // 2 ** np.arange(1, 4)
    varied = [len({outcome // place % 2 for outcome in met}) for place in orders]
    trial.equal("direction", 0, varied, np.full(3, 2), f"orders of each task among {ASKED}")


CHECKS = (
    answering("pcgrad", "PCG-5"),
    replaying("pcgrad", "PCG-7"),
    check_pcgrad_cosines,
    check_pcgrad_overlaps_are_of_what_the_gradient_has_become,
    check_pcgrad_projects_on_conflict_alone,
    check_pcgrad_coefficients,
    check_pcgrad_weights_are_column_sums,
    check_pcgrad_direction,
    check_pcgrad_remembers_nothing,
    check_pcgrad_direction_is_that_of_the_weights,
    check_pcgrad_heads_keep_their_gradients,
    check_pcgrad_agreeing_gradients_are_added,
    check_pcgrad_two_tasks_are_left_without_conflict,
    check_pcgrad_scales_with_the_gradients,
    check_pcgrad_is_linear_in_each_length,
    check_pcgrad_permutes_with_the_tasks,
    check_pcgrad_sees_inner_products_alone,
    check_pcgrad_draws_anew,
)
"""In tag order, the laws last."""
