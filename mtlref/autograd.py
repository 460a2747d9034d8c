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
import contextvars
import copy
import functools
import itertools
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mtlref.notation import Array, MtlrefError, NonFiniteError, ShapeError, count

Values = NDArray[Any]  # float64, or complex128 under a complex step
R = TypeVar("R")


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

    __slots__ = ("number", "op", "options", "parents", "tracked", "value")

    def __init__(
        self, op: str, value: Values, parents: tuple[Tensor, ...] = (), options: tuple[Any, ...] = ()
    ) -> None:
        value.setflags(False)
        self.op, self.value, self.parents, self.options = op, value, parents, options
        self.tracked = op == "parameter" or bool(parents)
        self.number = next(NUMBERS)

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
    if not quietly(finite, array):
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
    rule = RULES.get(op, ())
    parents, values, tracked = [], [], False
    for x in arguments[: (arity := len(rule) - 1)]:
        x = x if type(x) is Tensor else constant(x)
        parents.append(x)
        values.append(x.value)
        tracked = tracked or x.tracked
    options = arguments[arity:]
    if not rule or (options and Tensor in map(type, options)):
        where = f" with a tensor as argument {arity}" if rule else ""
        raise MissingRuleError(f"the table has no rule for {op}{where}", argument=op)
    value = quietly(evaluate, op, rule[0], *values, *options)
    return Tensor(op, value, tuple(parents), options) if tracked else Tensor("constant", value)


def evaluate(op: str, forward: Callable[..., Values], *arguments: Any) -> Values:
    """Return the value of a primitive. Errors: NonFiniteError."""
    value = np.asarray(forward(*arguments))
    if op not in STEADY and not finite(value):
        raise not_finite(f"{op} gives", value, op)
    return value


def quietly(function: Callable[..., R], *arguments: Any) -> R:
    """Return function(*arguments) without a warning of NumPy's: what is not finite becomes an error of ours."""
    if SILENCE is not None:
        return SILENCE.copy().run(function, *arguments)
    with np.errstate(all="ignore"):
        return function(*arguments)


def silence() -> contextvars.Context | None:
    """Return a context in which NumPy warns of nothing; None before NumPy 2, which keeps that a thread."""
    if np.lib.NumpyVersion(np.__version__) < "2.0.0":
        return None
    context = contextvars.copy_context()
    context.run(np.seterr, all="ignore")
    return context


NUMBERS = itertools.count()  # of the tensors: a parent's is below its child's
NUMBER, VALUE, FIRST = operator.attrgetter("number"), operator.attrgetter("value"), operator.itemgetter(0)
SILENCE = silence()  # entering it costs a tenth of entering np.errstate


def finite(array: Values) -> bool:
    """Say whether every entry is finite: Σ a² is, or, where that overflows, each one by itself."""
    flat = array.ravel()
    return cmath.isfinite(flat.dot(flat)) or bool(np.isfinite(array).all())


def not_finite(what: str, values: Values, op: str, task: int | None = None) -> NonFiniteError:
    """Return the error that names the primitive and the first entry that is not finite."""
    at = tuple(int(i) for i in np.argwhere(~np.isfinite(values))[0])
    message = f"{what} {values[at]} at {list(at)} of its shape {values.shape}"
    return NonFiniteError(message, argument=op, task=task, value=values[at].item())


# THE SWEEP

Sent = tuple[tuple[int, ...], Array]  # by one use of a node: its tasks, and a row of cotangents for each
BLOCK = 2**17  # numbers, 1 MiB: the cotangents of a layer that the sweep carries at once stay in the cache


@dataclass(frozen=True, eq=False)
class Jacobian:
    """`matrix` (K, D): row i is the gradient of loss i; `blocks`: its views, one a parameter, (K, *shape)."""

    matrix: Array
    blocks: tuple[Array, ...]


def jacobian(losses: Sequence[Tensor], parameters: Sequence[Tensor], chunk: int | None = None) -> Jacobian:
    """AD-1: x̄ = Σ_z z̄ ∂z/∂x, from the losses, where L̄_i = 1, back to the parameters.

    The columns are the parameters raveled in C order, one after another; any tensor with a parameter behind
    it will do as one. A loss that does not depend on a parameter has an exact zero there. The tasks are swept in
    blocks of `chunk`, by default as many as 1 MiB holds of the largest cotangent: that bounds the memory, and
    changes no bit of the result.
    Errors: ShapeError (a loss that is not a real scalar), MtlrefError, NonFiniteError (primitive and task).
    """
    check(losses, parameters)
    ends = np.cumsum([0] + [x.value.size for x in parameters]).tolist()
    columns = {x: slice(*ends[i : i + 2]) for i, x in enumerate(parameters)}
    matrix = np.empty((len(losses), ends[-1]))
    nodes = between(losses, columns)
    largest = max([x.value.size for x in nodes if x.parents], default=1)
    size = max(1, BLOCK // largest) if chunk is None else count("chunk", chunk)
    with np.errstate(all="ignore"):
        for first in range(0, len(losses), size):
            block = range(len(losses))[first : first + size]
            sweep(losses, block, nodes, {x: matrix[first : block.stop, columns[x]] for x in columns})
    return Jacobian(matrix, tuple(matrix[:, columns[x]].reshape(len(losses), *x.shape) for x in parameters))


def sweep(losses: Sequence[Tensor], block: range, nodes: Sequence[Tensor], targets: dict[Tensor, Array]) -> None:
    """Write the gradients of a block of the losses into `targets`: for each parameter (len(block), its size)."""
    sent: dict[Tensor, list[Sent]] = {x: [] for x in nodes}
    for task in block:
        sent.get(losses[task], []).append(((task,), np.ones(1)))
    unreached = set(targets)
    while sent:
        node, contributions = sent.popitem()
        if not contributions:
            continue
        tasks, c = accumulate(contributions)
        if node in targets:
            unreached.remove(node)
            place(targets[node], [task - block.start for task in tasks], c)
        op, parents = node.op, node.parents
        for x, partial in zip(parents, RULES[op][1:], strict=True):
            if x not in sent:
                continue
            if partial is matmul_right and x in targets and x.value.ndim == 2 and not sent[x] and len(tasks) == len(block):
                rows = matmul_right(c, node.value, *map(VALUE, parents), out=targets[x])
            else:
                rows = partial(c, node.value, *map(VALUE, parents), *node.options)
            if rows.shape[1:] != x.value.shape:
                rows = unbroadcast(rows, x.value.shape)
            if rows is not c and op not in STEADY:
                known_finite(rows, tasks, op)
            sent[x].append((tasks, rows))
    for x in unreached:
        targets[x][...] = 0.0


def place(target: Array, rows: list[int], c: Array) -> None:
    """Write `c` into these rows of `target`, and zeros into the others; a product written there stays."""
    if c.base is not target.base:
        if len(rows) < len(target):
            target[...] = 0.0
        target[rows if len(rows) > 1 else rows[0]] = c.reshape(len(rows), -1)


def value_and_jacobian(
    function: Callable[[tuple[Tensor, ...]], Sequence[Tensor]],
    parameters: Sequence[ArrayLike],
    chunk: int | None = None,
) -> tuple[Array, Jacobian]:
    """Return the K losses that `function` makes of the parameters' tensors, (K,), and their Jacobian."""
    leaves = tuple(parameter(array) for array in parameters)
    losses = function(leaves)
    result = jacobian(losses, leaves, chunk)
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
    stack = [loss for loss in losses if loss.tracked]
    behind = set(stack)
    while stack:
        ahead = {x for x in stack.pop().parents if x.tracked and x not in behind}
        behind |= ahead
        stack.extend(ahead)
    leads: dict[Tensor, None] = {}
    for node in sorted(behind, key=NUMBER):
        if node in parameters or any([x in leads for x in node.parents]):
            leads[node] = None
    return list(leads)


def accumulate(sent: list[Sent]) -> Sent:
    """AD-2: x̄ = Σ (what each use of x sends back), task by task: the tasks in order, and a row for each."""
    if len(sent) == 1:
        return sent[0]
    parts = sorted(sent, key=FIRST)
    if all([one[0][-1] < other[0][0] for one, other in itertools.pairwise(parts)]):
        return tuple([task for part in parts for task in part[0]]), np.concatenate([part[1] for part in parts])
    tasks = tuple(sorted({task for part in sent for task in part[0]}))
    rows = np.full((len(tasks), *sent[0][1].shape[1:]), -0.0)  # −0 + x is x, to the sign of a zero
    for some, part in sent:
        first = tasks.index(some[0])
        block = slice(first, first + len(some))
        rows[block if tasks[block] == some else [tasks.index(task) for task in some]] += part
    known_finite(rows, tasks, "a shared node")
    return tasks, rows


def known_finite(rows: Array, tasks: tuple[int, ...], op: str) -> None:
    """Raise NonFiniteError, with the primitive and the task, unless all cotangents are finite."""
    if not (finite(rows) if rows.flags.c_contiguous else all(map(finite, rows))):
        task = tasks[np.argwhere(~np.isfinite(rows))[0][0]]
        raise not_finite(f"the derivative of {op} gives, for task {task},", rows, op, task)


def unbroadcast(c: Array, shape: tuple[int, ...]) -> Array:
    """AD-3: x̄ = Σ z̄ over the axes that broadcasting x to the shape of z added or stretched."""
    added = c.ndim - 1 - len(shape)
    stretched = [i for i, n in enumerate(shape, 1 + added) if n == 1]
    return np.reshape(np.add.reduce(c, axis=(*range(1, 1 + added), *stretched)), (len(c), *shape))


# RULES THAT TAKE MORE THAN A LINE

ONE, ZERO = np.ones(()), np.zeros(())  # NumPy takes an array of no axes faster than a number


def times(c: Array, slope: Array) -> Array:
    """Return x̄ = z̄ ∘ f'(x), with an axis for the tasks: one row and its slope have one shape, which is quick."""
    return c * slope[None]



def product(x: Values, y: Values) -> Values:
    """Return x @ y for matrices and stacks of them. Errors: ShapeError for a vector."""
    if x.ndim < 2 or y.ndim < 2:
        raise ShapeError(f"matmul takes matrices; the shapes are {x.shape} and {y.shape}", argument="matmul")
    return x @ y


def matmul_left(c: Array, z: Array, x: Array, y: Array, *_: Array) -> Array:
    """AD-6: X̄ = Z̄ Yᵀ, a product (B, m) @ (m, n) a task; further leading axes of X count into B."""
    if y.ndim > 2:
        return c @ y.swapaxes(-1, -2)
    return (c.reshape(len(c), -1, y.shape[1]) @ y.T).reshape(*c.shape[:-1], y.shape[0])


def matmul_right(c: Array, z: Array, x: Array, y: Array, *_: Array, out: Array | None = None) -> Array:
    """AD-7: Ȳ = Xᵀ Z̄, a product (n, B) @ (B, m) a task, written into `out` (T, n m) if it is given."""
    if y.ndim > 2:
        return x.swapaxes(-1, -2) @ c
    place = None if out is None else out.reshape(len(c), *y.shape)
    return np.matmul(x.reshape(-1, x.shape[-1]).T, c.reshape(len(c), -1, c.shape[-1]), place)


def total(x: Values, axis: Axis, keepdims: bool) -> Values:
    """Return Σ x over one axis, several, or all of them."""
    return np.add.reduce(x, axis, keepdims=keepdims)


def spread(c: Array, x: Array, axis: Axis) -> Array:
    """AD-8: x̄_i = z̄ for z = Σ_i x_i: what the sum receives goes to every summand."""
    summed = range(x.ndim) if axis is None else {a % x.ndim for a in np.atleast_1d(axis)}
    rows = np.empty((len(c), *x.shape))
    rows[...] = c.reshape(len(c), *[1 if i in summed else n for i, n in enumerate(x.shape)])
    return rows


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
    "multiply": (operator.mul, lambda c, z, x, y: times(c, y), lambda c, z, x, y: times(c, x)),
    "divide": (operator.truediv, lambda c, z, x, y: c / y, lambda c, z, x, y: times(c, -z / y)),
    "matmul": (product, matmul_left, matmul_right),
    "affine": (lambda x, y, b: product(x, y) + b, matmul_left, matmul_right, lambda c, z, x, y, b: c),
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
    "join": (np.append, lambda c, z, x, y, a: cut(c, x, a)[0], lambda c, z, x, y, a: cut(c, x, a)[1]),
}
"""AD-4: x̄ = z̄ ∂z/∂x, one line a primitive: its name, z of its operands, then x̄ (and ȳ) of c = z̄.

c is (T, *shape of z), and what comes after the operands (an axis, an exponent) is a constant option.
At the kinks, AD-C1: the derivative of relu at 0 is 0, and AD-C2: the derivative of |x| at 0 is 0.
"""

STEADY = frozenset({"tanh", "sigmoid", "relu", "absolute", "negative", "reshape", "transpose"})
"""The primitives that make a finite value of finite values, and of a finite cotangent finite ones: not checked."""

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
