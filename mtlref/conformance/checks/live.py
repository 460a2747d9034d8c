"""The checks of live runs: a method on a network whose gradients the code makes itself. They hold for
every method."""

from __future__ import annotations

from dataclasses import replace

from mtlref.conformance.check import Check, answering, check
from mtlref.conformance.trial import Trial


@check("losses", on="live")
def check_live_losses_are_means(trial: Trial) -> None:
    """LIVE-1: the method is given the mean of each task's error over the batch, unweighted."""
    trial.matches("losses")


@check("jacobian", on="live")
def check_live_rows_are_of_one_loss_each(trial: Trial) -> None:
    """LIVE-2: the method is given ∇L_i of each loss alone, over all shared parameters."""
    trial.matches("jacobian")


@check(on="live", only="given")
def check_live_method_is_stepped(trial: Trial) -> None:
    """LIVE-4: from these losses and gradients the method takes its step, term by term."""
    for name in (*trial.case.method.tags, "weights", "head_weights"):
        if name in trial.got[0]:
            trial.matches(name)


@check("direction", on="live", only="given")
def check_live_shared_parameters_descend_the_label_loss(trial: Trial) -> None:
    """MTL-1: the shared parameters descend Σ w_i J_i, and nothing else."""
    trial.matches("direction")


@check("head_gradients", on="live")
def check_live_heads_descend_their_own_weights(trial: Trial) -> None:
    """LIVE-4: head i descends h_i H_i."""
    trial.matches("head_gradients")


@check("weights", "direction", on="live")
def check_live_reported_weights_are_those_in_use(trial: Trial) -> None:
    """MTL-1: the direction is that of the weights which are reported."""
    for t, row in enumerate(trial.expected):
        trial.equal("direction", t, trial.value("direction", t), trial.value("weights", t) @ row["jacobian"])


@check("direction", on="live", only="given")
def check_live_doubled_batch_changes_nothing(trial: Trial) -> None:
    """LIVE-1: every example twice is the same mean."""
    case = trial.case
    again = trial.on(replace(case, steps=tuple(p.doubled() for p in case.steps), label=""))  # type: ignore[attr-defined]
    for t in range(len(trial.expected)):
        moved, before = again.value("direction", t), trial.value("direction", t)
        trial.equal("direction", t, moved, before, "the batch is doubled", factor=2)


CHECKS: tuple[Check, ...] = (
    replace(answering("live", "LIVE-4"), on="live"),
    check_live_losses_are_means,
    check_live_rows_are_of_one_loss_each,
    check_live_method_is_stepped,
    check_live_shared_parameters_descend_the_label_loss,
    check_live_heads_descend_their_own_weights,
    check_live_reported_weights_are_those_in_use,
    check_live_doubled_batch_changes_nothing,
)
"""In the order of a training step."""
