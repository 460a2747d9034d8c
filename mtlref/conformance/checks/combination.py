"""The checks of the combination. One that declares its `stages` is put to those; any other to a list of them.

PE-LTR as the aggregator is left out where the gradients are affinely dependent, as it is alone (PELTR-C3). PCGrad's
orders may be given, or drawn by the implementation itself: then its heads and its direction are judged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from mtlref.conformance.check import answering, check, replaying
from mtlref.conformance.checks import pe_ltr
from mtlref.conformance.checks.fixed import unequal, with_a_zero
from mtlref.conformance.laws import orthogonal, permuted, rotated
from mtlref.conformance.problem import Case, Problem
from mtlref.conformance.strategies import Plan, cosines
from mtlref.conformance.trial import Trial, Undecided
from mtlref.methods import DWA, PELTR, Combination, CoVWeighting, EqualWeights, FixedWeights, GradNorm, PCGrad, Stage
from mtlref.methods import UncertaintyWeighting as Noise
from mtlref.notation import Array, DomainError

PREVIOUS = CoVWeighting(statistics="previous")
"""A rate whose weights in use come from earlier steps alone."""


def priorities(K: int) -> FixedWeights:
    """Return unequal constants for K tasks."""
    return FixedWeights(unequal(K))


def regular(problem: Problem, eps: float) -> bool:
    """Return whether PE-LTR, if it is the aggregator, meets gradients that are affinely independent."""
    return not isinstance(aggregator(problem.method), PELTR) or pe_ltr.regular(problem, eps)


def aggregator(method: Any) -> Any:
    """Return the aggregator of a combination, None if there is none."""
    return method.aggregator


PLAN = Plan(
    mandatory="direction",
    settings=(
        {"stages": (Stage(DWA(temperature=0.5)), Stage(GradNorm(), 0.5), Stage(PCGrad())), "epoch_steps": 3},
        {"stages": lambda K: (priorities(K), GradNorm(), PELTR()), "epoch_steps": None},
        {"stages": lambda K: (priorities(K), CoVWeighting(), PCGrad()), "epoch_steps": None},
        {"stages": (GradNorm(), Stage(DWA(temperature=0.25), 2.0)), "epoch_steps": 4},
        {"stages": (Stage(Noise(), 0.5), Stage(PREVIOUS, 2.0), PCGrad(reduction="mean")), "epoch_steps": None},
        {"stages": lambda K: (Stage(priorities(K), -1.0), Stage(CoVWeighting(), 0.5)), "epoch_steps": None},
        {"stages": lambda K: (priorities(K), Stage(GradNorm(alpha=0.5), 0.5), PELTR(timing="same")),
         "epoch_steps": None},
        {"stages": lambda K: (Stage(DWA(temperature=0.5), 0.5), Stage(priorities(K), 2.0)), "epoch_steps": None},
        {"stages": (Noise(), PREVIOUS, DWA(temperature=0.5)), "epoch_steps": 2},
        {"stages": lambda K: (FixedWeights(with_a_zero(K)), GradNorm(), PCGrad()), "epoch_steps": None},
        {"stages": (EqualWeights(), PELTR()), "epoch_steps": None},
        {"stages": (PCGrad(),), "epoch_steps": None},
    ),
    together=("stages", "epoch_steps"),
    dimensions=(5, 7, 9, 4, 2, 8),
    gradients=("generic", "conflicting", "orthogonal", "planar", "agreeing"),
    losses=("falling", "rising", "far from 1"),
    most=4,
    matrixwise=True,
    decides=regular,
    at_once=2,
)  # fmt: skip
"""Every method as a stage, strengths of every kind, both aggregators and none, epochs of several steps and of one."""


# EQUATIONS


@check("seen")
def check_combination_stages_read_raw_losses(trial: Trial) -> None:
    """COMB-1: a stage reads the raw losses, or their mean over the epoch so far if it waits for its end."""
    trial.matches("seen")


@check("scale")
def check_combination_stages_read_raw_gradients(trial: Trial) -> None:
    """COMB-2: a stage reads the raw gradients, and knows no weights but its own."""
    trial.matches("scale")


@check(only="given")
def check_combination_stages_run_as_alone(trial: Trial) -> None:
    """COMB-2: every term of a stage that is given is what its own method makes of the state, term by term."""
    names = [name for name in trial.case.method.tags if "." in name and name in trial.got[0]]
    if not names:
        raise Undecided
    for name in names:
        trial.matches(name)


@check("u")
def check_combination_brings_each_stage_to_a_sum_of_K(trial: Trial) -> None:
    """COMB-3: u_i = K w_i / Σ w_j for the weights w of each stage."""
    trial.matches("u")


@check("product")
def check_combination_multiplies_powers(trial: Trial) -> None:
    """COMB-4: p_i is the product of the stages' u_i, each to the power of its strength."""
    trial.matches("product")


@check("loss_weights")
def check_combination_loss_level_weights(trial: Trial) -> None:
    """COMB-5: λ_i = K p_i / Σ p_j."""
    trial.matches("loss_weights")


@check("factor")
def check_combination_aggregator_reads_weighted_gradients(trial: Trial) -> None:
    """COMB-6: the aggregator reads λ_i ∇L_i."""
    trial.matches("factor")


@check("c", only="given")
def check_combination_coefficients(trial: Trial) -> None:
    """COMB-7: c are PCGrad's weights of the weighted gradients, K times PE-LTR's, ones without an aggregator."""
    trial.matches("c")


@check("weights", only="given")
def check_combination_weights_in_use(trial: Trial) -> None:
    """COMB-8: w_i = c_i λ_i."""
    trial.matches("weights")


@check("direction")
def check_combination_direction(trial: Trial) -> None:
    """COMB-8: the shared parameters descend Σ c_i (λ_i ∇L_i)."""
    trial.matches("direction")


@check("head_weights")
def check_combination_heads_get_the_loss_level_weights(trial: Trial) -> None:
    """COMB-9: head i descends λ_i ∇L_i, whatever the aggregator does."""
    trial.matches("head_weights")


@check("w_next", only="given")
def check_combination_weights_to_come(trial: Trial) -> None:
    """COMB-10: the state holds the weights to come where every stage knows its own, else those in use."""
    trial.matches("w_next")


@check("weights", "direction")
def check_combination_direction_is_that_of_the_weights(trial: Trial) -> None:
    """MTL-1: the weights that are reported are those of the direction: d = Σ w_i ∇L_i."""
    for t, problem in enumerate(trial.case.steps[: len(trial.expected)]):
        d = trial.value("weights", t) @ problem.jacobian
        trial.equal("direction", t, trial.value("direction", t), d, "Σ w_i ∇L_i of the weights reported", factor=2)


@check("direction", on="run")
def check_combination_follows_its_own_run(trial: Trial) -> None:
    """COMB-1: over a run every stage steps when it is its turn, with what it remembers."""
    trial.matches("direction")


@check("head_weights", on="run")
def check_combination_heads_follow_the_run(trial: Trial) -> None:
    """COMB-1: over a run the loss-level weights are those of stages that step when it is their turn."""
    trial.matches("head_weights")


@check("weights", on="run", only="given")
def check_combination_starts_from_its_stages(trial: Trial) -> None:
    """COMB-10: w(0) is made of the weights that the stages start with."""
    if trial.case.injected or not trial.case.method.lagged:
        raise Undecided
    trial.equal("weights", 0, trial.value("weights", 0), vars(trial.case.state)["weights"], "the stages' start")


# LAWS


@check("head_weights")
def check_combination_weights_sum_to_K(trial: Trial) -> None:
    """COMB-5: Σ λ_i = K, so that equal weights are the plain sum."""
    for t in range(len(trial.expected)):
        trial.equal("head_weights", t, np.sum(trial.value("head_weights", t)), trial.case.n_tasks, "Σ λ = K")


@check("head_weights", "direction", only="given")
def check_combination_does_not_mind_the_stages_order(trial: Trial) -> None:
    """COMB-4: the product is commutative: the order of the loss-level stages changes nothing."""
    method = combined(trial)
    M = len(method.loss_level)
    turned = [*reversed(range(M)), *range(M, len(method.stages))]
    unchanged(trial, restaged(trial, [method.stages[m] for m in turned], [states(trial)[m] for m in turned]))


@check("head_weights", "direction", only="given")
def check_combination_ignores_a_stage_of_equal_weights(trial: Trial) -> None:
    """COMB-4: ones are the identity of the product: a stage of equal weights changes nothing."""
    equal = Stage(EqualWeights(), 2.0)
    start = EqualWeights().init(trial.case.n_tasks)
    unchanged(trial, restaged(trial, [equal, *combined(trial).stages], [start, *states(trial)]))


@check("head_weights", "direction", only="given")
def check_combination_ignores_a_stage_of_strength_zero(trial: Trial) -> None:
    """COMB-4: u^0 = 1: a stage of strength 0 is off."""
    off, K = Stage(FixedWeights(unequal(trial.case.n_tasks)), 0.0), trial.case.n_tasks
    unchanged(trial, restaged(trial, [off, *combined(trial).stages], [off.method.init(K), *states(trial)]))


@check("head_weights", "direction", only="given")
def check_combination_cancels_a_stage_and_its_inverse(trial: Trial) -> None:
    """COMB-4: a stage of strength 1 and the same of strength −1 change nothing together."""
    K = trial.case.n_tasks
    once = FixedWeights(unequal(K))
    pair = [Stage(once), Stage(once, -1.0)]
    unchanged(trial, restaged(trial, [*pair, *combined(trial).stages], [once.init(K)] * 2 + [*states(trial)]))


@check("direction", only="given")
def check_combination_surgery_commutes_with_weights(trial: Trial) -> None:
    """COMB-6: with weights above 0 PCGrad on weighted gradients gives Σ λ_i g_i^PC of the unweighted ones."""
    cut, weights = aggregator(trial.case.method), [row["head_weights"] for row in trial.expected]
    if not isinstance(cut, PCGrad) or not np.all(np.array(weights) > 0):
        raise Undecided
    for t, (problem, loss_weights) in enumerate(zip(trial.case.steps, weights, strict=False)):
        alone = replace(problem, method=cut).step(cut.init(problem.n_tasks))
        share = problem.n_tasks if cut.reduction == "mean" else 1
        d = loss_weights @ alone.terms["coefficients"] @ problem.jacobian / share
        trial.equal("direction", t, trial.value("direction", t), d, "Σ λ_i g_i^PC", factor=2)


@check("direction")
def check_combination_adds_weighted_gradients_that_agree(trial: Trial) -> None:
    """COMB-7: without conflict, or without an aggregator, the direction is Σ λ_i ∇L_i."""
    last = aggregator(trial.case.method)
    if isinstance(last, PELTR):
        raise Undecided
    share = trial.case.n_tasks if last is not None and last.reduction == "mean" else 1
    for t, (problem, row) in enumerate(zip(trial.case.steps, trial.expected, strict=False)):
        if last is not None and (problem.n_tasks == 1 or np.min(cosines(problem.jacobian)) < 0):
            raise Undecided
        d = row["head_weights"] @ problem.jacobian / share
        trial.equal("direction", t, trial.value("direction", t), d, "no conflict: Σ λ_i ∇L_i")


@check("weights", only="given")
def check_combination_pe_ltr_turns_weights_round(trial: Trial) -> None:
    """COMB-7: orthogonal gradients have w_i ∝ 1/(λ_i ‖∇L_i‖²) under PE-LTR at once, without bounds."""
    last = aggregator(trial.case.method)
    if isinstance(last, PELTR) and not last.lagged and last.bounds is None:
        again = trial.on(orthogonal(trial.case))
    else:
        loss_level, at_once = combined(trial).loss_level, PELTR(timing="same")
        before = [*states(trial)[: len(loss_level)], at_once.init(trial.case.n_tasks)]
        again = restaged(trial, [*loss_level, Stage(at_once)], before)
        again = again.on(orthogonal(again.case))
    for t, (problem, row) in enumerate(zip(again.case.steps, again.expected, strict=False)):
        loss_weights, lengths = np.asarray(row["head_weights"]), np.diag(problem.jacobian)
        if not np.all(lengths > 0) or not np.all(loss_weights > 0):
            raise Undecided
        share = 1 / (loss_weights * lengths) ** 2
        w = len(lengths) * loss_weights * share / np.sum(share)
        again.equal("weights", t, again.value("weights", t), w, "orthogonal gradients")


@check("head_weights", "direction", only="given")
def check_combination_sees_inner_products_alone(trial: Trial) -> None:
    """COMB-2: a rotation of gradient space changes no loss-level weight."""
    again = trial.on(rotated(trial.case))
    for t in range(len(trial.expected)):
        moved, before = again.value("head_weights", t), trial.value("head_weights", t)
        trial.equal("head_weights", t, moved, before, "gradient space is rotated", factor=2)


@check("head_weights", "direction", only="given")
def check_combination_permutes_with_the_tasks(trial: Trial) -> None:
    """COMB-4: a permutation of the tasks permutes the loss-level weights, and keeps the direction."""
    if any(isinstance(value, tuple) for stage in stages(trial.case) for value in vars(stage.method).values()):
        raise Undecided  # settings an entry a task
    other, order = permuted(trial.case)
    again = trial.on(other)
    for t in range(len(trial.expected)):
        law = "the tasks are permuted"
        moved = trial.value("head_weights", t)[order]
        trial.equal("head_weights", t, again.value("head_weights", t), moved, law, factor=2)
        trial.equal("direction", t, again.value("direction", t), trial.value("direction", t), law, factor=2)


def combined(trial: Trial) -> Combination:
    """Return the combination whose stages may be changed. Errors: Undecided if the implementation has its own."""
    method = trial.case.method
    if "stages" in trial.answers.impl.settings() or not isinstance(method, Combination):
        raise Undecided
    return method


def stages(case: Case) -> tuple[Stage, ...]:
    """Return the stages of a case's combination."""
    found: tuple[Stage, ...] = vars(case.method)["stages"]
    return found


def states(trial: Trial) -> tuple[Any, ...]:
    """Return the states of the stages before the case."""
    found: tuple[Any, ...] = vars(trial.case.state)["stages"]
    return found


def restaged(trial: Trial, every: Sequence[Stage], before: Sequence[Any]) -> Trial:
    """Return the trial of the same case for other stages, with their states. Errors: Undecided if they are none."""
    try:
        method = Combination(*every, epoch_steps=combined(trial).epoch_steps)
    except DomainError as error:  # an epoch for a stage that steps every time
        raise Undecided from error
    state = replace(trial.case.state, stages=tuple(before))  # type: ignore[call-arg]
    return trial.on(replace(trial.case.under(method), state=state, label=""))


def unchanged(trial: Trial, again: Trial) -> None:
    """Compare the heads' weights and the directions of two trials."""
    for name in ("head_weights", "direction"):
        for t in range(len(trial.expected)):
            moved: Array = again.value(name, t)
            trial.equal(name, t, moved, trial.value(name, t), "other stages of the same product", factor=2)


CHECKS = (
    answering("combination", "COMB-8"),
    replaying("combination", "COMB-10"),
    check_combination_stages_read_raw_losses,
    check_combination_stages_read_raw_gradients,
    check_combination_stages_run_as_alone,
    check_combination_brings_each_stage_to_a_sum_of_K,
    check_combination_multiplies_powers,
    check_combination_loss_level_weights,
    check_combination_aggregator_reads_weighted_gradients,
    check_combination_coefficients,
    check_combination_weights_in_use,
    check_combination_direction,
    check_combination_heads_get_the_loss_level_weights,
    check_combination_weights_to_come,
    check_combination_direction_is_that_of_the_weights,
    check_combination_follows_its_own_run,
    check_combination_heads_follow_the_run,
    check_combination_starts_from_its_stages,
    check_combination_weights_sum_to_K,
    check_combination_does_not_mind_the_stages_order,
    check_combination_ignores_a_stage_of_equal_weights,
    check_combination_ignores_a_stage_of_strength_zero,
    check_combination_cancels_a_stage_and_its_inverse,
    check_combination_surgery_commutes_with_weights,
    check_combination_adds_weighted_gradients_that_agree,
    check_combination_pe_ltr_turns_weights_round,
    check_combination_sees_inner_products_alone,
    check_combination_permutes_with_the_tasks,
)
"""In tag order, the laws last."""
