"""The tape: tensors that record which primitive made them, and from what. `autograd` sweeps it, `rules` is its table.

Values are float64 and read-only. A constant may be complex, for differentiation by complex step.

Derivation: derivations/autograd.md.
"""

from __future__ import annotations

import copy
import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy import ndarray
from numpy.typing import ArrayLike

from mtlref.notation import ALARM, MtlrefError, NonFiniteError, ShapeError, finite
from mtlref.rules import PRODUCTS, RULES, Axis, Values

NUMBERS = itertools.count()
"""The numbers of the tensors: a parent's is below its child's."""

np.empty(31 * 2**17)  # 31 MiB, dropped at once: from here on glibc keeps what is freed for the next array


class MissingRuleError(MtlrefError, TypeError):
    """A tensor met a function, or an argument of a primitive, that the table has no derivative for."""


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
        return apply("getitem", self, kept(index))

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


UNCHANGING = {int, type(None), type(Ellipsis)}
"""The types of what an index, or a bound of a slice in it, may be that nobody can write into."""


def kept(index: Any) -> Any:
    """Return an index of which whatever can be written into is a copy: what it holds later is none of the tape's."""
    if type(index) is tuple:
        return tuple([kept(item) for item in index])
    parts = (index.start, index.stop, index.step) if type(index) is slice else (index,)
    return index if all([type(part) in UNCHANGING for part in parts]) else copy.deepcopy(index)


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


def parameters_of(arrays: Sequence[ArrayLike]) -> tuple[Tensor, ...]:
    """Return a parameter for each array: views of one copy of all of them, which is looked at once."""
    raw = [np.asarray(array) for array in arrays]
    if all([array.dtype.kind in "fiub" for array in raw]) and raw:
        flat = np.concatenate([array.ravel() for array in raw], dtype=np.float64)
        if finite(flat):
            ends = list(itertools.accumulate([array.size for array in raw], initial=0))
            return tuple(
                [
                    Tensor("parameter", flat[i:j].reshape(a.shape))
                    for a, i, j in zip(raw, ends[:-1], ends[1:], strict=True)
                ]
            )
    return tuple(parameter(array) for array in raw)


def stop_gradient(x: Operand) -> Tensor:
    """AD-5: z = x and x̄ = 0: the value passes, and nothing flows back."""
    return Tensor("stop_gradient", x.value if isinstance(x, Tensor) else constant(x).value)


def apply(op: str, *arguments: Any) -> Tensor:
    """Return the tensor that the primitive `op` makes of its operands and, after them, its options.

    Errors: MissingRuleError without a rule for `op` or for a tensor among the options, NonFiniteError.
    """
    rule = RULES.get(op, ())
    arity = len(rule) - 1
    if len(arguments) != arity and (not rule or Tensor in map(type, arguments[arity:])):
        where = f" with a tensor as argument {arity}" if rule else ""
        raise MissingRuleError(f"the table has no rule for {op}{where}", argument=op)
    given, tracked = [], False
    for x in arguments:
        if type(x) is Tensor:
            given.append(x.value)
            tracked = tracked or x.tracked
        elif (i := len(given)) < arity:
            return apply(op, *arguments[:i], constant(x), *arguments[i + 1 :])
        else:
            given.append(x)
    value = alarmed(op, rule[0], given)
    return Tensor(op, value, arguments[:arity], given) if tracked else Tensor("constant", value)


# WHAT IS FINITE


def alarmed(op: str, forward: Callable[..., Values], given: Sequence[Any]) -> Values:
    """Return a primitive's value of finite operands. Errors: NonFiniteError.

    The processor notes an overflow, a division by 0 and an invalid operation, and NumPy looks at the note after
    every call of its own. So a result without a note is finite, but for PRODUCTS: nobody looks after `einsum`, and
    BLAS may have been at work in other threads, whose notes nobody reads.
    """
    try:
        value = ALARM.copy().run(called, forward, given)
        if type(value) is not ndarray:
            value = np.asarray(value)
        if op not in PRODUCTS or finite(value):
            return value
    except FloatingPointError:
        with np.errstate(all="ignore"):
            value = np.asarray(forward(*given))
        if finite(value):
            return value
    raise not_finite(f"{op} gives", value, op)


def called(forward: Callable[..., Values], given: Sequence[Any]) -> Values:
    """Return the primitive's value. `Context.run` is slow with arguments that it must unpack: this is not."""
    return forward(*given)


def not_finite(what: str, values: Values, op: str, task: int | None = None) -> NonFiniteError:
    """Return the error that names the primitive and the first entry that is not finite."""
    at = tuple(int(i) for i in np.argwhere(~np.isfinite(values))[0])
    message = f"{what} {values[at]} at {list(at)} of its shape {values.shape}"
    return NonFiniteError(message, argument=op, task=task, value=values[at].item())


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


def stack(tensors: Sequence[Tensor]) -> Tensor:
    """AD-13: z_k = x_k: K tensors of one shape as one, with the tasks' axis first; vectors as rows, (K, 1, m).

    Errors: ShapeError for tensors of several shapes, or for none.
    """
    shapes = {x.value.shape for x in tensors}
    if len(shapes) != 1:
        raise ShapeError(
            f"a stack is made of tensors of one shape; they have {shapes}", argument="tensors", value=shapes
        )
    shape = shapes.pop()
    flat = np.concatenate([x.value.ravel() for x in tensors])
    value = flat.reshape(len(tensors), *[1] * (len(shape) == 1), *shape)
    return Tensor("stack", value, tensors) if any(x.tracked for x in tensors) else Tensor("constant", value)
