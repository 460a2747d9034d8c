"""The data and the network that both recorded runs train: two tasks on scikit-learn's handwritten digits.

Task `digit` classifies the image (cross-entropy over 10 classes); task `ink` regresses the share of the 64 pixels
that are inked (half or more of the scale), with the squared error. Trunk: 64 → 32 → 24, tanh; one affine head a task.
GradNorm balances the last shared layer's weight matrix (24 × 32).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from importlib.metadata import version

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from mtlref.audit.writers import write_log

TASKS = ("digit", "ink")
SEED = 20
BATCH = 64
STEPS = 400
NETWORK_LR = 0.05
ALPHA = 1.5
WEIGHT_LR = 0.025


class TwoHeads(nn.Module):
    """The trunk and the two heads; `last_shared` is the weight whose gradient norms GradNorm balances."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 24), nn.Tanh())
        self.digit = nn.Linear(24, 10)
        self.ink = nn.Linear(24, 1)

    @property
    def last_shared(self) -> nn.Parameter:
        weight = self.trunk[2].weight
        assert isinstance(weight, nn.Parameter)
        return weight

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.trunk(images)
        return self.digit(hidden), self.ink(hidden)[:, 0]


def batches() -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield STEPS batches of images, digits and shares of ink, drawn without replacement, epoch by epoch."""
    data = load_digits()
    images = torch.tensor(data.data / 16, dtype=torch.float32)
    digits = torch.tensor(data.target)
    ink = (images >= 0.5).float().mean(dim=1)
    shuffle = torch.Generator().manual_seed(SEED)
    order = torch.empty(0, dtype=torch.long)
    for _ in range(STEPS):
        if len(order) < BATCH:
            order = torch.randperm(len(images), generator=shuffle)
        chosen, order = order[:BATCH], order[BATCH:]
        yield images[chosen], digits[chosen], ink[chosen]


def task_losses(network: TwoHeads, batch: tuple[Tensor, Tensor, Tensor]) -> list[Tensor]:
    """Return the batch's mean loss of each task."""
    images, digits, ink = batch
    logits, share = network(images)
    return [nn.functional.cross_entropy(logits, digits), nn.functional.mse_loss(share, ink)]


def gradient_norms(losses: list[Tensor], parameter: nn.Parameter) -> list[float]:
    """Return ‖∇L_i‖₂ of each unweighted loss with respect to `parameter`."""
    return [torch.autograd.grad(loss, parameter, retain_graph=True)[0].norm().item() for loss in losses]


class Rows:
    """The log's columns, filled a row a step."""

    def __init__(self) -> None:
        self.columns: dict[str, list[float]] = {"step": []}

    def add(self, losses: list[Tensor], norms: list[float], weights: list[float]) -> None:
        """Add the row of one step: the losses, the norms, and the weights in use."""
        self.columns["step"].append(len(self.columns["step"]))
        series = (("loss", [loss.item() for loss in losses]), ("norm", norms), ("weight", weights))
        for kind, values in series:
            for task, value in zip(TASKS, values, strict=True):
                self.columns.setdefault(f"{kind}/{task}", []).append(value)


def run_settings(package: str, recorder: str) -> dict[str, object]:
    """Return the log's side file: the method's settings, and in words what was run."""
    return {
        "method": "gradnorm",
        "settings": {"alpha": ALPHA, "lr": WEIGHT_LR},
        "run": {
            "package": package,
            "framework": f"torch {version('torch').split('+')[0]} on CPU, float32",
            "data": f"scikit-learn {version('scikit-learn')} load_digits: tasks digit (10 classes), ink (regression)",
            "network": f"two heads on a trunk 64-32-24, tanh; SGD({NETWORK_LR}); {STEPS} steps of {BATCH}",
            "recorder": f"python -m mtlref.audit.recorders.{recorder} OUT.csv",
        },
    }


def save(description: str, columns: dict[str, list[float]], settings: dict[str, object]) -> None:
    """Write the log to the file named on the command line, its side file beside it."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("out", help="the CSV file to write; its side file goes beside it")
    write_log(parser.parse_args().out, columns, settings)
