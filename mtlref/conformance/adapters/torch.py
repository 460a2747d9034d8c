"""PyTorch: problems as scalar losses with a graph behind them, and live networks as modules.

A user's class is plugged in by letting it see what it sees in training, scalars with `requires_grad`:

    def run(run):
        model = Surrogate(run)                        # parameters: model.shared, model.heads
        mine = MyGradNorm(model.shared, alpha=run.method.alpha, lr=run.method.lr)
        for problem in run:
            model.zero_grad()
            mine.backward(model(problem))             # K losses, with the problem's values and gradients
            yield {"w_next": mine.weights, **model.observed()}

`observed` reads `direction` and `head_weights` off the `.grad` that the code has left. `network(live)` is the module
of a live problem; its `observed` gives `direction` and `head_gradients`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from mtlref.conformance.live import Live, LiveRun
from mtlref.conformance.problem import Problem, Run
from mtlref.notation import MissingExtraError

try:
    import torch
    from torch import Tensor, nn
    from torch.nn import functional
except ImportError as error:
    raise MissingExtraError("mtlref.conformance.adapters.torch needs torch: pip install 'mtlref[torch]'") from error


def flat(tensors: Iterable[Tensor]) -> Tensor:
    """Return the tensors raveled in C order, one after another, as one vector."""
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


def descended(parameters: Iterable[Tensor]) -> Tensor:
    """Return what an optimiser would descend: the `.grad` of each parameter, zero where there is none,
    as a vector."""
    return flat(torch.zeros_like(p) if p.grad is None else p.grad.detach().clone() for p in parameters)


# SCALAR LOSSES


class Surrogate(nn.Module):
    """K losses with given values and gradients: L_i + g_i · (θ − θ₀) + (φ_i − φ_i0).

    θ₀ and φ_i0 are the parameters as they are at the call, so an optimiser may move them in between. θ is `shared`:
    two matrices and a bias, or one vector if `split` is False. φ_i is `heads[i]`, a scalar of task i's own, whose
    gradient is therefore the weight of head i. `problem`: a problem or a run, for the sizes.
    """

    def __init__(self, problem: Problem | Run, dtype: torch.dtype = torch.float64, split: bool = True) -> None:
        super().__init__()
        K, D = (problem.steps[0] if isinstance(problem, Run) else problem).jacobian.shape
        third = D // 3
        shapes = [(third, 1), (1, third), (D - 2 * third,)] if split else [(D,)]
        parts = [nn.Parameter(torch.ones(shape, dtype=dtype)) for shape in shapes if 0 not in shape]
        self.shared = nn.ParameterList(parts)
        self.heads = nn.ParameterList([nn.Parameter(torch.ones((), dtype=dtype)) for _ in range(K)])

    def forward(self, problem: Problem) -> list[Tensor]:
        """Return the K losses of a problem, scalars."""
        theta = flat(self.shared)
        L, J = (torch.tensor(values, dtype=theta.dtype) for values in (problem.losses, problem.jacobian))
        away = theta - theta.detach()
        return [L[i] + J[i] @ away + (head - head.detach()) for i, head in enumerate(self.heads)]

    def observed(self) -> dict[str, Tensor]:
        """Return `direction` (D,) and `head_weights` (K,) as the parameters' gradients have them."""
        return {"direction": descended(self.shared), "head_weights": descended(self.heads)}


# LIVE NETWORKS


class Network(nn.Module):
    """The network of a live problem: a trunk of affine layers x W + b, an affine head a task.

    `shared`: the trunk's W, b, W, b, in the order of the columns of a Jacobian; `heads`: a list of W, b for each
    task.
    """

    def __init__(self, live: Live, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        self.dtype = dtype
        self.activation = {"tanh": torch.tanh, "relu": torch.relu}[live.network.activation]
        self.shared = parameters(live.shared, dtype)
        self.heads = nn.ModuleList([parameters(head, dtype) for head in live.heads])

    @property
    def last_shared(self) -> list[Tensor]:
        """The last shared layer's W and b."""
        return list(self.shared)[-2:]

    def load(self, live: Live) -> None:
        """Put in the parameters that the step of `live` starts from, as the training before it has left them."""
        with torch.no_grad():
            given = [*live.shared, *(array for head in live.heads for array in head)]
            for parameter, values in zip(self.parameters(), given, strict=True):
                parameter.copy_(torch.tensor(values))

    def forward(self, x: Any) -> list[Tensor]:
        """Return the K tasks' outputs, (B, outputs) each."""
        h = torch.as_tensor(x, dtype=self.dtype)
        for W, b in zip(list(self.shared)[::2], list(self.shared)[1::2], strict=True):
            h = self.activation(h @ W + b)
        return [h @ W + b for W, b in self.heads]

    def losses(self, live: Live) -> list[Tensor]:
        """Return the K losses of the batch of `live`, each a mean over its examples and outputs."""
        pairs = zip(live.kinds, self(live.x), live.targets, strict=True)
        return [LOSSES[kind](prediction, target_of(target, self.dtype)) for kind, prediction, target in pairs]

    def observed(self) -> dict[str, Tensor]:
        """Return `direction` (D,) and `head_gradients`, the heads' one after another, as the `.grad`s have them."""
        return {"direction": descended(self.shared), "head_gradients": descended(self.heads.parameters())}


LOSSES = {"mse": functional.mse_loss, "absolute": functional.l1_loss, "cross-entropy": functional.cross_entropy}
"""PyTorch's own losses by the kinds of a live problem."""


def network(live: Live | LiveRun, dtype: torch.dtype = torch.float64) -> Network:
    """Return the module of a live problem, or of the first of a run, with its parameters."""
    return Network(live.steps[0] if isinstance(live, LiveRun) else live, dtype)


def parameters(arrays: Iterable[Any], dtype: torch.dtype) -> nn.ParameterList:
    """Return NumPy arrays as parameters."""
    return nn.ParameterList([nn.Parameter(torch.tensor(array, dtype=dtype)) for array in arrays])


def target_of(target: Any, dtype: torch.dtype) -> Tensor:
    """Return a target as a tensor: labels as they are, numbers in the network's type."""
    tensor = torch.tensor(target)
    return tensor.to(dtype) if tensor.is_floating_point() else tensor
