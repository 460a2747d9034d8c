"""Records a run of GradNorm written by hand in torch: `python -m mtlref.audit.recorders.torch_loop OUT.csv`.

Algorithm 1 of the paper, literally: the norms of the weighted gradients are differentiated by torch itself with
respect to the weights, targets detached, and the network gets the gradient of the label loss alone. It trains the
same network on the same batches as the other recorder, and shares no code with `mtlref.methods`.
Needs torch and scikit-learn. The versions go into the log's side file.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mtlref.audit.recorders import digits


def record() -> dict[str, list[float]]:
    """Train, and return the log's columns."""
    torch.manual_seed(digits.SEED)
    torch.set_num_threads(1)
    network = digits.TwoHeads()
    optimiser = torch.optim.SGD(network.parameters(), lr=digits.NETWORK_LR)
    weights = torch.ones(len(digits.TASKS))
    first: Tensor | None = None
    rows = digits.Rows()
    for batch in digits.batches():
        losses = digits.task_losses(network, batch)
        rows.add(losses, digits.gradient_norms(losses, network.last_shared), weights.tolist())
        values = torch.stack(losses).detach()
        first = values if first is None else first
        slope = weight_gradient(weights, losses, values / first, network.last_shared)
        optimiser.zero_grad()
        torch.autograd.backward(torch.dot(weights, torch.stack(losses)))
        optimiser.step()
        weights = weights - digits.WEIGHT_LR * slope
        weights = weights * (len(digits.TASKS) / weights.sum())
    return rows.columns


def weight_gradient(weights: Tensor, losses: list[Tensor], progress: Tensor, parameter: Tensor) -> Tensor:
    """Return the gradient of the distance of the gradient norms from their targets, by torch's autograd."""
    w = weights.clone().requires_grad_()
    terms = [torch.autograd.grad(w[i] * loss, parameter, create_graph=True)[0] for i, loss in enumerate(losses)]
    norms = torch.stack([term.norm() for term in terms])
    target = (norms.mean() * (progress / progress.mean()) ** digits.ALPHA).detach()
    return torch.autograd.grad((norms - target).abs().sum(), w, retain_graph=True)[0]


if __name__ == "__main__":
    digits.save(
        "Record a run of a GradNorm loop in torch.",
        record(),
        digits.run_settings("a loop written by hand after Algorithm 1", "torch_loop"),
    )
