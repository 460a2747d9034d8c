"""Records a run of the public package gradnorm-pytorch: `python -m mtlref.audit.recorders.gradnorm_pytorch OUT.csv`.

The package's `GradNormLossWeighter` does all of the weighting, in its own default precision, float32; this loop
only writes down, before each of its calls, the losses, the norms and the weights it is about to use.
Needs gradnorm-pytorch, torch and scikit-learn. The versions go into the log's side file.
"""

from __future__ import annotations

from importlib.metadata import version

import torch
from gradnorm_pytorch import GradNormLossWeighter

from mtlref.audit.recorders.digits import (
    ALPHA,
    NETWORK_LR,
    SEED,
    TASKS,
    WEIGHT_LR,
    Rows,
    TwoHeads,
    batches,
    gradient_norms,
    run_settings,
    save,
    task_losses,
)


def record() -> dict[str, list[float]]:
    """Train, and return the log's columns."""
    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    network = TwoHeads()
    weighter = GradNormLossWeighter(
        num_losses=len(TASKS),
        learning_rate=WEIGHT_LR,
        restoring_force_alpha=ALPHA,
        grad_norm_parameters=network.last_shared,
    )
    optimiser = torch.optim.SGD(network.parameters(), lr=NETWORK_LR)
    rows = Rows()
    for batch in batches():
        losses = task_losses(network, batch)
        rows.add(losses, gradient_norms(losses, network.last_shared), weighter.loss_weights.tolist())
        optimiser.zero_grad()
        weighter.backward(losses)
        optimiser.step()
    return rows.columns


if __name__ == "__main__":
    save(
        "Record a run of gradnorm-pytorch.",
        record(),
        run_settings(f"gradnorm-pytorch {version('gradnorm-pytorch')}", "gradnorm_pytorch"),
    )
