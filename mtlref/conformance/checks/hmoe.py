"""The checks of HMoE, and with it of MMoE: a pass forward, and the gradients of each scenario's loss.

`dS` is the slope of each loss in each score, (K, K, B, outputs); `d_experts`, `d_gates`, `d_relations` and `d_towers`
are its gradients, a row a loss: the parameters of a kind one after another, in the order given, each raveled.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtlref.conformance.check import answering, check
from mtlref.conformance.mixtures import Pass, from_vector, make, of_pass
from mtlref.conformance.strategies import Plan
from mtlref.conformance.trial import Departure, Trial, Undecided
from mtlref.notation import Array


def towers(*widths: int) -> Callable[[int], tuple[tuple[int, ...], ...]]:
    """Return, by K, towers of these widths."""
    return lambda K: (widths,) * K


def sized(n: int, N: int, experts: tuple[int, ...], last: Callable[[int], Any], activation: str) -> dict[str, Any]:
    """Return the settings of a network's sizes."""
    return {"n_inputs": n, "n_experts": N, "experts": experts, "towers": last, "activation": activation}


PLAN = Plan(
    mandatory="out",
    settings=(
        sized(4, 2, (3,), towers(2, 1), "tanh"),
        sized(3, 4, (5, 2), towers(3, 1), "relu"),
        sized(2, 3, (2,), towers(4, 2), "tanh"),
        sized(5, 3, (3,), towers(4, 2, 1), "relu"),
        sized(3, 1, (2,), towers(3, 2), "relu"),
    ),
    together=("n_inputs", "n_experts", "experts", "towers", "activation"),
    choices={
        "HMOE-C3": ({"mix": "prob"}, {"mix": "hidden"}),
        "HMOE-C4": ({"constrained": False},),
        "HMOE-C5": ({"mode": "stacked"},),
    },
    tasks=(3, 4, 2, 5, 1),
    live=True,
    make=make,
    read=from_vector,
    at_once=2,
)
"""Sizes that all differ, experts of one layer and of two, a single one, scores of one output and of two."""


# EQUATIONS


@check("E")
def check_hmoe_experts_end_activated(trial: Trial) -> None:
    """MMOE-1: E_i = φ(mlp(expert_i, x)): φ follows an expert's last layer too."""
    trial.matches("E")


@check("g")
def check_hmoe_gates_share_among_experts(trial: Trial) -> None:
    """MMOE-2: g_k = softmax(x V_k) over the experts, each scenario with its own gate unless they have one."""
    trial.matches("g")


@check("f")
def check_hmoe_mixtures_of_experts(trial: Trial) -> None:
    """MMOE-3: f_k = Σ_i g_ki E_i, example by example."""
    trial.matches("f")


@check("z")
def check_hmoe_towers_end_linear(trial: Trial) -> None:
    """MMOE-4: z_k = mlp(tower_k, f_k): nothing follows a tower's last layer."""
    trial.matches("z")


@check("a")
def check_hmoe_relation_weights(trial: Trial) -> None:
    """HMOE-1: a_k = softmax(x R_k) over the scenarios."""
    trial.matches("a")


@check("S")
def check_hmoe_scores(trial: Trial) -> None:
    """HMOE-2: what is mixed are the towers' scores, or what is declared."""
    trial.matches("S")


@check("dS")
def check_hmoe_slopes_in_the_scores(trial: Trial) -> None:
    """HMOE-3: ∂L_k/∂S_j is a_kk δ_k for j = k and 0 for every other, or what is declared."""
    trial.matches("dS")


@check("d_towers")
def check_hmoe_tower_gradients(trial: Trial) -> None:
    """HMOE-3: a loss trains its own scenario's tower, times a_kk."""
    trial.matches("d_towers")


@check("d_gates")
def check_hmoe_gate_gradients(trial: Trial) -> None:
    """HMOE-3: a loss trains its own scenario's gate, through its own tower alone."""
    trial.matches("d_gates")


@check("d_experts")
def check_hmoe_expert_gradients(trial: Trial) -> None:
    """HMOE-3: the experts get from a loss what its own scenario's tower sends back."""
    trial.matches("d_experts")


@check("out")
def check_hmoe_outputs(trial: Trial) -> None:
    """HMOE-4: out_k = Σ_j a_kj S_j, of all scores."""
    trial.matches("out")


@check("d_relations")
def check_hmoe_relation_gradients(trial: Trial) -> None:
    """HMOE-4: the relation weights learn from every score, masked or not."""
    trial.matches("d_relations")


# LAWS


@check("d_towers")
def check_hmoe_other_towers_get_an_exact_zero(trial: Trial) -> None:
    """HMOE-3: the gradient of a loss in another scenario's tower is exactly 0, in every one if stacked."""
    if not choice(trial, "constrained"):
        raise Undecided
    stacked, kept = choice(trial, "mode") == "stacked", trial.value("d_towers").copy()
    for k, columns in enumerate(given(trial).towers_of):
        kept[stacked | (np.arange(len(kept)) != k), columns] = 0.0
    exact(trial, "d_towers", kept, "other scenarios' towers")


@check("d_gates")
def check_hmoe_other_gates_get_an_exact_zero(trial: Trial) -> None:
    """HMOE-3: the gradient of a loss in another scenario's gate is exactly 0, where each has one."""
    known = given(trial)
    if not choice(trial, "constrained") or len(known.gates) == 1:
        raise Undecided
    kept = trial.value("d_gates").copy()
    for k, columns in enumerate(np.split(np.arange(kept.shape[1]), len(known.gates))):
        kept[np.ix_(np.arange(len(kept)) != k, columns)] = 0.0
    exact(trial, "d_gates", kept, "other scenarios' gates")


@check("a", "S", "out")
def check_hmoe_forward_does_not_see_the_mask(trial: Trial) -> None:
    """HMOE-3: out_k is Σ_j a_kj S_j of the a and S that are reported: a score that is held constant has its value."""
    scores_only(trial)
    a, S, out = (trial.value(name) for name in ("a", "S", "out"))
    trial.equal("out", 0, out, np.einsum("kbj,jbo->kbo", a, S), "Σ_j a_kj S_j as reported", factor=2)


@check("a", "S", "out", "d_relations")
def check_hmoe_relation_gradients_do_not_see_the_mask(trial: Trial) -> None:
    """HMOE-4: the logit (x R_k)_j gets a_kj δ_k·(S_j − out_k), with the mask and without."""
    scores_only(trial)
    known, (a, S, out) = given(trial), (trial.value(name) for name in ("a", "S", "out"))
    K, rows = known.n_tasks, []
    for k, delta in enumerate(known.delta):
        slopes = [a[k, :, j] * np.sum(delta * (S[j] - out[k]), axis=1) for j in range(K)]
        own = known.x.T @ np.stack(slopes, axis=1)
        blocks = [own if k == R or len(known.relations) == 1 else 0 * own for R in range(len(known.relations))]
        rows.append(np.concatenate([np.ravel(block) for block in blocks]))
    trial.equal("d_relations", 0, trial.value("d_relations"), rows, "a_kj δ_k·(S_j − out_k)", factor=2)


@check("out", "z")
def check_hmoe_one_hot_relation_is_mmoe(trial: Trial) -> None:
    """HMOE-4: where every scenario weighs its own score alone, outputs and gradients are MMoE's."""
    known = given(trial)
    scores_only(trial)
    if len(known.relations) != known.n_tasks or choice(trial, "mix") != "logit":
        raise Undecided
    x = known.x.copy()
    x[:, 0] = 1.0
    hot = []
    for k, R in enumerate(known.relations):
        R = np.zeros_like(R)
        R[0, k] = 800.0
        hot.append(R)
    again = trial.on(of_pass(trial.case, replace(known, x=x, relations=tuple(hot))))
    again.equal("out", 0, again.value("out"), again.value("z"), "one-hot relation weights")
    for name in ("d_towers", "d_gates", "d_experts"):
        if name in again.got[0]:
            again.matches(name)


@check("out", "z")
def check_hmoe_one_scenario_is_a_plain_mixture(trial: Trial) -> None:
    """HMOE-4: for K = 1 the output is the tower's score, and the relation weights do not learn."""
    if trial.case.n_tasks != 1 or choice(trial, "mix") != "logit":
        raise Undecided
    trial.equal("out", 0, trial.value("out"), trial.value("z"), "one scenario")
    if "d_relations" in trial.got[0]:
        exact(trial, "d_relations", np.zeros_like(trial.value("d_relations")), "one scenario")


@check("out", "S")
def check_hmoe_relation_of_zeros_is_the_mean(trial: Trial) -> None:
    """HMOE-1: relation matrices of 0 make every output the plain mean of the scores."""
    scores_only(trial)
    known = given(trial)
    again = trial.on(of_pass(trial.case, replace(known, relations=tuple(0 * R for R in known.relations))))
    S = again.value("S")
    mean = np.broadcast_to(np.mean(S, axis=0), S.shape)
    again.equal("out", 0, again.value("out"), mean, "relation matrices of 0", factor=2)


@check("out")
def check_hmoe_common_shift_of_the_scores_shifts_the_outputs(trial: Trial) -> None:
    """HMOE-1: the relation weights sum to 1: a number added to every score is added to every output."""
    if choice(trial, "mix") != "logit":
        raise Undecided
    known = given(trial)
    shifted = tuple((*layers[:-1], layers[-1] + 2.0) for layers in known.towers)
    again = trial.on(of_pass(trial.case, replace(known, towers=shifted)))
    again.equal("out", 0, again.value("out"), trial.value("out") + 2.0, "scores + 2", factor=2)


@check("out")
def check_hmoe_relabelled_scenarios(trial: Trial) -> None:
    """HMOE-4: the scenarios in another order have the same outputs and gradients in that order."""
    known, K = given(trial), trial.case.n_tasks
    order = np.roll(np.arange(K), 1)[::-1]

    def reordered(items: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(items[k] for k in order) if len(items) == K else items

    relations = tuple(R[:, order] for R in reordered(known.relations))
    moved = replace(known, relations=relations, gates=reordered(known.gates), towers=reordered(known.towers),
                    delta=reordered(known.delta))  # fmt: skip
    same_widths(known)
    again = trial.on(of_pass(trial.case, moved))
    for name in ("out", "d_experts"):
        if name in trial.got[0]:
            trial.equal(name, 0, again.value(name), trial.value(name)[order], "scenarios relabelled", factor=2)


@check("out")
def check_hmoe_relabelled_experts(trial: Trial) -> None:
    """MMOE-3: the experts in another order, with their shares, change no output."""
    known = given(trial)
    gates = tuple(V[:, ::-1] for V in known.gates)
    again = trial.on(of_pass(trial.case, replace(known, experts=known.experts[::-1], gates=gates)))
    trial.equal("out", 0, again.value("out"), trial.value("out"), "experts relabelled", factor=2)


@check("out")
def check_hmoe_a_sample_knows_no_other(trial: Trial) -> None:
    """MMOE-2: a sample alone has the output that it has in its batch: a batch of one is a batch."""
    known = given(trial)
    if len(known.x) == 1:
        raise Undecided
    again = trial.on(of_pass(trial.case, rows(known, np.array([0]))))
    trial.equal("out", 0, again.value("out"), trial.value("out")[:, :1], "the first sample alone", factor=2)


@check("d_towers")
def check_hmoe_samples_of_other_scenarios_count_for_nothing(trial: Trial) -> None:
    """HMOE-5: a loss reads its own scenario's samples: without the others, its gradient is the same."""
    known = given(trial)
    k = trial.case.n_tasks - 1
    own = np.flatnonzero(known.delta[k].any(axis=1))
    if len(own) in (0, len(known.x)):
        raise Undecided
    again = trial.on(of_pass(trial.case, rows(known, own)))
    trial.equal("d_towers", 0, again.value("d_towers")[k], trial.value("d_towers")[k], "own samples alone", factor=2)


@check("d_towers")
def check_hmoe_gradients_add_up_over_samples(trial: Trial) -> None:
    """HMOE-5: every sample twice is every gradient twice, for L_k is the sum that δ makes it."""
    known = given(trial)
    again = trial.on(of_pass(trial.case, rows(known, np.tile(np.arange(len(known.x)), 2))))
    trial.equal("d_towers", 0, again.value("d_towers"), 2 * trial.value("d_towers"), "every sample twice", factor=2)


def given(trial: Trial) -> Pass:
    """Return the pass of a trial."""
    found: Pass = trial.case.steps[0].asked
    return found


def choice(trial: Trial, name: str) -> Any:
    """Return a choice that the case is judged under."""
    return vars(trial.case.method)[name]


def scores_only(trial: Trial) -> None:
    """Raise Undecided where hidden vectors are mixed, which are no scores."""
    if choice(trial, "mix") == "hidden":
        raise Undecided


def same_widths(known: Pass) -> None:
    """Raise Undecided unless all towers have one shape."""
    if len({tuple(array.shape for array in layers) for layers in known.towers}) > 1:
        raise Undecided


def rows(known: Pass, chosen: NDArray[np.intp]) -> Pass:
    """Return the pass of some samples of its batch."""
    return replace(known, x=known.x[chosen], delta=tuple(delta[chosen] for delta in known.delta))


def exact(trial: Trial, name: str, wanted: Array, law: str) -> None:
    """Compare an observable bit for bit. Errors: Departure."""
    got = trial.value(name)
    if not np.array_equal(got, wanted):
        raise Departure(trial.case, name, 0, got, wanted, np.zeros(wanted.shape), law)


CHECKS = (
    answering("hmoe", "HMOE-4"),
    check_hmoe_experts_end_activated,
    check_hmoe_gates_share_among_experts,
    check_hmoe_mixtures_of_experts,
    check_hmoe_towers_end_linear,
    check_hmoe_relation_weights,
    check_hmoe_scores,
    check_hmoe_slopes_in_the_scores,
    check_hmoe_outputs,
    check_hmoe_relation_gradients,
    check_hmoe_tower_gradients,
    check_hmoe_gate_gradients,
    check_hmoe_expert_gradients,
    check_hmoe_other_towers_get_an_exact_zero,
    check_hmoe_other_gates_get_an_exact_zero,
    check_hmoe_forward_does_not_see_the_mask,
    check_hmoe_relation_gradients_do_not_see_the_mask,
    check_hmoe_one_hot_relation_is_mmoe,
    check_hmoe_one_scenario_is_a_plain_mixture,
    check_hmoe_relation_of_zeros_is_the_mean,
    check_hmoe_common_shift_of_the_scores_shifts_the_outputs,
    check_hmoe_relabelled_scenarios,
    check_hmoe_relabelled_experts,
    check_hmoe_a_sample_knows_no_other,
    check_hmoe_samples_of_other_scenarios_count_for_nothing,
    check_hmoe_gradients_add_up_over_samples,
)
"""In the order of a pass, the laws last."""
