"""Cotangents: a row for each task that reaches a node, what its uses send it, and how rows and stacks of tasks meet.

Derivation: derivations/autograd.md.
"""

from __future__ import annotations

import functools
import itertools
import math
import operator
from collections.abc import Callable, Collection, Sequence

import numpy as np
from numpy import ndarray

from mtlref.notation import Array, finite
from mtlref.rules import keeps_apart
from mtlref.tape import Tensor, not_finite

Sent = tuple[tuple[int, ...], Array]
"""What one use of a node sends it: tasks, in order, and a row of cotangents for each."""
FIRST = operator.itemgetter(0)


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
