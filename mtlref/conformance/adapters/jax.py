"""JAX: problems as functions of parameters, and live networks as pure functions.

    def step(problem, state):
        losses, (shared, heads) = scalar_losses(problem)
        J = flat_rows(jax.jacrev(losses)(shared, heads))      # (K, D), as the code under judgement makes it
        …

JAX computes in float32 unless `jax_enable_x64` is set; with dtype "float64" the adapters refuse to go on without it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from mtlref.conformance.live import Live
from mtlref.conformance.problem import Problem
from mtlref.notation import DomainError, MissingExtraError

try:
    import jax
    from jax import numpy as jnp
except ImportError as error:
    raise MissingExtraError("mtlref.conformance.adapters.jax needs jax: pip install 'mtlref[jax]'") from error

Parameters = tuple[Any, Any]
"""The shared parameters, a tuple of arrays, and the heads' own."""


def array(values: Any, dtype: str) -> Any:
    """Return an array of that type. Errors: DomainError if JAX is not set to compute in float64."""
    if dtype == "float64" and not jax.config.jax_enable_x64:
        message = "JAX makes float32 of float64: jax.config.update('jax_enable_x64', True), or dtype='float32'"
        raise DomainError(message, argument="dtype", value=dtype)
    return jnp.asarray(np.asarray(values), dtype=dtype)


def flat(tree: Any) -> Any:
    """Return the arrays of a tree raveled in C order, one after another, as one vector."""
    return jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree_util.tree_leaves(tree)])


def flat_rows(tree: Any) -> Any:
    """Return the arrays (K, …) of a tree, as `jax.jacrev` returns them, as one matrix (K, D)."""
    leaves = jax.tree_util.tree_leaves(tree)
    return jnp.concatenate([leaf.reshape(len(leaf), -1) for leaf in leaves], axis=1)


# SCALAR LOSSES


def scalar_losses(problem: Problem, dtype: str = "float64") -> tuple[Callable[[Any, Any], Any], Parameters]:
    """Return a function of the parameters that gives the K losses, (K,), and the parameters to evaluate it at.

    `losses(shared, heads)` is L_i + g_i · (θ − θ₀) + (φ_i − φ_i0): θ is `shared`, two matrices and a bias; φ_i is
    `heads[i]`, so the gradient by it is the weight of head i.
    """
    K, D = problem.jacobian.shape
    third = D // 3
    shapes = [shape for shape in ((third, 1), (1, third), (D - 2 * third,)) if 0 not in shape]
    start = tuple(array(np.ones(shape), dtype) for shape in shapes)
    heads = array(np.ones(K), dtype)
    L, J = array(problem.losses, dtype), array(problem.jacobian, dtype)

    def losses(shared: Any, own: Any) -> Any:
        return L + J @ (flat(shared) - flat(start)) + (own - heads)

    return losses, (start, heads)


def observed(shared: Any, heads: Any) -> dict[str, Any]:
    """Return `direction` (D,) and `head_weights` (K,) from the gradients by the parameters of `scalar_losses`."""
    return {"direction": flat(shared), "head_weights": heads}


# LIVE NETWORKS


def network(live: Live, dtype: str = "float64") -> tuple[Callable[[Any, Any], Any], Parameters]:
    """Return a function of the parameters that gives the K losses of the batch, (K,), and the parameters.

    `losses(shared, heads)`: `shared` is the trunk's W, b, W, b, `heads` a (W, b) for each task.
    """
    shared = tuple(array(values, dtype) for values in live.shared)
    heads = tuple(tuple(array(values, dtype) for values in head) for head in live.heads)
    x = array(live.x, dtype)
    targets = [t if t.dtype.kind == "i" else array(t, dtype) for t in live.targets]
    phi = {"tanh": jnp.tanh, "relu": jax.nn.relu}[live.network.activation]

    def losses(trunk: Sequence[Any], tops: Sequence[Sequence[Any]]) -> Any:
        h = x
        for W, b in zip(trunk[::2], trunk[1::2], strict=True):
            h = phi(h @ W + b)
        outputs = [h @ W + b for W, b in tops]
        return jnp.stack([LOSSES[kind](y, t) for kind, y, t in zip(live.kinds, outputs, targets, strict=True)])

    return losses, (shared, heads)


def own_heads(tree: Sequence[Any]) -> Any:
    """Return each task's gradient of its own head, of what `jax.jacrev` returns for the heads, as one vector."""
    return jnp.concatenate([flat([leaf[i] for leaf in head]) for i, head in enumerate(tree)])


def cross_entropy(logits: Any, labels: Any) -> Any:
    """Return the mean of −log of the labels' shares."""
    shares = jax.nn.log_softmax(logits, axis=1)
    return -jnp.mean(jnp.take_along_axis(shares, jnp.asarray(labels)[:, None], axis=1))


LOSSES: dict[str, Callable[[Any, Any], Any]] = {
    "mse": lambda y, t: jnp.mean((y - t) ** 2),
    "absolute": lambda y, t: jnp.mean(jnp.abs(y - t)),
    "cross-entropy": cross_entropy,
}
"""JAX losses by the kinds of a live problem."""
