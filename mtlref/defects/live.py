"""Wrong plumbing: how live code comes by other losses and gradients than its tasks', or descends another direction.

A defect of the measurement replaces `measured`: it takes what has been measured and the live problem, and returns
what such code measures. A defect of the descent replaces `descended`: it takes the case and its rows of observables,
and returns the rows of such code.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from mtlref.defects import DEFECTS as METHODS_OWN
from mtlref.defects.defect import Defect
from mtlref.notation import Array

if TYPE_CHECKING:
    from mtlref.conformance.live import Live, Measured
    from mtlref.conformance.problem import Case

Rows = list[Mapping[str, Any]]


# THE LOSSES


def multiplied(found: Measured, factor: Array) -> Measured:
    """Return losses and gradients times a factor a task."""
    heads = tuple(c * H for c, H in zip(factor, found.heads, strict=True))
    return replace(found, losses=factor * found.losses, jacobian=factor[:, None] * found.jacobian, heads=heads)


def summed(found: Measured, live: Live) -> Measured:
    """L_i is the sum over the batch, and over the outputs of an example."""
    return multiplied(found, np.array([float(target.size) for target in live.targets]))


def summed_over_outputs(found: Measured, live: Live) -> Measured:
    """L_i is the mean over the batch of the sum over the outputs of an example."""
    return multiplied(found, np.array([target.size / len(target) for target in live.targets]))


def without_last(found: Measured, live: Live) -> Measured:
    """The last task is left out."""
    return replace(found, losses=found.losses[:-1], jacobian=found.jacobian[:-1])


# THE GRADIENTS


def accumulated(found: Measured, live: Live) -> Measured:
    """J_i = Σ_{j ≤ i} ∇L_j: what stands in `.grad` if nothing clears it between the tasks' backward passes."""
    return replace(found, jacobian=np.cumsum(found.jacobian, axis=0))


def mean_of_tasks(found: Measured, live: Live) -> Measured:
    """J_i = ∇(L_i / K): the gradient of the mean over the tasks, task by task."""
    K = len(found.jacobian)
    return replace(found, jacobian=found.jacobian / K, heads=tuple(H / K for H in found.heads))


def of_the_total(found: Measured, live: Live) -> Measured:
    """J_i = ∇ Σ_j L_j: every row is the gradient of all losses."""
    return replace(found, jacobian=np.tile(np.sum(found.jacobian, axis=0), (len(found.jacobian), 1)))


def of_the_weighted(found: Measured, live: Live) -> Measured:
    """J_i = ∇(w_i L_i): the gradient of the weighted loss."""
    if live.weights is None:
        return found
    weighted = multiplied(found, live.weights)
    return replace(weighted, losses=found.losses)


def weighted_rows(found: Measured, live: Live) -> Measured:
    """J_i = ∇(w_i L_i) over the shared parameters, while the heads' gradients are those of the losses."""
    return replace(of_the_weighted(found, live), heads=found.heads)


def detached(found: Measured, live: Live) -> Measured:
    """The path is cut between the trunk's layers: nothing reaches the layers before the last."""
    jacobian = found.jacobian.copy()
    jacobian[:, : before_last(live)] = 0.0
    return replace(found, jacobian=jacobian)


def last_layer(found: Measured, live: Live) -> Measured:
    """J_i is over the last shared layer alone."""
    return replace(found, jacobian=found.jacobian[:, before_last(live) :])


def without_biases(found: Measured, live: Live) -> Measured:
    """J_i is over the shared matrices, without their biases."""
    return replace(found, jacobian=found.jacobian[:, np.concatenate([matrix(a) for a in live.shared])])


def zero_biases(found: Measured, live: Live) -> Measured:
    """J_i is zero at the biases of the trunk."""
    kept = np.concatenate([matrix(array) for array in live.shared])
    return replace(found, jacobian=found.jacobian * kept)


def with_heads(found: Measured, live: Live) -> Measured:
    """J_i is over the trunk and all heads as one vector."""
    blocks = []
    for i, H in enumerate(found.heads):
        block = np.zeros((len(found.jacobian), len(H)))
        block[i] = H
        blocks.append(block)
    return replace(found, jacobian=np.concatenate([found.jacobian, *blocks], axis=1))


def reversed_tensors(found: Measured, live: Live) -> Measured:
    """The columns go through the shared tensors from the last to the first."""
    parts = np.split(found.jacobian, np.cumsum([array.size for array in live.shared])[:-1], axis=1)
    return replace(found, jacobian=np.concatenate(parts[::-1], axis=1))


def transposed(found: Measured, live: Live) -> Measured:
    """The columns of each shared matrix go down its columns, not along its rows."""
    orders, start = [], 0
    for array in live.shared:
        orders.append(start + np.arange(array.size).reshape(array.shape).ravel(order="F"))
        start += array.size
    return replace(found, jacobian=found.jacobian[:, np.concatenate(orders)])


def before_last(live: Live) -> int:
    """Return how many columns belong to the layers before the last."""
    return sum(array.size for array in live.shared[:-2])


def matrix(array: Array) -> Array:
    """Return, for each column of a shared tensor, whether it is a matrix's."""
    return np.full(array.size, array.ndim == 2)


# THE HEADS


def heads_over_tasks(found: Measured, live: Live) -> Measured:
    """H_i = ∇(L_i / K)."""
    return replace(found, heads=tuple(H / len(found.heads) for H in found.heads))


def cut_heads(found: Measured, live: Live) -> Measured:
    """H_i = 0: nothing reaches the heads."""
    return replace(found, heads=tuple(0.0 * H for H in found.heads))


# THE DESCENT


def over_rows(change: Callable[[Any, Mapping[str, Any]], Mapping[str, Any]]) -> Callable[[Case, Rows], Rows]:
    """Return the descent that changes some observables of each step, a function of its problem and its row."""

    def descended(case: Case, rows: Rows) -> Rows:
        return [{**row, **change(problem, row)} for problem, row in zip(case.steps, rows, strict=False)]

    return descended


def unweighted_heads(problem: Any, row: Mapping[str, Any]) -> Mapping[str, Any]:
    """Head i descends H_i."""
    return {"head_gradients": np.concatenate(problem.heads), "head_weights": np.ones(len(problem.heads))}


def mean_trunk(problem: Any, row: Mapping[str, Any]) -> Mapping[str, Any]:
    """The shared parameters descend (1/K) Σ w_i J_i, the heads h_i H_i."""
    return {"direction": row["direction"] / len(problem.losses)}


def mean_everywhere(problem: Any, row: Mapping[str, Any]) -> Mapping[str, Any]:
    """Everything descends the mean of the weighted losses over the tasks."""
    K = len(problem.losses)
    return {"direction": row["direction"] / K, "head_gradients": row["head_gradients"] / K}


def weights_unused(problem: Any, row: Mapping[str, Any]) -> Mapping[str, Any]:
    """The network descends Σ J_i and H_i, whatever the weights are."""
    return {"direction": np.sum(row["jacobian"], axis=0), "head_gradients": np.concatenate(problem.heads)}


def weights_squared(problem: Any, row: Mapping[str, Any]) -> Mapping[str, Any]:
    """The shared parameters descend Σ w_i² J_i: gradients that are already weighted are weighted again."""
    return {"direction": row["weights"] ** 2 @ row["jacobian"]}


def next_weights_in_use(problem: Any, row: Mapping[str, Any]) -> Mapping[str, Any]:
    """The network descends with w(t+1)."""
    if "w_next" not in row:
        return {}
    heads = [w * H for w, H in zip(row["w_next"], problem.heads, strict=True)]
    return {"direction": row["w_next"] @ row["jacobian"], "head_gradients": np.concatenate(heads)}


def stale(case: Case, rows: Rows) -> Rows:
    """The network descends the sum of all steps so far: no gradient is cleared between them."""
    found: Rows = []
    for row in rows:
        before = found[-1] if found else {"direction": 0.0, "head_gradients": 0.0}
        found.append({**row, **{name: before[name] + row[name] for name in ("direction", "head_gradients")}})
    return found


def leaking(case: Case, rows: Rows) -> Rows:
    """The network descends Σ w_i ∇L_i + ∇L_grad: GradNorm's own loss reaches the network, its target a constant."""
    return [{**row, **leaked(problem, row)} for problem, row in zip(case.steps, rows, strict=False)]


def leaked(problem: Any, row: Mapping[str, Any]) -> Mapping[str, Any]:
    """∇L_grad = c Σ_i sign(G_i − target_i) |w_i| ∇‖J_i‖ with c = 1, or 1/K where L_grad is a mean; ∇‖J_i‖ = ∇²L_i
    J_i/‖J_i‖."""
    gap = row["G"] - row["target"]
    total = float(np.sum(np.abs(gap)))
    factor = row["L_grad"] / total if total > 0 else 0.0
    pull = factor * np.sign(gap) * np.abs(row["weights"])
    change = sum(p * norm_slope(problem, i) for i, p in enumerate(pull))
    D = row["jacobian"].shape[1]
    return {"direction": row["direction"] + change[:D], "head_gradients": row["head_gradients"] + change[D:]}


def norm_slope(problem: Any, task: int, step: float = 1e-30) -> Array:
    """Return ∇‖J_i‖ over all parameters, the norm over the columns that the method reads, by a complex step."""
    from mtlref.conformance.live import columns

    parameters = [*problem.live.shared, *(array for head in problem.live.heads for array in head)]
    row = np.zeros(sum(array.size for array in parameters))
    D = problem.jacobian.shape[1]
    read = columns(problem.live, problem.layer)
    row[:D][read] = problem.jacobian[task, read]
    length = float(np.linalg.norm(row))
    if length == 0:
        return row
    parts = np.split(row / length, np.cumsum([array.size for array in parameters])[:-1])
    moved = [array + 1j * step * part.reshape(array.shape) for array, part in zip(parameters, parts, strict=True)]
    return np.asarray(task_gradient(problem.live, moved, task).imag / step)


def task_gradient(live: Live, parameters: list[Any], task: int) -> Any:
    """Return ∇L_i over all parameters, in order, by back-propagation that also holds for complex ones."""
    layers, (V, c) = parameters[: len(live.shared)], parameters[len(live.shared) + 2 * task :][:2]
    relu = live.network.activation == "relu"
    h = [live.x]
    for W, b in zip(layers[::2], layers[1::2], strict=True):
        z = h[-1] @ W + b
        h.append(np.where(z.real > 0, z, 0) if relu else np.tanh(z))
    up = output_slope(live.kinds[task], h[-1] @ V + c, live.targets[task])
    own = [h[-1].T @ up, up.sum(axis=0)]
    up = up @ V.T
    shared: list[Any] = []
    for k in range(len(layers) // 2 - 1, -1, -1):
        up = up * ((h[k + 1].real > 0) if relu else 1 - h[k + 1] ** 2)
        shared = [h[k].T @ up, up.sum(axis=0), *shared]
        up = up @ layers[2 * k].T
    heads = [np.zeros(array.shape) for array in parameters[len(layers) :]]
    heads[2 * task : 2 * task + 2] = own
    return np.concatenate([np.ravel(part) for part in (*shared, *heads)])


def output_slope(kind: str, y: Any, target: Any) -> Any:
    """Return ∂L/∂ŷ of a loss of that kind, a mean over examples and outputs."""
    if kind == "cross-entropy":
        e = np.exp(y - np.max(y.real, axis=1, keepdims=True))
        return (e / e.sum(axis=1, keepdims=True) - np.eye(y.shape[1])[target]) / len(y)
    return (2 * (y - target) if kind == "mse" else np.sign((y - target).real)) / y.size


LOSS_GRAD_LEAKS = Defect(
    "LossGradLeaks",
    "LIVE-4",
    "GradNorm's own loss L_grad reaches the network: it descends ∇L_grad beside the label loss",
    {"descended": leaking},
    "gradnorm-pytorch 0.2.3",
)


def of(stem: str, descent: bool = True) -> tuple[Defect, ...]:
    """Return the defects of live code under the method `stem`, without those of the descent if there is none.

    One that the method's own defects have by the same name, heads without weights for one, is left to them.
    """
    found = DEFECTS + ((LOSS_GRAD_LEAKS,) if stem == "gradnorm" else ())
    own = {defect.name for defect in METHODS_OWN.get(stem, ())}
    return tuple(d for d in found if d.name not in own and (descent or "measured" in d.replaces))


DEFECTS = (
    Defect(
        "SumForMean",
        "LIVE-1",
        "the sum over the batch for its mean: losses and gradients grow with the batch",
        {"measured": summed},
    ),
    Defect(
        "SumOverOutputs",
        "LIVE-1",
        "the sum over an example's outputs for their mean",
        {"measured": summed_over_outputs},
    ),
    Defect("MissingTask", "LIVE-1", "no loss and no gradient of the last task", {"measured": without_last}),
    Defect(
        "Accumulated",
        "LIVE-2",
        "the sum of a gradient and those of the tasks before it: `.grad` is not cleared between the tasks",
        {"measured": accumulated},
        "PINA",
    ),
    Defect(
        "MeanOverTasks", "LIVE-2", "a K-th of every gradient: the mean over the tasks", {"measured": mean_of_tasks}
    ),
    Defect("TotalGradient", "LIVE-2", "the gradient of all losses for every task's", {"measured": of_the_total}),
    Defect("WeightedGradients", "LIVE-2", "gradients of the weighted losses", {"measured": of_the_weighted}),
    Defect(
        "WeightedRows",
        "LIVE-2",
        "gradients of the weighted losses over the trunk, of the losses over the heads",
        {"measured": weighted_rows},
    ),
    Defect(
        "DetachedPath", "LIVE-2", "no gradient before the last shared layer: the path is cut", {"measured": detached}
    ),
    Defect("LastLayerOnly", "LIVE-2", "gradients of the last shared layer alone", {"measured": last_layer}),
    Defect(
        "BiasLeftOut",
        "LIVE-2",
        "gradients of the shared matrices without the biases",
        {"measured": without_biases},
        "several ports of GradNorm",
    ),
    Defect("BiasDetached", "LIVE-2", "gradients of zero at the shared biases", {"measured": zero_biases}),
    Defect(
        "TrunkAndHeads",
        "LIVE-2",
        "trunk and heads as one vector of shared parameters",
        {"measured": with_heads},
        "Pytorch-PCGrad",
    ),
    Defect(
        "ReversedTensors", "LIVE-2", "the shared tensors from the last to the first", {"measured": reversed_tensors}
    ),
    Defect("TransposedMatrices", "LIVE-2", "each shared matrix down its columns", {"measured": transposed}),
    Defect("HeadsOverTasks", "LIVE-3", "a K-th of every head's gradient", {"measured": heads_over_tasks}),
    Defect("HeadsDetached", "LIVE-3", "no gradient of the heads", {"measured": cut_heads}),
    Defect(
        "HeadsUnweighted",
        "LIVE-4",
        "heads with weight 1 under a weighted trunk",
        {"descended": over_rows(unweighted_heads)},
        "LibMTL",
    ),
    Defect(
        "TrunkMeanHeadsSum",
        "LIVE-4",
        "the mean over the tasks for the trunk, their sum for the heads",
        {"descended": over_rows(mean_trunk)},
        "LibMTL's CAGrad",
    ),
    Defect(
        "MeanOfTasks",
        "LIVE-4",
        "the mean of the weighted losses for their sum",
        {"descended": over_rows(mean_everywhere)},
        "nash-mtl, FAMO",
    ),
    Defect(
        "ReportedNotUsed",
        "LIVE-4",
        "weights that are reported while the network descends the sum of the losses",
        {"descended": over_rows(weights_unused)},
        "LibMTL's GLS",
    ),
    Defect(
        "WeightedTwice",
        "LIVE-4",
        "weighted gradients that are weighted again on the way to the trunk",
        {"descended": over_rows(weights_squared)},
    ),
    Defect(
        "NextWeightsInUse",
        "LIVE-4",
        "the weights after the update in use at the step that made them",
        {"descended": over_rows(next_weights_in_use)},
    ),
    Defect("StaleGradients", "LIVE-4", "gradients that are not cleared between the steps", {"descended": stale}),
)
"""Known wrong plumbing, in the order of a training step."""
