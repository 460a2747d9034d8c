"""The table of derivatives: for each primitive its value, and for each operand what its cotangent is.

A rule takes c = z̄, the cotangents of the T tasks that reach z, (T, *shape of z), then z, the operands, and what
else the primitive was given, and returns x̄, which `unbroadcast` (AD-3) brings to the shape of x. The rules do not
know T: the tasks' axis is the first, and NumPy aligns shapes at the last.

Derivation: derivations/autograd.md.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtlref.notation import Array, ShapeError

Values = NDArray[Any]  # float64, or complex128 under a complex step
Axis = int | tuple[int, ...] | None

# RULES THAT TAKE MORE THAN A LINE

ONE, ZERO = np.ones(()), np.zeros(())  # NumPy takes an array of no axes faster than a number


def times(c: Array, slope: Array) -> Array:
    """Return x̄ = z̄ ∘ f'(x), with an axis for the tasks: one row and its slope have one shape, which is quick."""
    return c * slope[None]


def product(x: Values, y: Values) -> Values:
    """Return x @ y for matrices and stacks of them. Errors: ShapeError for a vector."""
    if x.ndim < 2 or y.ndim < 2:
        raise ShapeError(f"matmul takes matrices; the shapes are {x.shape} and {y.shape}", argument="matmul")
    return np.asarray(x @ y)


def affine(x: Values, y: Values, b: Values) -> Values:
    """Return x @ y + b, as `product` does."""
    return product(x, y) + b


def matmul_left(c: Array, z: Array, x: Array, y: Array, *_: Array) -> Array:
    """AD-6: X̄ = Z̄ Yᵀ, a product (B, m) @ (m, n) a task; further leading axes of X count into B."""
    if y.ndim > 2:
        return np.asarray(c @ y.swapaxes(-1, -2))
    return np.asarray(c.reshape(len(c), -1, y.shape[1]) @ y.T).reshape(*c.shape[:-1], y.shape[0])


def matmul_right(c: Array, z: Array, x: Array, y: Array, *_: Array, out: Array | None = None) -> Array:
    """AD-7: Ȳ = Xᵀ Z̄, a product (n, B) @ (B, m) a task, written into `out` if it is given."""
    if y.ndim > 2:
        return np.asarray(x.swapaxes(-1, -2) @ c)
    return np.matmul(x.reshape(-1, x.shape[-1]).T, c.reshape(len(c), -1, c.shape[-1]), out)


def total(x: Values, axis: Axis, keepdims: bool) -> Values:
    """Return Σ x over one axis, several, or all of them."""
    add: Any = np.add
    return np.asarray(add.reduce(x, axis, keepdims=keepdims))


def squared_error(x: Values, y: Values, each: bool = False) -> Values:
    """Return mean (x − y)², for x and y of one shape; of `each` slice along the first axis its own."""
    d = (x - y).reshape(len(x) if each else 1, -1)
    squares = np.einsum("kn,kn->k", d, d) if each else d @ d[0]
    return np.asarray((squares if each else squares[0]) / d.shape[1])


def slant(c: Array, z: Values, d: Array) -> Array:
    """Return x̄ = z̄ 2 d / n, for z = mean d² over n entries of d."""
    return c.reshape(*c.shape, *[1] * (d.ndim - z.ndim)) * (d * (2 * z.size / d.size))


def summed_axes(x: Values, axis: Axis) -> set[int]:
    """Return the axes of x that a sum over `axis` goes over."""
    return {a % x.ndim for a in (range(x.ndim) if axis is None else np.atleast_1d(axis).tolist())}


def spread(c: Array, x: Array, axis: Axis) -> Array:
    """AD-8: x̄_i = z̄ for z = Σ_i x_i: what the sum receives goes to every summand."""
    summed = summed_axes(x, axis)
    rows = np.empty((len(c), *x.shape))
    rows[...] = c.reshape(len(c), *[1 if i in summed else n for i, n in enumerate(x.shape)])
    return rows


def scatter(c: Array, x: Array, index: Any) -> Array:
    """AD-9: x̄_j = Σ z̄_i over the i that were read from j: entries go back to where they came from."""
    rows = np.zeros((x.size, len(c)))
    origin = np.arange(x.size).reshape(x.shape)[index]
    np.add.at(rows, np.ravel(origin), c.reshape(len(c), -1).T)
    return np.reshape(rows.T, (len(c), *x.shape))


def picked(x: Values, labels: Values) -> Values:
    """Return x[…, b, labels[…, b]]."""
    rows = x.reshape(-1, x.shape[-1])
    return rows[np.arange(len(rows)), labels.ravel()].reshape(labels.shape)


def drop(c: Array, x: Array, labels: Values) -> Array:
    """Return x̄ = z̄ at x[…, b, labels[…, b]] and 0 elsewhere (AD-9), for z = picked of x: no entry was read twice."""
    rows = np.zeros((len(c), labels.size, x.shape[-1]))
    rows[:, np.arange(labels.size), labels.ravel()] = c.reshape(len(c), -1)
    return rows.reshape(len(c), *x.shape)


def log_sum_exp(x: Values, axis: Axis, keepdims: bool) -> Values:
    """AD-10: z = log Σ e^x, with the largest entry taken out first, so that no exponential overflows."""
    top = np.max(x.real, axis, keepdims=True)
    z = top + np.log(np.sum(np.exp(x - top), axis, keepdims=True))
    return np.asarray(z if keepdims else np.squeeze(z, axis))


def shares(x: Values, axis: int) -> Values:
    """AD-11: z = e^x / Σ e^x, with the largest entry taken out first, so that no exponential overflows."""
    e = np.exp(x - np.max(x.real, axis, keepdims=True))
    return np.asarray(e / np.sum(e, axis, keepdims=True))


def logistic(x: Values) -> Values:
    """Return 1 / (1 + e^−x) from the exponential that cannot overflow, right to rounding on both sides."""
    e = np.exp(np.where(x.real < 0, x, -x))
    return np.where(x.real < 0, e, 1.0) / (1.0 + e)


def soft_relu(x: Values) -> Values:
    """Return log(1 + e^x) from the exponential that cannot overflow."""
    return np.maximum(x, 0.0) + np.log1p(np.exp(np.where(x.real < 0, x, -x)))


def cut(c: Array, x: Array, axis: int) -> list[Array]:
    """AD-12: (x̄, ȳ) = z̄, cut where x and y were joined along the axis."""
    return np.split(c, [x.shape[axis]], axis % x.ndim + 1)


# THE TABLE

RULES: dict[str, tuple[Callable[..., Any], ...]] = {
    "parameter": (np.array,),
    "stack": (np.stack,),  # AD-13
    "add": (operator.add, lambda c, z, x, y: c, lambda c, z, x, y: c),
    "subtract": (operator.sub, lambda c, z, x, y: c, lambda c, z, x, y: -c),
    "multiply": (operator.mul, lambda c, z, x, y: times(c, y), lambda c, z, x, y: times(c, x)),
    "divide": (operator.truediv, lambda c, z, x, y: c / y, lambda c, z, x, y: times(c, -z / y)),
    "matmul": (product, matmul_left, matmul_right),
    "affine": (affine, matmul_left, matmul_right, lambda c, z, x, y, b: c),
    "squared_error": (
        squared_error,
        lambda c, z, x, y, *_: slant(c, z, x - y),
        lambda c, z, x, y, *_: slant(c, z, y - x),
    ),
    "power": (operator.pow, lambda c, z, x, p: times(c, p * x ** (p - 1) if p else 0 * x)),
    "negative": (operator.neg, lambda c, z, x: -c),
    "exp": (np.exp, lambda c, z, x: times(c, z)),
    "log": (np.log, lambda c, z, x: c / x),
    "sqrt": (np.sqrt, lambda c, z, x: c / (2 * z)),
    "tanh": (np.tanh, lambda c, z, x: times(c, ONE - z * z)),
    "sigmoid": (logistic, lambda c, z, x: times(c, z * logistic(-x))),
    "softplus": (soft_relu, lambda c, z, x: times(c, logistic(x))),
    "relu": (lambda x: np.maximum(x, ZERO), lambda c, z, x: times(c, np.sign(z))),  # AD-C1
    "absolute": (np.abs, lambda c, z, x: times(c, np.sign(x))),  # AD-C2
    "sum": (total, lambda c, z, x, a, k: spread(c, x, a)),
    "mean": (
        lambda x, a, k: (z := total(x, a, k)) / (x.size / z.size),
        lambda c, z, x, a, k: spread(c / (x.size / z.size), x, a),
    ),
    # AD-10, where e^(x − z) is the share of x in the sum, and AD-11, where z is
    "logsumexp": (log_sum_exp, lambda c, z, x, a, k: spread(c, x, a) * np.exp(x - spread(z[None], x, a))),
    "softmax": (shares, lambda c, z, x, a: z * (c - np.sum(z * c, a % z.ndim + 1, keepdims=True))),
    "reshape": (np.reshape, lambda c, z, x, shape: c.reshape(len(c), *x.shape)),
    "transpose": (np.transpose, lambda c, z, x, axes: c.transpose(0, *1 + np.argsort(np.mod(axes, z.ndim)))),
    "getitem": (operator.getitem, lambda c, z, x, index: scatter(c, x, index)),
    "pick": (picked, lambda c, z, x, labels: drop(c, x, labels)),
    "join": (np.append, lambda c, z, x, y, a: cut(c, x, a)[0], lambda c, z, x, y, a: cut(c, x, a)[1]),
}
"""AD-4: x̄ = z̄ ∂z/∂x, one line a primitive: its name, z of its operands, then x̄ (and ȳ) of c = z̄.

c is (T, *shape of z), and what comes after the operands (an axis, an exponent) is a constant option.
At the kinks, AD-C1: the derivative of relu at 0 is 0, and AD-C2: the derivative of |x| at 0 is 0.
"""

PRODUCTS = frozenset({"matmul", "affine", "squared_error"})
"""Sums of products, made by BLAS, maybe in other threads, or by `einsum`: NumPy does not see their overflow."""

ELEMENTWISE = frozenset(RULES) & frozenset(
    "add subtract multiply divide power negative exp log sqrt tanh sigmoid softplus relu absolute".split()  # noqa: SIM905
)
"""The primitives whose every entry is made of one entry of each operand."""


def keeps_apart(op: str, z: Values, given: Sequence[Any]) -> bool:
    """Say whether slice i of z, (K, …), is made of slice i alone of the operands with that first axis.

    These are the arrays with as many axes as z or more; an operand with fewer is repeated along it.
    """
    if any([len(a) != len(z) for a in given if isinstance(a, np.ndarray) and a.ndim >= z.ndim]):
        return False
    if op in ("matmul", "affine"):
        return bool(given[1].ndim > 2)
    if op in ("sum", "mean", "logsumexp", "softmax"):
        return 0 not in summed_axes(given[0], given[1])
    return op in ELEMENTWISE or op in ("parameter", "stack", "pick", "squared_error")  # the last of `each` task
