"""Reverse mode for K losses at once: the tape, and one sweep; the table of derivatives is `rules`.

A computation on tensors records, for every value, the primitive that made it and its parents. To differentiate, the
recording is swept from the losses back to the parameters (`jacobian`, AD-1): each node turns its own cotangent
z̄ = ∂L/∂z into those of its parents by the rule of its primitive, read from the table `RULES` (AD-4), and a node that
was used several times adds what it is sent (`accumulate`, AD-2).

The one idea beyond a textbook tape is that **a cotangent has a row for each task that reaches its node**: its shape
is (T, *shape), for the T tasks named beside it. A head carries the one row of its own task. Where K heads meet, the
rows are stacked, and below that point a single sweep computes all K gradients. The tasks' axis comes first, so
broadcasting aligns it with nothing. The sweep goes by blocks of tasks, whose cotangents stay in the cache.
Values are float64 and read-only. A constant may be complex, for differentiation by complex step.
"""

from __future__ import annotations

import copy
import functools
import itertools
import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from mtlref.notation import ALARM, RAISED, Array, MtlrefError, NonFiniteError, ShapeError, count, finite
from mtlref.rules import PRODUCTS, RULES, Axis, Values, matmul_right

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

    __slots__ = ("arguments", "number", "op", "parents", "tracked", "value")

    def __init__(self, op: str, value: Values, parents: Sequence[Tensor] = (), arguments: Sequence[Any] = ()) -> None:
        value.setflags(False)  # type: ignore[call-arg]  # by keyword it takes three times as long
        self.op = op
        self.value = value
        self.parents = parents
        self.arguments = arguments
        self.tracked = bool(parents) or op == "parameter"
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
    rule = RULES.get(op, ())
    arity = len(rule) - 1
    if not rule or (len(arguments) > arity and Tensor in map(type, arguments[arity:])):
        where = f" with a tensor as argument {arity}" if rule else ""
        raise MissingRuleError(f"the table has no rule for {op}{where}", argument=op)
    parents, given, tracked = [], list(arguments), False
    for i in range(arity):
        x = arguments[i]
        if type(x) is not Tensor:
            x = constant(x)
        parents.append(x)
        given[i] = x.value
        tracked = tracked or x.tracked
    value = alarmed(op, rule[0], given)
    return Tensor(op, value, parents, given) if tracked else Tensor("constant", value)


# WHAT IS FINITE


def alarmed(op: str, forward: Callable[..., Values], given: Sequence[Any]) -> Values:
    """Return a primitive's value of finite operands. Errors: NonFiniteError.

    The processor notes an overflow, a division by 0 and an invalid operation, and NumPy looks at the note after
    every call of its own. So a result without a note is finite. The products of BLAS may be made by other threads,
    whose notes nobody reads.
    """
    try:
        value = ALARM.copy().run(forward, *given)
        if type(value) is not np.ndarray:
            value = np.asarray(value)
        if forward not in PRODUCTS or finite(value):
            return value
    except FloatingPointError:
        with np.errstate(all="ignore"):
            value = np.asarray(forward(*given))
        if finite(value):
            return value
    raise not_finite(f"{op} gives", value, op)


NUMBERS = itertools.count()  # of the tensors: a parent's is below its child's
NUMBER, VALUE, FIRST = operator.attrgetter("number"), operator.attrgetter("value"), operator.itemgetter(0)


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
    ends = list(itertools.accumulate([x.value.size for x in parameters], initial=0))
    columns = {x: slice(*ends[i : i + 2]) for i, x in enumerate(parameters)}
    matrix = np.empty((len(losses), ends[-1]))
    nodes = between(losses, columns)
    largest = max([x.value.size for x in nodes if x.parents], default=1)
    size = max(1, BLOCK // largest) if chunk is None else count("chunk", chunk)
    with np.errstate(**RAISED):
        for first in range(0, len(losses), size):
            block = range(len(losses))[first : first + size]
            sweep(losses, block, nodes, {x: matrix[first : block.stop, columns[x]] for x in columns})
    return Jacobian(matrix, tuple(matrix[:, columns[x]].reshape(len(losses), *x.shape) for x in parameters))


def sweep(losses: Sequence[Tensor], block: range, nodes: Sequence[Tensor], targets: dict[Tensor, Array]) -> None:
    """Write the gradients of a block of the losses into `targets`: for each parameter (len(block), its size)."""
    sent: dict[Tensor, list[Sent]] = {x: [] for x in nodes}
    for task in block:
        sent.get(losses[task], []).append(((task,), ones(1)))
    unreached = set(targets)
    while sent:
        node, contributions = sent.popitem()
        if not contributions:
            continue
        tasks, c = contributions[0] if len(contributions) == 1 else accumulate(contributions)
        if node in targets:
            unreached.remove(node)
            place(targets[node], [task - block.start for task in tasks], c)
        for x, partial in zip(node.parents, RULES[node.op][1:], strict=True):
            waiting = sent.get(x)
            if waiting is not None:
                alone = x in targets and len(tasks) == len(block) and not waiting
                try:
                    rows = sent_back(partial, c, node, x, targets[x] if alone else None)
                    if partial in PRODUCTS:
                        known_finite(rows, tasks, node.op)
                except FloatingPointError:
                    with np.errstate(all="ignore"):
                        rows = sent_back(partial, c, node, x)
                    known_finite(rows, tasks, node.op)
                waiting.append((tasks, rows))
    for x in unreached:
        targets[x][...] = 0.0


def sent_back(partial: Callable[..., Array], c: Array, node: Tensor, x: Tensor, target: Array | None = None) -> Array:
    """Return the rows that `node` sends to its parent `x`; a weight's, Xᵀ Z̄, are written into `target`, if given."""
    shape = x.value.shape
    if target is not None and partial is matmul_right and len(shape) == 2:
        return matmul_right(c, node.value, *node.arguments, out=target.reshape(len(c), *shape))
    rows = partial(c, node.value, *node.arguments)
    return rows if rows.shape[1:] == shape else unbroadcast(rows, shape)


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
        for x in stack.pop().parents:
            if x.tracked and x not in behind:
                behind.add(x)
                stack.append(x)
    leads = set(parameters)
    for node in (nodes := sorted(behind, key=NUMBER)):
        if not leads.isdisjoint(node.parents):
            leads.add(node)
    return [node for node in nodes if node in leads]


def accumulate(sent: list[Sent]) -> Sent:
    """AD-2: x̄ = Σ (what each use of x sends back), task by task: the tasks in order, and a row for each."""
    if len(sent) == 1:
        return sent[0]
    parts = sorted(sent, key=FIRST)
    if all([one[0][-1] < other[0][0] for one, other in itertools.pairwise(parts)]):
        return tuple([task for part in parts for task in part[0]]), np.concatenate([part[1] for part in parts])
    tasks = tuple(sorted({task for part in sent for task in part[0]}))
    rows = np.full((len(tasks), *sent[0][1].shape[1:]), -0.0)  # −0 + x is x, to the sign of a zero
    with np.errstate(all="ignore"):
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
    if c.shape[1 + added :] == shape:
        rows = c.reshape(len(c), math.prod(c.shape[1 : 1 + added]), math.prod(shape))
        return np.asarray(ones(rows.shape[1]) @ rows).reshape(len(c), *shape)
    stretched = [i for i, n in enumerate(shape, 1 + added) if n == 1]
    summed: Array = np.add.reduce(c, axis=(*range(1, 1 + added), *stretched))
    return summed.reshape(len(c), *shape)


@functools.lru_cache(maxsize=64)
def ones(n: int) -> Array:
    """Return n ones, that are never written to."""
    array = np.ones(n)
    array.flags.writeable = False
    return array


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
    return apply("pick", x, np.array(labels))
