"""Reverse mode for K losses at once: a sweep of the `tape` by the table of derivatives (`rules`), with `cotangents`.

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
from numpy.typing import ArrayLike

from mtlref.cotangents import (
    Sent,
    accumulate,
    from_slices,
    in_full,
    kept_apart,
    known_finite,
    ones,
    unbroadcast,
    unstack,
)
from mtlref.notation import ALARM, Array, MtlrefError, ShapeError, count, finite
from mtlref.rules import RULES, matmul_right
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
BLOCK = 2**17
"""Numbers, 1 MiB: so many cotangents of a layer the sweep carries at once, so that they stay in the cache."""

NUMBER = operator.attrgetter("number")


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


def jacobian(
    losses: Losses, parameters: Sequence[Tensor], chunk: int | None = None, out: Array | None = None
) -> Jacobian:
    """AD-1: x̄ = Σ_z z̄ ∂z/∂x, from the losses, where L̄_i = 1, back to the parameters.

    `losses`: K scalars, or one vector (K,). The columns are the parameters raveled in C order, one after another; any
    tensor with a parameter behind it will do as one. A loss that does not depend on a parameter has an exact zero
    there. The tasks are swept in blocks of `chunk`, by default as many as 1 MiB holds of the largest cotangent: that
    bounds the memory, and changes no bit of the result. `out`: a matrix to write into, such as that of a result that
    is no longer needed; after an error its entries mean nothing.
    Errors: ShapeError (a loss that is not a real scalar, an `out` that does not fit), MtlrefError, NonFiniteError
    (primitive and task).
    """
    K = check(losses, parameters)
    shapes = tuple([x.value.shape for x in parameters])
    places = dict(zip(parameters, columns(shapes), strict=True))
    matrix = room(out, (K, sum([x.value.size for x in parameters])))
    nodes = between([losses] if isinstance(losses, Tensor) else losses, places)
    for x in set(places).difference(nodes):
        matrix[:, places[x]] = 0.0
    apart = kept_apart(nodes) if isinstance(losses, Tensor) else set()
    size = max(1, BLOCK // largest(nodes, apart)) if chunk is None else count("chunk", chunk)
    for first in range(0, K, size):
        block = range(K)[first : first + size]
        rows = matrix[first : block.stop]
        targets = {x: rows[:, place] for x, place in places.items()}
        try:  # the sweep is linear: what is not finite stays so, down to the matrix, which alone is looked at
            known = ALARM.copy().run(sweep, losses, block, nodes, apart, targets)
            if finite_beside(rows, [places[x] for x in known]):
                continue
        except FloatingPointError:
            pass
        with np.errstate(all="ignore"):
            sweep(losses, block, nodes, apart, targets, look=True)
    return Jacobian(matrix, shapes)


def room(out: Array | None, shape: tuple[int, int]) -> Array:
    """Return `out`, or a new matrix. Errors: ShapeError unless `out` is a float64 matrix (K, D) to be filled."""
    if out is None:
        return np.empty(shape)
    if not isinstance(out, np.ndarray) or out.dtype != np.float64 or out.shape != shape:
        found = f"{out.dtype}, {out.shape}" if isinstance(out, np.ndarray) else repr(out)
        raise ShapeError(f"out must be a matrix of float64, {shape}; it is {found}", argument="out", value=out)
    if not (out.flags.c_contiguous and out.flags.writeable):
        raise ShapeError("out must be writable, and its rows one after another in memory", argument="out", value=out)
    return np.asarray(out)


def finite_beside(rows: Array, known: Sequence[slice]) -> bool:
    """Say whether all gradients are finite; those in the `known` columns are."""
    if not known:
        return finite(rows)
    edges = [0, *itertools.chain(*sorted([(place.start, place.stop) for place in known])), rows.shape[1]]
    return all([np.isfinite(rows[:, i:j]).all() for i, j in zip(edges[::2], edges[1::2], strict=True) if i < j])


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
) -> list[Tensor]:
    """Write the gradients of a block of the losses into `targets`: for each parameter (len(block), its size).

    Returned are the parameters whose gradients are known to be finite.
    Errors, where every step is to be looked at: NonFiniteError (primitive and task).
    """
    sent: dict[Tensor, list[Sent]] = {x: [] for x in nodes}
    placed: dict[Tensor, bool] = {}
    way = Way(apart, targets, look, sent, placed)
    for loss, tasks, c in starts(losses, block, apart):
        sent.get(loss, []).append((tasks, c))
    for node in reversed(nodes):
        uses = sent.pop(node)
        if uses:
            tasks, c = uses[0] if len(uses) == 1 else accumulate(uses, look)
            if node in targets and (node not in placed or len(uses) > 1):
                place(targets[node], block, tasks, in_full(c, tasks, node) if node in apart else c)
                placed[node] = False
            if node.op == "stack":
                unstack(node, tasks, c, apart, sent)
            elif node.parents:
                send_back(node, tasks, c, way)
        elif node in targets:
            targets[node].fill(0.0)
            placed[node] = True
    return [x for x, known in placed.items() if known]


@dataclass(frozen=True, slots=True)
class Way:
    """The way back of a block of tasks: what was sent to the nodes that are still to come, and where gradients go.

    `targets`: for each parameter its columns of the matrix; `placed`: those that are written, and whether they are
    known to be finite.
    """

    apart: Collection[Tensor]
    targets: dict[Tensor, Array]
    look: bool
    sent: dict[Tensor, list[Sent]]
    placed: dict[Tensor, bool]


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
            way.placed[x] = known_by_norms(given[0], c, rows)
        else:
            rows = partial(c, value, *given)
            if rows.shape[1:] != x.value.shape:
                rows = unbroadcast(rows, x.value.shape)
        if way.look:
            known_finite(rows, tasks, node.op)
        waiting.append((tasks, rows))


def known_by_norms(x: Array, c: Array, rows: Array) -> bool:
    """Say whether the rows Xᵀ Z̄ (AD-7) are finite by |Σ_b x_b z̄_b| ≤ ‖x‖ ‖z̄‖, the inequality of Cauchy and Schwarz.

    It is asked where the rows are more than the cotangents, and than the cache keeps until they would be looked at.
    """
    return rows.size >= BLOCK and rows.size > c.size and math.isfinite(float(np.vdot(x, x)) * float(np.vdot(c, c)))


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
    out: Array | None = None,
) -> tuple[Array, Jacobian]:
    """Return the K losses that `function` makes of the parameters' tensors, (K,), and their Jacobian.

    `chunk` and `out` are those of `jacobian`. Errors: those of `jacobian` and of what `function` records.
    """
    leaves = parameters_of(parameters)
    losses = function(leaves)
    result = jacobian(losses, leaves, chunk, out)
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
