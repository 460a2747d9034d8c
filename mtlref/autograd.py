"""Reverse mode for K losses at once: the tape, the table of derivatives, and one sweep.

A computation on tensors records, for every value, the primitive that made it and its parents. To
differentiate, the recording is swept from the losses back to the parameters (`jacobian`, AD-1): each
node turns its own cotangent z̄ = ∂L/∂z into those of its parents by the rule of its primitive, read
from the table `RULES`, and a node that was used several times adds what it is sent (`accumulate`, AD-2).

The one idea beyond a textbook tape is that **a cotangent has a row for each task that reaches its node**:
its shape is (T, *shape), for the T tasks named beside it. A head carries the one row of its own task. Where
K heads meet the rows are stacked, and below that point a single sweep computes all K gradients, with one
product (T·B, m) @ (m, n) where K separate sweeps would make K small ones. The tasks' axis comes first, so
broadcasting aligns it with nothing: the rule of tanh is `c * (1 - z * z)` for one row and for forty.
Values are float64 and read-only. A constant may be complex, for differentiation by complex step.
"""

from __future__ import annotations

import cmath
import copy
import functools
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mtlref.notation import Array, MtlrefError, NonFiniteError, ShapeError

Values = NDArray[Any]  # float64, or complex128 under a complex step


class MissingRuleError(MtlrefError, TypeError):
    """A tensor met a function, or an argument of a primitive, that the table has no derivative for."""


# THE TAPE


def operation(op: str) -> tuple[Callable[[Tensor, Operand], Tensor], Callable[[Tensor, Operand], Tensor]]:
    """Return the methods of a binary operator, with the tensor on its left and on its right."""
    return lambda x, y: apply(op, x, y), lambda y, x: apply(op, x, y)


class Tensor:
    """A value on the tape: what it is, which primitive made it, and from what.

    Arithmetic, indexing and the NumPy functions that the table knows (`np.tanh(x)`, `array @ x`) record
    further tensors; any other NumPy function is an error. `tracked`: does a parameter lie behind it?
    """

    __slots__ = ("op", "options", "parents", "tracked", "value")

    def __init__(
        self, op: str, value: Values, parents: tuple[Tensor, ...] = (), options: tuple[Any, ...] = ()
    ) -> None:
        value.flags.writeable = False
        self.op, self.value, self.parents, self.options = op, value, parents, options
        self.tracked = op == "parameter" or bool(parents)

    def __repr__(self) -> str:
        return f"Tensor({self.op}, {self.value!r})"

    shape = property(lambda self: self.value.shape)
    T = property(lambda self: self.transpose(range(self.value.ndim)[::-1]))

    __add__, __radd__ = operation("add")
    __sub__, __rsub__ = operation("subtract")
    __mul__, __rmul__ = operation("multiply")
    __truediv__, __rtruediv__ = operation("divide")
    __matmul__, __rmatmul__ = operation("matmul")
    __pow__, __rpow__ = operation("power")

    def __neg__(self) -> Tensor:
        return apply("negative", self)

    def __getitem__(self, index: Any) -> Tensor:
        return apply("getitem", self, copy.deepcopy(index))

    def sum(self, axis: Axis = None, keepdims: bool = False) -> Tensor:
        return apply("sum", self, axis, keepdims)

    def mean(self, axis: Axis = None, keepdims: bool = False) -> Tensor:
        return apply("mean", self, axis, keepdims)

    def reshape(self, shape: tuple[int, ...]) -> Tensor:
        return apply("reshape", self, shape)

    def transpose(self, axes: Sequence[int]) -> Tensor:
        return apply("transpose", self, axes)

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *arguments: Any, **options: Any) -> Tensor:
        plain = method == "__call__" and not options
        return apply(ufunc.__name__ if plain else f"numpy.{ufunc.__name__}.{method}", *arguments)

    def __array_function__(self, function: Callable[..., Any], *_: Any) -> Tensor:
        return apply(f"numpy.{function.__name__}")


Operand = Tensor | ArrayLike
Axis = int | tuple[int, ...] | None


def leaf(op: str, value: ArrayLike, kinds: str) -> Tensor:
    """Return a tensor without parents that holds a finite float64 or complex128 copy of `value`."""
    raw = np.asarray(value)
    if raw.dtype.kind not in kinds:
        raise ShapeError(f"a {op} holds numbers; the type of this one is {raw.dtype}", argument=op)
    array = np.array(raw, np.complex128 if raw.dtype.kind == "c" else np.float64)
    if not finite(array):
        raise not_finite(f"a {op} holds", array, op)
    return Tensor(op, array)


def parameter(array: ArrayLike) -> Tensor:
    """Return a tensor that losses can be differentiated by; the real `array` is copied."""
    return leaf("parameter", array, "fiub")


def constant(array: ArrayLike) -> Tensor:
    """Return a tensor whose derivative is not asked for; `array` is copied, and may be complex."""
    return leaf("constant", array, "fiubc")


def stop_gradient(x: Operand) -> Tensor:
    """AD-5: z = x and x̄ = 0: the value passes, and nothing flows back."""
    return Tensor("stop_gradient", x.value if isinstance(x, Tensor) else constant(x).value)


def apply(op: str, *arguments: Any) -> Tensor:
    """Return the tensor that the primitive `op` makes of its operands and, after them, its options.

    Errors: MissingRuleError without a rule for `op` or for a tensor among the options, NonFiniteError.
    """
    forward, *partials = RULES.get(op, (None,))
    options = arguments[(arity := len(partials)) :]
    if forward is None or Tensor in map(type, options):
        where = f" with a tensor as argument {arity}" if forward else ""
        raise MissingRuleError(f"the table has no rule for {op}{where}", argument=op)
    parents = tuple([x if type(x) is Tensor else constant(x) for x in arguments[:arity]])
    with np.errstate(all="ignore"):
        value = np.asarray(forward(*[x.value for x in parents], *options))
        if not finite(value):
            raise not_finite(f"{op} gives", value, op)
    if any([x.tracked for x in parents]):
        return Tensor(op, value, parents, options)
    return Tensor("constant", value)


def finite(array: Values) -> bool:
    """Say whether every entry is finite: ‖a‖² is, or, where that overflows, each one by itself."""
    return cmath.isfinite(np.vdot(array, array)) or bool(np.isfinite(array).all())


def not_finite(what: str, values: Values, op: str, task: int | None = None) -> NonFiniteError:
    """Return the error that names the primitive and the first entry that is not finite."""
    at = tuple(int(i) for i in np.argwhere(~np.isfinite(values))[0])
    message = f"{what} {values[at]} at {list(at)} of its shape {values.shape}"
    return NonFiniteError(message, argument=op, task=task, value=values[at].item())


# THE SWEEP

Sent = tuple[tuple[int, ...], Array, str]  # by one use of a node: tasks, a row for each, the primitive


@dataclass(frozen=True, eq=False)
class Jacobian:
    """`matrix` (K, D): row i is the gradient of loss i; `blocks`: its views, one a parameter, (K, *shape)."""

    matrix: Array
    blocks: tuple[Array, ...]


def jacobian(losses: Sequence[Tensor], parameters: Sequence[Tensor]) -> Jacobian:
    """AD-1: x̄ = Σ_z z̄ ∂z/∂x, from the losses, where L̄_i = 1, back to the parameters.

    The columns are the parameters raveled in C order, one after another; any tensor with a parameter behind
    it will do as one. A loss that does not depend on a parameter has an exact zero there.
    Errors: ShapeError (a loss that is not a real scalar), MtlrefError, NonFiniteError (primitive and task).
    """
    check(losses, parameters)
    ends = np.cumsum([0] + [x.value.size for x in parameters]).tolist()
    columns = {x: slice(*ends[i : i + 2]) for i, x in enumerate(parameters)}
    matrix = np.zeros((len(losses), ends[-1]))
    sent: dict[Tensor, list[Sent]] = {x: [] for x in between(losses, columns)}
    for task, loss in enumerate(losses):
        sent.get(loss, []).append(((task,), np.ones(1), "loss"))
    with np.errstate(all="ignore"):
        while sent:
            node, contributions = sent.popitem()
            tasks, c = accumulate(contributions)
            if node in columns:
                matrix[list(tasks), columns[node]] = c.reshape(len(tasks), -1)
            for x, partial in zip(node.parents, RULES[node.op][1:], strict=True):
                if x in sent:
                    rows = partial(c, node.value, *[y.value for y in node.parents], *node.options)
                    sent[x].append((tasks, unbroadcast(rows, x.shape), node.op))
    return Jacobian(matrix, tuple(matrix[:, columns[x]].reshape(len(losses), *x.shape) for x in parameters))


def value_and_jacobian(
    function: Callable[[tuple[Tensor, ...]], Sequence[Tensor]], parameters: Sequence[ArrayLike]
) -> tuple[Array, Jacobian]:
    """Return the K losses that `function` makes of the parameters' tensors, (K,), and their Jacobian."""
    leaves = tuple(parameter(array) for array in parameters)
    losses = function(leaves)
    result = jacobian(losses, leaves)
    return np.array([loss.value for loss in losses]), result


def check(losses: Sequence[Tensor], parameters: Sequence[Tensor]) -> None:
    """Raise unless the losses are real scalar tensors, and the parameters different tracked ones."""
    for task, loss in enumerate(losses):
        if not isinstance(loss, Tensor) or loss.shape != () or loss.value.dtype != np.float64:
            message = f"losses[{task}] must be a real scalar tensor; it is {loss!r}"
            raise ShapeError(message, argument="losses", task=task, value=loss)
    for i, x in enumerate(parameters):
        if not isinstance(x, Tensor) or not x.tracked or x in parameters[:i]:
            raise MtlrefError(f"parameters[{i}] is none, or given twice: {x!r}", argument="parameters")


def between(losses: Sequence[Tensor], parameters: dict[Tensor, slice]) -> list[Tensor]:
    """Return, parents first, the nodes that lead from a parameter to a loss."""
    leads: dict[Tensor, bool] = {}
    stack = list(losses)
    while stack:
        node = stack[-1]
        ahead = [x for x in node.parents if x.tracked and x not in leads]
        if ahead:
            stack.extend(ahead)
        else:
            stack.pop()
            leads[node] = node in parameters or any([leads.get(x) for x in node.parents])
    return [node for node, leading in leads.items() if leading]


def accumulate(sent: list[Sent]) -> tuple[tuple[int, ...], Array]:
    """AD-2: x̄ = Σ (what each use of x sends back), task by task: the tasks in order, and a row for each."""
    tasks, rows, op = sent[0]
    if len(sent) > 1:
        tasks = tuple(sorted({task for part in sent for task in part[0]}))
        rows = np.zeros((len(tasks), *rows.shape[1:]))
        for some, part, _ in sent:
            block = slice(first := tasks.index(some[0]), first + len(some))
            rows[block if tasks[block] == some else [tasks.index(task) for task in some]] += part
    if not finite(rows):
        tasks, rows, op = next((part for part in sent if not finite(part[1])), (tasks, rows, "a shared node"))
        task = tasks[np.argwhere(~np.isfinite(rows))[0][0]]
        raise not_finite(f"the derivative of {op} gives, for task {task},", rows, op, task)
    return tasks, rows


def unbroadcast(c: Array, shape: tuple[int, ...]) -> Array:
    """AD-3: x̄ = Σ z̄ over the axes that broadcasting x to the shape of z added or stretched."""
    if c.shape[1:] == shape:
        return c
    added = c.ndim - 1 - len(shape)
    stretched = [i for i, n in enumerate(shape, 1 + added) if n == 1]
    return np.reshape(np.add.reduce(c, axis=(*range(1, 1 + added), *stretched)), (len(c), *shape))


# RULES THAT TAKE MORE THAN A LINE


def product(x: Values, y: Values) -> Values:
    """Return x @ y for matrices and stacks of them. Errors: ShapeError for a vector."""
    if x.ndim < 2 or y.ndim < 2:
        raise ShapeError(f"matmul takes matrices; the shapes are {x.shape} and {y.shape}", argument="matmul")
    return np.asarray(x @ y)


def matmul_left(c: Array, z: Array, x: Array, y: Array) -> Array:
    """AD-6: X̄ = Z̄ Yᵀ, for all tasks in one product (T·B, m) @ (m, n)."""
    if y.ndim > 2:
        return np.asarray(c @ y.swapaxes(-1, -2))
    return np.reshape(c.reshape(-1, y.shape[1]) @ y.T, (*c.shape[:-1], y.shape[0]))


def matmul_right(c: Array, z: Array, x: Array, y: Array) -> Array:
    """AD-7: Ȳ = Xᵀ Z̄, a product (n, B) @ (B, m) a task; further leading axes of X count into B."""
    if y.ndim == 2:
        x, c = x.reshape(-1, x.shape[-1]), c.reshape(len(c), -1, c.shape[-1])
    return np.asarray(x.swapaxes(-1, -2) @ c)


def spread(c: Array, x: Array, axis: Axis) -> Array:
    """AD-8: x̄_i = z̄ for z = Σ_i x_i: what the sum receives goes to every summand."""
    summed = range(x.ndim) if axis is None else {a % x.ndim for a in np.atleast_1d(axis)}
    kept = [1 if i in summed else n for i, n in enumerate(x.shape)]
    return np.broadcast_to(c.reshape(len(c), *kept), (len(c), *x.shape))


def scatter(c: Array, x: Array, index: Any) -> Array:
    """AD-9: x̄_j = Σ z̄_i over the i that were read from j: entries go back to where they came from."""
    rows = np.zeros((x.size, len(c)))
    origin = np.arange(x.size).reshape(x.shape)[index]
    np.add.at(rows, np.ravel(origin), c.reshape(len(c), -1).T)
    return np.reshape(rows.T, (len(c), *x.shape))


def log_sum_exp(x: Values, axis: Axis, keepdims: bool) -> Values:
    """Return log Σ e^x with the largest entry taken out first, so that no exponential overflows."""
    top = np.max(x.real, axis, keepdims=True)
    z = top + np.log(np.sum(np.exp(x - top), axis, keepdims=True))
    return np.asarray(z if keepdims else np.squeeze(z, axis))


def shares(x: Values, axis: int) -> Values:
    """Return e^x / Σ e^x with the largest entry taken out first, so that no exponential overflows."""
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
    "add": (operator.add, lambda c, z, x, y: c, lambda c, z, x, y: c),
    "subtract": (operator.sub, lambda c, z, x, y: c, lambda c, z, x, y: -c),
    "multiply": (operator.mul, lambda c, z, x, y: c * y, lambda c, z, x, y: c * x),
    "divide": (operator.truediv, lambda c, z, x, y: c / y, lambda c, z, x, y: c * (-z / y)),
    "matmul": (product, matmul_left, matmul_right),
    "power": (operator.pow, lambda c, z, x, p: c * (p * x ** (p - 1) if p else 0 * x)),
    "negative": (operator.neg, lambda c, z, x: -c),
    "exp": (np.exp, lambda c, z, x: c * z),
    "log": (np.log, lambda c, z, x: c / x),
    "sqrt": (np.sqrt, lambda c, z, x: c / (2 * z)),
    "tanh": (np.tanh, lambda c, z, x: c * (1 - z * z)),
    "sigmoid": (logistic, lambda c, z, x: c * (z * logistic(-x))),
    "softplus": (soft_relu, lambda c, z, x: c * logistic(x)),
    "relu": (lambda x: np.maximum(x, 0), lambda c, z, x: c * (x > 0)),  # AD-C1
    "absolute": (np.abs, lambda c, z, x: c * np.sign(x)),  # AD-C2
    "sum": (lambda x, a, k: np.sum(x, a, keepdims=k), lambda c, z, x, a, k: spread(c, x, a)),
    "mean": (
        lambda x, a, k: np.mean(x, a, keepdims=k),
        lambda c, z, x, a, k: spread(c * z.size / x.size, x, a),
    ),
    # AD-10, where e^(x − z) is the share of x in the sum, and AD-11, where z is
    "logsumexp": (log_sum_exp, lambda c, z, x, a, k: spread(c, x, a) * np.exp(x - spread(z[None], x, a))),
    "softmax": (shares, lambda c, z, x, a: z * (c - np.sum(z * c, a % z.ndim + 1, keepdims=True))),
    "reshape": (np.reshape, lambda c, z, x, shape: c.reshape(len(c), *x.shape)),
    "transpose": (np.transpose, lambda c, z, x, axes: c.transpose(0, *1 + np.argsort(np.mod(axes, z.ndim)))),
    "getitem": (operator.getitem, lambda c, z, x, index: scatter(c, x, index)),
    "join": (np.append, lambda c, z, x, y, a: cut(c, x, a)[0], lambda c, z, x, y, a: cut(c, x, a)[1]),
}
"""AD-4: x̄ = z̄ ∂z/∂x, one line a primitive: its name, z of its operands, then x̄ (and ȳ) of c = z̄.

c is (T, *shape of z), and what comes after the operands (an axis, an exponent) is a constant option.
At the kinks, AD-C1: the derivative of relu at 0 is 0, and AD-C2: the derivative of |x| at 0 is 0.
"""

# THE PRIMITIVES AS FUNCTIONS (the others are operators and methods of a tensor)

matmul: Callable[[Operand, Operand], Tensor] = functools.partial(apply, "matmul")
exp: Callable[[Operand], Tensor] = functools.partial(apply, "exp")
log: Callable[[Operand], Tensor] = functools.partial(apply, "log")
sqrt: Callable[[Operand], Tensor] = functools.partial(apply, "sqrt")
tanh: Callable[[Operand], Tensor] = functools.partial(apply, "tanh")
sigmoid: Callable[[Operand], Tensor] = functools.partial(apply, "sigmoid")
softplus: Callable[[Operand], Tensor] = functools.partial(apply, "softplus")
relu: Callable[[Operand], Tensor] = functools.partial(apply, "relu")
absolute: Callable[[Operand], Tensor] = functools.partial(apply, "absolute")


def logsumexp(x: Operand, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """Return log Σ e^x over one axis, several, or all of them, without overflow."""
    return apply("logsumexp", x, axis, keepdims)


def softmax(x: Operand, axis: int = -1) -> Tensor:
    """Return e^x / Σ e^x along an axis, without overflow."""
    return apply("softmax", x, axis)


def concatenate(parts: Sequence[Tensor], axis: int = 0) -> Tensor:
    """Return the parts joined along an axis."""
    return functools.reduce(lambda x, y: apply("join", x, y, axis), parts)


def pick(x: Operand, labels: ArrayLike) -> Tensor:
    """Return x[b, labels[b]] for every row b of a (B, C) matrix, (B,)."""
    return apply("getitem", x, (np.arange(np.size(labels)), np.array(labels)))
