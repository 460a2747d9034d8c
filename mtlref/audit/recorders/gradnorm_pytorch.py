"""Records a run of the public package gradnorm-pytorch: `python -m mtlref.audit.recorders.gradnorm_pytorch OUT.csv`.

The package's `GradNormLossWeighter` does all of the weighting, in its own default precision, float32; this loop
only writes down, before each of its calls, the losses, the norms and the weights it is about to use.
Needs gradnorm-pytorch, torch and scikit-learn. The versions go into the log's side file.
"""

from __future__ import annotations

from importlib.metadata import version

import torch
from gradnorm_pytorch import GradNormLossWeighter

from mtlref.audit.recorders import digits


def record() -> dict[str, list[float]]:
    """Train, and return the log's columns."""
    torch.manual_seed(digits.SEED)
    torch.set_num_threads(1)
    network = digits.TwoHeads()
    weighter = GradNormLossWeighter(
        num_losses=len(digits.TASKS),
        learning_rate=digits.WEIGHT_LR,
        restoring_force_alpha=digits.ALPHA,
        grad_norm_parameters=network.last_shared,
    )
    optimiser = torch.optim.SGD(network.parameters(), lr=digits.NETWORK_LR)
    rows = digits.Rows()
    for batch in digits.batches():
        losses = digits.task_losses(network, batch)
        rows.add(losses, digits.gradient_norms(losses, network.last_shared), weighter.loss_weights.tolist())
        optimiser.zero_grad()
        weighter.backward(losses)
        optimiser.step()
    return rows.columns


if __name__ == "__main__":
    digits.save(
        "Record a run of gradnorm-pytorch.",
        record(),
        digits.run_settings(f"gradnorm-pytorch {version('gradnorm-pytorch')}", "gradnorm_pytorch"),
    )
