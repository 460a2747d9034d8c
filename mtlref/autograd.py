"""Reverse mode for K losses at once: one sweep of the tape (`tape`) by the table of derivatives (`rules`).

A computation on tensors records, for every value, the primitive that made it and its parents. To differentiate, the
recording is swept from the losses back to the parameters (`jacobian`, AD-1): each node turns its own cotangent
z̄ = ∂L/∂z into those of its parents by the rule of its primitive, read from the table `RULES` (AD-4), and a node that
was used several times adds what it is sent (`accumulate`, AD-2).

The one idea beyond a textbook tape is that **a cotangent has a row for each task that reaches its node**: its shape
is (T, *shape), for the T tasks named beside it. A head carries the one row of its own task. Where K heads meet, the
rows are stacked, and below that point a single sweep computes all K gradients. The tasks' axis comes first, so
broadcasting aligns it with nothing. The sweep goes by blocks of tasks, whose cotangents stay in the cache.
Where K heads are alike, their K computations are recorded as one on stacked tensors (`stack`, AD-13), whose
cotangents have a slice a task for the row a task, and cost K slices, not K² (AD-14).

Derivation: derivations/autograd.md.
"""

from __future__ import annotations

import functools
import itertools
import math
import operator
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy import ndarray
from numpy.typing import ArrayLike

from mtlref.notation import ALARM, Array, MtlrefError, ShapeError, count, finite
from mtlref.rules import RULES, keeps_apart, matmul_right
from mtlref.tape import (
    MissingRuleError,
    Operand,
    Tensor,
    absolute,
    apply,
    concatenate,
    constant,
    exp,
    log,
    logsumexp,
    matmul,
    not_finite,
    parameter,
    parameters_of,
    pick,
    relu,
    sigmoid,
    softmax,
    softplus,
    sqrt,
    stack,
    stop_gradient,
    tanh,
)

__all__ = [
    "RULES",
    "Jacobian",
    "MissingRuleError",
    "Operand",
    "Tensor",
    "absolute",
    "apply",
    "concatenate",
    "constant",
    "exp",
    "jacobian",
    "log",
    "logsumexp",
    "matmul",
    "parameter",
    "parameters_of",
    "pick",
    "relu",
    "sigmoid",
    "softmax",
    "softplus",
    "sqrt",
    "stack",
    "stop_gradient",
    "tanh",
    "value_and_jacobian",
]

Losses = Sequence[Tensor] | Tensor
"""K scalars, or one vector (K,)."""
Sent = tuple[tuple[int, ...], Array]
"""What one use of a node sends it: tasks, in order, and a row of cotangents for each."""
BLOCK = 2**17
"""Numbers, 1 MiB: so many cotangents of a layer the sweep carries at once, so that they stay in the cache."""

NUMBER, FIRST = operator.attrgetter("number"), operator.itemgetter(0)


@dataclass(frozen=True, eq=False)
class Jacobian:
    """`matrix` (K, D): row i is the gradient of loss i; `shapes`: of the parameters whose columns these are."""

    matrix: Array
    shapes: tuple[tuple[int, ...], ...]

    @functools.cached_property
    def blocks(self) -> tuple[Array, ...]:
        """The views of `matrix`, one a parameter, (K, *shape)."""
        K, ends = len(self.matrix), columns(self.shapes)
        return tuple(self.matrix[:, part].reshape(K, *shape) for part, shape in zip(ends, self.shapes, strict=True))


def columns(shapes: Sequence[tuple[int, ...]]) -> list[slice]:
    """Return where the parameters of these shapes stand in a row, raveled in C order one after another."""
    ends = [0, *itertools.accumulate([math.prod(shape) for shape in shapes])]
    return list(map(slice, ends[:-1], ends[1:]))


def jacobian(losses: Losses, parameters: Sequence[Tensor], chunk: int | None = None) -> Jacobian:
    """AD-1: x̄ = Σ_z z̄ ∂z/∂x, from the losses, where L̄_i = 1, back to the parameters.

    `losses`: K scalars, or one vector (K,). The columns are the parameters raveled in C order, one after another; any
    tensor with a parameter behind it will do as one. A loss that does not depend on a parameter has an exact zero
    there. The tasks are swept in blocks of `chunk`, by default as many as 1 MiB holds of the largest cotangent: that
    bounds the memory, and changes no bit of the result.
    Errors: ShapeError (a loss that is not a real scalar), MtlrefError, NonFiniteError (primitive and task).
    """
    K = check(losses, parameters)
    shapes = tuple([x.value.shape for x in parameters])
    places = dict(zip(parameters, columns(shapes), strict=True))
    matrix = np.empty((K, sum([x.value.size for x in parameters])))
    nodes = between([losses] if isinstance(losses, Tensor) else losses, places)
    for x in set(places).difference(nodes):
        matrix[:, places[x]] = 0.0
    apart = kept_apart(nodes) if isinstance(losses, Tensor) else set()
    size = max(1, BLOCK // largest(nodes, apart)) if chunk is None else count("chunk", chunk)
    for first in range(0, K, size):
        block = range(K)[first : first + size]
        targets = {x: matrix[first : block.stop, place] for x, place in places.items()}
        try:  # the sweep is linear: what is not finite stays so, down to the matrix, which alone is looked at
            ALARM.copy().run(sweep, losses, block, nodes, apart, targets)
            if finite(matrix[first : block.stop]):
                continue
        except FloatingPointError:
            pass
        with np.errstate(all="ignore"):
            sweep(losses, block, nodes, apart, targets, look=True)
    return Jacobian(matrix, shapes)


def largest(nodes: Sequence[Tensor], apart: Collection[Tensor]) -> int:
    """Return the size of the largest cotangent that the sweep carries for a task; those of parameters are none."""
    carried = [x for x in nodes if x.parents and x.op != "stack"]
    return max([1, *[x.value.size // (len(x.value) if x in apart else 1) for x in carried]])


def sweep(
    losses: Losses,
    block: range,
    nodes: Sequence[Tensor],
    apart: Collection[Tensor],
    targets: dict[Tensor, Array],
    look: bool = False,
) -> None:
    """Write the gradients of a block of the losses into `targets`: for each parameter (len(block), its size).

    Errors, where every step is to be looked at: NonFiniteError (primitive and task).
    """
    sent: dict[Tensor, list[Sent]] = {x: [] for x in nodes}
    placed: set[Tensor] = set()
    way = Way(apart, targets, look, sent, placed)
    for loss, tasks, c in starts(losses, block, apart):
        sent.get(loss, []).append((tasks, c))
    for node in reversed(nodes):
        uses = sent.pop(node)
        if uses:
            tasks, c = uses[0] if len(uses) == 1 else accumulate(uses, look)
            if node in targets and (node not in placed or len(uses) > 1):
                place(targets[node], block, tasks, in_full(c, tasks, node) if node in apart else c)
            if node.op == "stack":
                unstack(node, tasks, c, apart, sent)
            elif node.parents:
                send_back(node, tasks, c, way)
        elif node in targets:
            targets[node].fill(0.0)


@dataclass(frozen=True, slots=True)
class Way:
    """The way back of a block of tasks: what was sent to the nodes that are still to come, and where gradients go.

    `targets`: for each parameter its columns of the matrix; `placed`: those whose columns were written at once.
    """

    apart: Collection[Tensor]
    targets: dict[Tensor, Array]
    look: bool
    sent: dict[Tensor, list[Sent]]
    placed: set[Tensor]


def send_back(node: Tensor, tasks: tuple[int, ...], c: Array, way: Way) -> None:
    """Send each parent of `node` its share of the cotangents `c`, a row a task, by the rule of the primitive."""
    value, given, sent, apart, targets = node.value, node.arguments, way.sent, way.apart, way.targets
    for x, partial in zip(node.parents, RULES[node.op][1:], strict=True):
        if x not in sent:
            continue
        waiting = sent[x]
        if node in apart:
            rows = from_slices(partial, c, node, x, tasks, apart)
        elif partial is matmul_right and not waiting and x.value.ndim == 2 and len(targets.get(x, ())) == len(tasks):
            rows = matmul_right(c, value, *given, out=targets[x].reshape(len(tasks), *x.value.shape))
            way.placed.add(x)
        else:
            rows = partial(c, value, *given)
            if rows.shape[1:] != x.value.shape:
                rows = unbroadcast(rows, x.value.shape)
        if way.look:
            known_finite(rows, tasks, node.op)
        waiting.append((tasks, rows))


def starts(
    losses: Losses, block: range, apart: Collection[Tensor]
) -> Iterator[tuple[Tensor, tuple[int, ...], Array]]:
    """Yield each loss of the block with L̄ = 1: its tasks, and a row for each."""
    if not isinstance(losses, Tensor):
        yield from ((losses[task], (task,), ones(1)) for task in block)
    else:
        tasks, c = tuple(block), ones(len(block))
        yield losses, tasks, c if losses in apart else in_full(c, tasks, losses)


def place(target: Array, block: range, tasks: tuple[int, ...], c: Array) -> None:
    """Write `c` into the rows of these tasks in `target`, (len(block), size), and zeros into the others."""
    if len(tasks) == len(block):
        target[...] = c.reshape(target.shape)
        return
    target.fill(0.0)
    if len(tasks) == 1:
        target[tasks[0] - block.start] = c.ravel()
    else:
        target[[task - block.start for task in tasks]] = c.reshape(len(tasks), -1)


def value_and_jacobian(
    function: Callable[[tuple[Tensor, ...]], Losses],
    parameters: Sequence[ArrayLike],
    chunk: int | None = None,
) -> tuple[Array, Jacobian]:
    """Return the K losses that `function` makes of the parameters' tensors, (K,), and their Jacobian."""
    leaves = parameters_of(parameters)
    losses = function(leaves)
    result = jacobian(losses, leaves, chunk)
    values = losses.value.copy() if isinstance(losses, Tensor) else np.array([loss.value for loss in losses])
    return values, result


def check(losses: Losses, parameters: Sequence[Tensor]) -> int:
    """Return K. Errors: ShapeError, MtlrefError.

    The losses are real scalar tensors or a vector, the parameters different tensors with a parameter behind them.
    """
    if isinstance(losses, Tensor):
        if losses.value.ndim != 1 or losses.value.dtype != np.float64:
            raise ShapeError(
                f"losses must be a real vector (K,); they are {losses!r}", argument="losses", value=losses
            )
    else:
        for task, loss in enumerate(losses):
            if not isinstance(loss, Tensor) or loss.value.ndim or loss.value.dtype != np.float64:
                message = f"losses[{task}] must be a real scalar tensor; it is {loss!r}"
                raise ShapeError(message, argument="losses", task=task, value=loss)
    seen: set[object] = set()
    for i, x in enumerate(parameters):
        if not isinstance(x, Tensor) or not x.tracked or x in seen:
            raise MtlrefError(f"parameters[{i}] is none, or given twice: {x!r}", argument="parameters")
        seen.add(x)
    return len(losses.value if isinstance(losses, Tensor) else losses)


def between(losses: Sequence[Tensor], parameters: dict[Tensor, slice]) -> list[Tensor]:
    """Return, parents first, the nodes that lead from a parameter to a loss."""
    stack = [loss for loss in losses if loss.tracked]
    behind = set(stack)
    while stack:
        for x in stack.pop().parents:
            if x.tracked and x not in behind:
                behind.add(x)
                stack.append(x)
    nodes = sorted(behind, key=NUMBER)
    if all([x in parameters for x in nodes if not x.parents]):
        return nodes
    leads = set(parameters)
    for node in nodes:
        if not leads.isdisjoint(node.parents):
            leads.add(node)
    return [node for node in nodes if node in leads]


def accumulate(sent: list[Sent], look: bool) -> Sent:
    """AD-2: x̄ = Σ (what each use of x sends back), task by task: the tasks in order, and a row for each."""
    parts = sorted(sent, key=FIRST)
    if all([one[0][-1] < other[0][0] for one, other in itertools.pairwise(parts)]):
        return tuple([task for part in parts for task in part[0]]), np.concatenate([part[1] for part in parts])
    tasks = tuple(sorted({task for part in sent for task in part[0]}))
    rows = np.full((len(tasks), *sent[0][1].shape[1:]), -0.0)  # −0 + x is x, to the sign of a zero
    for some, part in sent:
        first = tasks.index(some[0])
        block = slice(first, first + len(some))
        rows[block if tasks[block] == some else [tasks.index(task) for task in some]] += part
    if look:
        known_finite(rows, tasks, "a shared node")
    return tasks, rows


def known_finite(rows: Array, tasks: tuple[int, ...], op: str) -> None:
    """Raise NonFiniteError, with the primitive and the task, unless all cotangents are finite."""
    if not (finite(rows) if rows.flags.c_contiguous else all(map(finite, rows))):
        task = tasks[np.argwhere(~np.isfinite(rows))[0][0]]
        raise not_finite(f"the derivative of {op} gives, for task {task},", rows, op, task)


def unbroadcast(c: Array, shape: tuple[int, ...]) -> Array:
    """AD-3: x̄ = Σ z̄ over the axes that broadcasting x to the shape of z added or stretched."""
    if c.shape[1:] == shape:
        return c
    added = first = c.ndim - 1 - len(shape)
    while first < c.ndim - 1 and shape[first - added] == 1:
        first += 1
    if c.shape[1 + first :] == shape[first - added :]:
        rows = c.reshape(len(c), math.prod(c.shape[1 : 1 + first]), math.prod(shape))
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


# TASKS KEPT APART


def kept_apart(nodes: Sequence[Tensor]) -> set[Tensor]:
    """Return the nodes behind a vector of losses, the last of `nodes`, of which slice i leads to loss i alone.

    AD-14: ∂L_i/∂z is 0 outside slice i of such a z, (K, …), and its row for task i is that slice. Each of its uses is
    kept apart too, and has the tasks' axis.
    """
    apart, mixed = set[Tensor](), set[Tensor]()
    for node in reversed(nodes):
        if node not in mixed and keeps_apart(node.op, node.value, node.arguments):
            apart.add(node)
            mixed.update([x for x in node.parents if x.value.ndim < node.value.ndim])
        else:
            mixed.update(node.parents)
    return apart


def from_slices(
    partial: Callable[..., Array],
    c: Array,
    node: Tensor,
    x: Tensor,
    tasks: tuple[int, ...],
    apart: Collection[Tensor],
) -> Array:
    """AD-14: return the rows that a node kept apart, with the slices `c`, sends to its parent `x`.

    The rule is applied as for the one loss Σ L_i. A parent without the tasks' axis was repeated along it; what AD-3
    would add up over the repeats are its rows.
    """
    ndim, here = node.value.ndim, slice(tasks[0], tasks[-1] + 1)
    given = [a[here] if type(a) is ndarray and a.ndim >= ndim else a for a in node.arguments]
    rows = partial(c[None], node.value[here], *given)[0]
    if x.value.ndim < ndim:
        return unbroadcast(rows, x.value.shape)
    rows = unbroadcast(rows, x.value.shape[1:])
    return rows if x in apart else in_full(rows, tasks, x)


def in_full(slices: Array, tasks: tuple[int, ...], node: Tensor) -> Array:
    """Return the rows of these tasks, (T, *shape of z): 0 but for slice i in the row of task i."""
    rows = np.zeros((len(tasks), *node.value.shape))
    rows[range(len(tasks)), tasks] = slices
    return rows


def unstack(
    node: Tensor, tasks: tuple[int, ...], c: Array, apart: Collection[Tensor], sent: dict[Tensor, list[Sent]]
) -> None:
    """Send each of the stacked tensors its slice, x̄_k = z̄_k (AD-13)."""
    if node in apart:
        for task, row in zip(tasks, c, strict=True):
            if (x := node.parents[task]) in sent:
                sent[x].append(((task,), row.reshape(1, *x.value.shape)))
        return
    for k, x in enumerate(node.parents):
        if x in sent:
            sent[x].append((tasks, c[:, k].reshape(len(c), *x.value.shape)))
