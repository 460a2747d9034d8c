"""The checks of per-task gradients: what the framework's own backward pass makes of a small network."""

from __future__ import annotations

from dataclasses import replace

from mtlref.conformance.check import answering, check
from mtlref.conformance.strategies import Plan
from mtlref.conformance.trial import Trial

PLAN = Plan(mandatory="jacobian", live=True)
"""Networks of two to four tasks; see `mtlref.conformance.live`."""


@check("losses")
def check_jacobian_losses_are_means(trial: Trial) -> None:
    """LIVE-1: L_i is the mean of task i's error over the batch, unweighted."""
    trial.matches("losses")


@check("jacobian")
def check_jacobian_rows_are_of_one_loss_each(trial: Trial) -> None:
    """LIVE-2: row i is ∇L_i, of that loss alone, over all shared parameters in order."""
    trial.matches("jacobian")


@check("head_gradients")
def check_jacobian_heads_have_their_own_gradient(trial: Trial) -> None:
    """LIVE-3: head i's gradient is that of its own loss, unweighted."""
    trial.matches("head_gradients")


@check("jacobian")
def check_jacobian_is_the_same_for_a_doubled_batch(trial: Trial) -> None:
    """LIVE-1: every example twice is the same mean, and changes no gradient."""
    case = trial.case
    again = trial.on(replace(case, steps=tuple(p.doubled() for p in case.steps), label=""))  # type: ignore[attr-defined]
    trial.equal("jacobian", 0, again.value("jacobian"), trial.value("jacobian"), "the batch is doubled", factor=2)


CHECKS = (
    answering("jacobian", "LIVE-2"),
    check_jacobian_losses_are_means,
    check_jacobian_rows_are_of_one_loss_each,
    check_jacobian_heads_have_their_own_gradient,
    check_jacobian_is_the_same_for_a_doubled_batch,
)
"""In tag order, the laws last."""
