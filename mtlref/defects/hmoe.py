"""Wrong variants of MMoE and HMoE. Each function takes what the equation's own function takes.

Those of MMOE equations are defects of `mtlref.MMoE` too: its module has functions of the same names.
"""

from __future__ import annotations

from collections.abc import Sequence

from mtlref import autograd as ad
from mtlref.autograd import Operand, Tensor
from mtlref.defects.defect import Defect
from mtlref.methods.hmoe import mixed_scores, score_mixture
from mtlref.mixtures import Each, expert_mixtures, gate_shares
from mtlref.networks import Activation, activated, mlp


def linear_experts(experts: Sequence[Operand], x: Operand, activation: Activation) -> Tensor:
    """E_i = mlp(expert_i, x): no φ after the last layer."""
    return mlp(experts, x, activation)


def first_gate(gates: Sequence[Operand], x: Operand) -> Each:
    """g_k = softmax(x V_1): every task has the first task's gate."""
    return gate_shares([gates[0]] * len(gates), x)


def next_gate(gates: Sequence[Operand], x: Operand) -> Each:
    """g_k = softmax(x V_{k+1}): the gates are off by one task."""
    return gate_shares([*gates[1:], gates[0]], x)


def gate_over_batch(gates: Sequence[Operand], x: Operand) -> Each:
    """g_k = softmax(x V_k) over the examples of the batch."""
    return tuple(ad.softmax(ad.matmul(x, V_k), axis=0) for V_k in gates)


def sigmoid_gate(gates: Sequence[Operand], x: Operand) -> Each:
    """g_k = σ(x V_k): shares that do not sum to 1."""
    return tuple(ad.sigmoid(ad.matmul(x, V_k)) for V_k in gates)


def normalised_gate(gates: Sequence[Operand], x: Operand) -> Each:
    """g_k = softmax((z − mean z) / √(var z + 1e-5)), z = x V_k, mean and variance over the batch."""
    shares = []
    for V_k in gates:
        z = ad.matmul(x, V_k)
        centred = z - z.mean(axis=0, keepdims=True)
        variance = (centred**2).mean(axis=0, keepdims=True)
        shares.append(ad.softmax(centred / ad.sqrt(variance + 1e-5), axis=1))
    return tuple(shares)


def mean_of_experts(g: Each, E: Tensor) -> Each:
    """f_k = (1/N) Σ_i E_i: the gate is not used."""
    return tuple(E.mean(axis=0) for _ in g)


def mean_of_products(g: Each, E: Tensor) -> Each:
    """f_k = (1/N) Σ_i g_ki E_i: the mean over the experts for their sum."""
    return tuple(f_k / E.shape[0] for f_k in expert_mixtures(g, E))


def constant_gate(g: Each, E: Tensor) -> Each:
    """f_k = Σ_i g_ki E_i with g held constant: the gates do not learn."""
    return expert_mixtures(tuple(ad.stop_gradient(g_k) for g_k in g), E)


def squeezed_mixtures(g: Each, E: Tensor) -> Each:
    """f_k without its axes of length 1: a batch of one example is no batch."""
    return tuple(f_k.reshape(tuple(n for n in f_k.shape if n > 1)) for f_k in expert_mixtures(g, E))


def activated_towers(towers: Sequence[Sequence[Operand]], f: Each, activation: Activation) -> Each:
    """z_k = φ(mlp(tower_k, f_k)): φ after the last layer too."""
    phi = activated(activation)
    return tuple(phi(mlp(tower, f_k, activation)) for tower, f_k in zip(towers, f, strict=True))


def towers_on_the_first_mixture(towers: Sequence[Sequence[Operand]], f: Each, activation: Activation) -> Each:
    """z_k = mlp(tower_k, f_1): every tower reads the first task's mixture."""
    return tuple(mlp(tower, f[0], activation) for tower in towers)


def relation_over_batch(relations: Sequence[Operand], x: Operand) -> Each:
    """a_k = softmax(x R_k) over the examples of the batch."""
    return tuple(ad.softmax(ad.matmul(x, R_k), axis=0) for R_k in relations)


def sigmoid_relation(relations: Sequence[Operand], x: Operand) -> Each:
    """a_k = σ(x R_k): weights that do not sum to 1."""
    return tuple(ad.sigmoid(ad.matmul(x, R_k)) for R_k in relations)


def next_relation(relations: Sequence[Operand], x: Operand) -> Each:
    """a_k = softmax(x R_{k+1}): the relation matrices are off by one scenario."""
    return tuple(ad.softmax(ad.matmul(x, R_k), axis=1) for R_k in (*relations[1:], relations[0]))


def exchanged_scores(z: Each, mix: str) -> Each:
    """S_k = σ(z_k) where the logits are to be mixed, and z_k where their sigmoids are."""
    return mixed_scores(z, "prob" if mix == "logit" else "logit")


def scores_without_mask(S: Each, k: int) -> Each:
    """S̃_kj = S_j: the loss of a scenario reaches every tower."""
    return S


def inverted_mask(S: Each, k: int) -> Each:
    """S̃_kj = S_j for j ≠ k, and a constant for j = k: the loss reaches every tower but its own."""
    return tuple(ad.stop_gradient(S_j) if j == k else S_j for j, S_j in enumerate(S))


def mask_of_all(S: Each, k: int) -> Each:
    """S̃_kj constant for every j: the loss does not reach its own tower either."""
    return tuple(ad.stop_gradient(S_j) for S_j in S)


def mask_of_the_next(S: Each, k: int) -> Each:
    """S̃_kj = S_j for j = k + 1: the loss of a scenario trains the next one's tower."""
    own = (k + 1) % len(S)
    return tuple(S_j if j == own else ad.stop_gradient(S_j) for j, S_j in enumerate(S))


def zeroed_scores(S: Each, k: int) -> Each:
    """S̃_kj = 0 for j ≠ k: the other scores are masked out, not held constant."""
    return tuple(S_j if j == k else S_j * 0.0 for j, S_j in enumerate(S))


def constant_relation(a_k: Tensor, S_k: Each) -> Tensor:
    """out_k = Σ_j a_kj S̃_kj with a held constant: the relation weights do not learn."""
    return score_mixture(ad.stop_gradient(a_k), S_k)


def constant_products(a_k: Tensor, S_k: Each) -> Tensor:
    """out_k with a_kj S̃_kj constant as a product where S̃_kj is constant: a learns from its own term alone."""
    products = [a_k[:, j : j + 1] * S_j for j, S_j in enumerate(S_k)]
    held = [p if S_j.tracked else ad.stop_gradient(p) for p, S_j in zip(products, S_k, strict=True)]
    return sum(held[1:], held[0])


def sum_of_scores(a_k: Tensor, S_k: Each) -> Tensor:
    """out_k = (1/K) Σ_j S̃_kj: the relation weights are not used."""
    return sum(S_k[1:], S_k[0]) / len(S_k)


def mean_of_weighted_scores(a_k: Tensor, S_k: Each) -> Tensor:
    """out_k = (1/K) Σ_j a_kj S̃_kj: the mean over the scenarios for their sum."""
    return score_mixture(a_k, S_k) / len(S_k)


def reversed_weights(a_k: Tensor, S_k: Each) -> Tensor:
    """out_k = Σ_j a_{k,K+1−j} S̃_kj: the weights meet the scores in the wrong order."""
    return score_mixture(a_k, S_k[::-1])


DEFECTS = (
    Defect(
        "OneGateForAll", "MMOE-2", "one task's gate for all tasks, and calls it MMoE", {"gate_shares": first_gate}
    ),
    Defect(
        "NormalisedGate",
        "MMOE-2",
        "the gates' logits normalised over the batch: an example's output depends on the others",
        {"gate_shares": normalised_gate},
        "torch-rechub 0.9.0",
    ),
    Defect("GateOfAnotherTask", "MMOE-2", "the gate of the next task", {"gate_shares": next_gate}),
    Defect(
        "GateOverBatch",
        "MMOE-2",
        "the gates' softmax over the batch, not the experts",
        {"gate_shares": gate_over_batch},
    ),
    Defect(
        "SigmoidGate", "MMOE-2", "a sigmoid of the gates' logits for their softmax", {"gate_shares": sigmoid_gate}
    ),
    Defect("LinearExperts", "MMOE-1", "experts without φ at their end", {"expert_outputs": linear_experts}),
    Defect(
        "SqueezedBatch",
        "MMOE-3",
        "mixtures without their axes of length 1, so that a batch of one example loses its axis",
        {"expert_mixtures": squeezed_mixtures},
    ),
    Defect(
        "MeanOfExperts",
        "MMOE-3",
        "the plain mean of the experts for the gate's mixture",
        {"expert_mixtures": mean_of_experts},
    ),
    Defect(
        "MeanForSum",
        "MMOE-3",
        "the mean over the experts of their share for the sum",
        {"expert_mixtures": mean_of_products},
    ),
    Defect("GateDetached", "MMOE-3", "a mixture that is constant in the gate", {"expert_mixtures": constant_gate}),
    Defect("ActivatedScores", "MMOE-4", "scores with φ at their end", {"tower_outputs": activated_towers}),
    Defect(
        "TowersOnOneMixture",
        "MMOE-4",
        "every tower's score from the first task's mixture",
        {"tower_outputs": towers_on_the_first_mixture},
    ),
    Defect(
        "RelationOverBatch",
        "HMOE-1",
        "the relation weights' softmax over the batch, not the scenarios",
        {"relation_weights": relation_over_batch},
    ),
    Defect(
        "SigmoidRelation",
        "HMOE-1",
        "relation weights that do not sum to 1, a sigmoid for the softmax",
        {"relation_weights": sigmoid_relation},
    ),
    Defect(
        "RelationOfAnotherTask",
        "HMOE-1",
        "the relation weights of the next scenario",
        {"relation_weights": next_relation},
    ),
    Defect(
        "LogitsExchanged",
        "HMOE-2",
        "the mixture of probabilities where logits are to be mixed, and of logits where probabilities are",
        {"mixed_scores": exchanged_scores},
    ),
    Defect(
        "MaskAbsent",
        "HMOE-3",
        "gradients that reach every scenario's tower",
        {"constrained_scores": scores_without_mask},
    ),
    Defect(
        "InvertedMask",
        "HMOE-3",
        "gradients that reach every tower but the scenario's own",
        {"constrained_scores": inverted_mask},
    ),
    Defect("OwnTowerStopped", "HMOE-3", "gradients that reach no tower at all", {"constrained_scores": mask_of_all}),
    Defect(
        "MaskOfAnotherTask",
        "HMOE-3",
        "gradients that reach the next scenario's tower",
        {"constrained_scores": mask_of_the_next},
    ),
    Defect(
        "ScoresZeroed",
        "HMOE-3",
        "the other scenarios' scores set to 0, not held constant",
        {"constrained_scores": zeroed_scores},
    ),
    Defect(
        "RelationStopped",
        "HMOE-4",
        "a mixture that is constant in the relation weights",
        {"score_mixture": constant_relation},
    ),
    Defect(
        "ProductsStopped",
        "HMOE-4",
        "the other scenarios' terms constant as a whole: the relation weights learn from their own term alone",
        {"score_mixture": constant_products},
    ),
    Defect("MeanOfScores", "HMOE-4", "the plain mean of the scores", {"score_mixture": sum_of_scores}),
    Defect(
        "MeanForMixture",
        "HMOE-4",
        "the mean over the scenarios of the weighted scores for their sum",
        {"score_mixture": mean_of_weighted_scores},
    ),
    Defect(
        "ReversedWeights",
        "HMOE-4",
        "weights that meet the scores in the reverse order",
        {"score_mixture": reversed_weights},
    ),
)
"""Known wrong variants of MMoE and HMoE, the implicit part's first."""
