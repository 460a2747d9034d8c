"""The Jacobian of a network's task losses in other libraries, each the quickest way that its documentation shows.

Every function takes the case's `Problem` and returns what to call, or None where the library is not installed. A call
does the forward pass and the K gradients, and returns an array (K, D), or a list of arrays with K rows each.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mtlref.bench.machine import peer
from mtlref.bench.measure import Contender
from mtlref.notation import Array

if TYPE_CHECKING:
    from mtlref.bench.cases.jacobian import Problem

Made = tuple[Callable[[], Any], str] | None
"""What to call, and a note."""


def contenders(problem: Problem) -> list[Contender]:
    """Return the contenders of the libraries that are installed."""
    made = {name: make(problem) for name, make in MAKERS.items()}
    return [Contender(name, "peer", one[0], rows, one[1]) for name, one in made.items() if one is not None]


def rows(returned: Any) -> Sequence[Array]:
    """Return the Jacobian (K, D) of what a library returned."""
    if isinstance(returned, list | tuple):
        return [np.concatenate([np.asarray(a, dtype=np.float64).reshape(len(a), -1) for a in returned], axis=1)]
    return [np.asarray(returned, dtype=np.float64)]


def losses(problem: Problem, flat: Sequence[Any], tanh: Any, relu: Any, mse: Any, cross_entropy: Any) -> list[Any]:
    """Return the task losses in a library's own functions."""
    phi = tanh if problem.activation == "tanh" else relu
    h, n_shared = problem.x_in, 2 * problem.depth
    for i in range(0, n_shared, 2):
        h = phi(h @ flat[i] + flat[i + 1])
    outputs = [h @ flat[i] + flat[i + 1] for i in range(n_shared, len(flat), 2)]
    loss = mse if problem.loss == "mse" else cross_entropy
    return [loss(out, target) for out, target in zip(outputs, problem.targets_in, strict=True)]


def torch_losses(problem: Problem) -> tuple[list[Any], Callable[[Any], list[Any]]] | None:
    """Return the leaves and the losses as a function of them."""
    torch = peer("torch")
    if torch is None:
        return None
    f = peer("torch.nn.functional")
    leaves = [torch.tensor(a, requires_grad=True) for a in problem.flat]
    there = problem.moved(torch.tensor)

    def function(flat: Any) -> list[Any]:
        return losses(there, flat, torch.tanh, torch.relu, f.mse_loss, f.cross_entropy)  # type: ignore[union-attr]

    return leaves, function


def torch_loop(problem: Problem) -> Made:
    """Return a backward pass a loss."""
    found = torch_losses(problem)
    if found is None:
        return None
    torch: Any = peer("torch")
    leaves, function = found

    def call() -> Any:
        L = function(leaves)
        lines = []
        for i, loss in enumerate(L):
            grads = torch.autograd.grad(loss, leaves, retain_graph=i + 1 < len(L), allow_unused=True)
            lines.append(
                torch.cat(
                    [(torch.zeros_like(x) if g is None else g).ravel() for x, g in zip(leaves, grads, strict=True)]
                )
            )
        return torch.stack(lines)

    return call, ""


def torch_vmap(problem: Problem) -> Made:
    """Return one batched backward pass over the K unit vectors."""
    found = torch_losses(problem)
    if found is None:
        return None
    torch: Any = peer("torch")
    leaves, function = found
    units = torch.eye(problem.K, dtype=torch.float64)

    def call() -> Any:
        stacked = torch.stack(function(leaves))
        blocks = torch.autograd.grad(stacked, leaves, units, is_grads_batched=True)
        return torch.cat([block.reshape(problem.K, -1) for block in blocks], dim=1)

    return call, ""


def torchjd(problem: Problem) -> Made:
    """Return TorchJD's `jac`."""
    found, autojac = torch_losses(problem), peer("torchjd.autojac") if peer("torchjd") else None
    if found is None or autojac is None:
        return None
    leaves, function = found
    return lambda: list(autojac.jac(function(leaves), leaves)), ""


def jax_compiled(problem: Problem) -> Made:
    """Return JAX's jacrev, compiled; the note says what compiling took."""
    jax: Any = peer("jax")
    if jax is None:
        return None
    jax.config.update("jax_enable_x64", True)
    jnp: Any = peer("jax.numpy")
    there = problem.moved(jnp.asarray)

    def cross_entropy(z: Any, labels: Any) -> Any:
        return (jax.nn.logsumexp(z, axis=1) - z[jnp.arange(len(labels)), labels]).mean()

    def function(flat: Any) -> Any:
        L = losses(there, flat, jnp.tanh, jax.nn.relu, lambda p, y: ((p - y) ** 2).mean(), cross_entropy)
        return jnp.stack(L)

    flat = [jnp.asarray(a) for a in problem.flat]
    began = time.perf_counter()
    compiled = jax.jit(jax.jacrev(function)).lower(flat).compile()
    note = f"compiled in {time.perf_counter() - began:.2f} s"
    if "eigen=false" not in os.environ.get("XLA_FLAGS", ""):
        note += "; with a pool of its own, of all the threads that the run ever has"
    return lambda: jax.block_until_ready(compiled(flat)), note


def hips_autograd(problem: Problem) -> Made:
    """Return HIPS autograd: one forward pass, and a backward pass a loss."""
    if peer("autograd") is None:
        return None
    anp: Any = peer("autograd.numpy")
    make_vjp: Any = peer("autograd.core").make_vjp  # type: ignore[union-attr]

    def cross_entropy(z: Any, labels: Any) -> Any:
        top = anp.max(z, axis=1, keepdims=True)
        lse = anp.log(anp.sum(anp.exp(z - top), axis=1)) + top[:, 0]
        return anp.mean(lse - z[np.arange(len(labels)), labels])

    def function(flat: Any) -> Any:
        relu = lambda z: anp.maximum(z, 0.0)  # noqa: E731
        return anp.array(losses(problem, flat, anp.tanh, relu, lambda p, y: anp.mean((p - y) ** 2), cross_entropy))

    def call() -> Any:
        vjp, _ = make_vjp(function, list(problem.flat))
        gradients = [vjp(unit) for unit in np.eye(problem.K)]
        return np.stack([np.concatenate([g.ravel() for g in row]) for row in gradients])

    return call, ""


def mygrad_loop(problem: Problem) -> Made:
    """Return mygrad, which forgets a graph once it is differentiated: a forward and a backward pass a loss."""
    mg: Any = peer("mygrad")
    if mg is None:
        return None
    softmax_crossentropy: Any = peer("mygrad.nnet.losses").softmax_crossentropy  # type: ignore[union-attr]
    relu: Any = peer("mygrad.nnet.activations").relu  # type: ignore[union-attr]

    def call() -> Any:
        lines = []
        for task in range(problem.K):
            leaves = [mg.tensor(a) for a in problem.flat]
            one = problem.only(task)
            flat = [*leaves[: 2 * problem.depth], *leaves[2 * (problem.depth + task) :][:2]]
            losses(one, flat, mg.tanh, relu, lambda p, y: ((p - y) ** 2).mean(), softmax_crossentropy)[0].backward()
            lines.append(np.concatenate([(np.zeros(x.shape) if x.grad is None else x.grad).ravel() for x in leaves]))
        return np.stack(lines)

    return call, "a forward pass a loss"


MAKERS = {
    "torch loop": torch_loop,
    "torch vmap": torch_vmap,
    "TorchJD": torchjd,
    "JAX compiled": jax_compiled,
    "autograd": hips_autograd,
    "mygrad": mygrad_loop,
}
