"""Notation: type aliases, shape and domain checks, the named errors, and what a tagged equation is.

Everything public in mtlref either returns finite numbers or raises one of the errors below. Each error
names the argument, the task, the value and the equation, in its message and as attributes.

- `vector`, `matrix`, `count`, `positive`, `nonnegative` check what comes in; `unseen_matrix` leaves the entries
  of a Jacobian to the equation that reads them.
- `equation` wraps the function of one tagged equation: it reads the tag from the docstring, seals
  floating-point exceptions, and turns a NaN or an infinity in the result into a named error.
- `norms` is the Euclidean norm of each row, without overflow or underflow on the way.
"""

from __future__ import annotations

import cmath
import contextvars
import functools
import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
"""A float64 array. Shapes are written in docstrings: K tasks, D shared parameters."""

TAG = re.compile(r"(?:AD|NN|OPT|QP|EQ|GN|PELTR|PCG|UW|DWA|COV|HMOE|MMOE|COMB|FIX|LIVE|MTL)-[CE]?\d+")
"""What a tag looks like: an equation `GN-3`, a choice point `GN-C1`, an erratum `DWA-E1`."""

EQUATIONS: dict[str, Callable[..., Any]] = {}
"""Every tagged equation that has been imported, by tag."""


# ERRORS


class MtlrefError(ValueError):
    """The root of mtlref's errors, with what is wrong as attributes: each may be None.

    `argument` is the name of the argument, `task` the task's index, `value` the offending value,
    `equation` the tag of the equation that cannot be evaluated.
    """

    def __init__(
        self,
        message: str,
        *,
        argument: str | None = None,
        task: int | None = None,
        value: object = None,
        equation: str | None = None,
    ) -> None:
        super().__init__(message)
        self.argument, self.task, self.value, self.equation = argument, task, value, equation


class ShapeError(MtlrefError):
    """An argument has the wrong shape, or is not an array of real numbers at all."""


class DomainError(MtlrefError):
    """A value lies outside the domain on which the equation is defined."""


class NonFiniteError(MtlrefError):
    """An equation's result is not a finite float64: it overflowed, or is not a number."""


class LogError(MtlrefError):
    """A training log cannot be read, or lacks what the method reads."""


class MissingExtraError(MtlrefError, ImportError):
    """A part of mtlref needs a package of an optional extra."""


# CHECKS OF WHAT COMES IN


def real(argument: str, value: ArrayLike, ndim: int, equation: str | None = None, new: bool = True) -> Array:
    """Return `value` as a finite float64 array of `ndim` axes: a new one, or, unless `new`, itself if it is one.

    Errors: ShapeError if it is not numeric or has another number of axes, DomainError at the first entry
    that is not finite (the first index is the task).
    """
    try:
        raw = np.asarray(value)
    except (ValueError, OverflowError) as error:
        raise ShapeError(f"{argument} is not an array of numbers: {error}", argument=argument) from error
    if raw.dtype.kind not in "fiub":
        message = f"{argument} must hold real numbers; its type is {raw.dtype}{needed(equation)}"
        raise ShapeError(message, argument=argument, equation=equation)
    if raw.ndim != ndim:
        message = f"{argument} must have {ndim} axes; its shape is {raw.shape}{needed(equation)}"
        raise ShapeError(message, argument=argument, value=raw.shape, equation=equation)
    if raw.dtype == np.float64:
        array = raw.copy() if new else raw
    else:
        with np.errstate(over="ignore"):
            array = raw.astype(np.float64)
    if not finite(array):
        at = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
        message = f"{argument}[{', '.join(map(str, at))}] = {array[at]} is not finite{needed(equation)}"
        task = at[0] if at else None
        raise DomainError(message, argument=argument, task=task, value=float(array[at]), equation=equation)
    return array


def finite(array: NDArray[Any]) -> bool:
    """Say whether every entry is finite: Σ |a|² is, or, where that overflows, each one by itself."""
    return cmath.isfinite(np.vdot(array, array)) or bool(np.isfinite(array).all())


def vector(argument: str, value: ArrayLike, length: int | None = None, equation: str | None = None) -> Array:
    """Return `value` as a finite float64 vector of `length` entries, one a task (at least one)."""
    array = real(argument, value, 1, equation)
    if length is None and len(array) == 0:
        raise ShapeError(f"{argument} is empty; one entry a task is needed", argument=argument)
    if length is not None and len(array) != length:
        message = f"{argument} must have one entry a task, {length}; it has {len(array)}{needed(equation)}"
        raise ShapeError(message, argument=argument, value=len(array), equation=equation)
    return array


def matrix(argument: str, value: ArrayLike, rows: int | None = None, equation: str | None = None) -> Array:
    """Return `value` as a finite float64 matrix, itself if it is one, with a row a task: `rows`, or at least one."""
    array = real(argument, value, 2, equation, new=False)
    if len(array) == 0 or (rows is not None and len(array) != rows):
        wanted = "at least 1" if rows is None else str(rows)
        message = f"{argument} must have one row a task, {wanted}; its shape is {array.shape}{needed(equation)}"
        raise ShapeError(message, argument=argument, value=array.shape, equation=equation)
    return array


def unseen_matrix(argument: str, value: ArrayLike, rows: int | None, equation: str | None) -> Array:
    """Return a float64 matrix of `rows` rows as it is, its entries not looked at, all else as `matrix` does."""
    if isinstance(value, np.ndarray) and value.dtype == np.float64 and value.ndim == 2 and len(value) == rows:
        return np.asarray(value)
    return matrix(argument, value, rows, equation)


def count(argument: str, value: int, least: int = 1) -> int:
    """Return `value` as an int of at least `least`. Errors: DomainError."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        message = f"{argument} must be a whole number of at least {least}; it is {value!r}"
        raise DomainError(message, argument=argument, value=value)
    return int(value)


def positive(argument: str, value: float, equation: str | None = None) -> float:
    """Return the scalar `value` as a finite float above 0. Errors: ShapeError, DomainError."""
    number = float(real(argument, value, 0, equation))
    if number <= 0:
        message = f"{argument} = {number!r} must be above 0{needed(equation)}"
        raise DomainError(message, argument=argument, value=number, equation=equation)
    return number


def nonnegative(argument: str, value: float, equation: str | None = None) -> float:
    """Return the scalar `value` as a finite float of at least 0. Errors: ShapeError, DomainError."""
    number = float(real(argument, value, 0, equation))
    if number < 0:
        message = f"{argument} = {number!r} must not be negative{needed(equation)}"
        raise DomainError(message, argument=argument, value=number, equation=equation)
    return number


def require(holds: NDArray[np.bool_], argument: str, values: Array, equation: str, reason: str) -> None:
    """Raise DomainError at the first task where `holds` is false: `equation reason argument[task] = value`."""
    if not holds.all():
        task = int(np.argmin(holds))
        value = float(values[task])
        message = f"{equation} {reason} {argument}[{task}] = {value!r}"
        raise DomainError(message, argument=argument, task=task, value=value, equation=equation)


def needed(equation: str | None) -> str:
    """Return the end of a message that says which equation needs the value."""
    return f" (needed by {equation})" if equation else ""


# EQUATIONS

P = ParamSpec("P")
R = TypeVar("R")
Q = TypeVar("Q", bound="float | np.floating[Any] | Array")


class Alarm:
    """Runs functions with NumPy's errors raised; from NumPy 2 on a context does so, at a tenth of the cost."""

    def copy(self) -> Alarm:
        """Return the alarm: it holds nothing."""
        return self

    def run(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Return function(*args, **kwargs). Errors: FloatingPointError."""
        with np.errstate(**RAISED):
            return function(*args, **kwargs)


def alarm() -> Alarm | contextvars.Context:
    """Return what runs functions with NumPy's errors raised."""
    if np.lib.NumpyVersion(np.__version__) < "2.0.0":  # which keeps the error state a thread, not a context
        return Alarm()
    context = contextvars.copy_context()
    context.run(np.seterr, **RAISED)
    return context


RAISED: dict[str, Any] = {"over": "raise", "divide": "raise", "invalid": "raise", "under": "ignore"}
ALARM = alarm()


def equation(function: Callable[P, Q]) -> Callable[P, Q]:
    """Wrap the function of one tagged equation: `TAG: formula` is the first line of its docstring.

    The function runs with NumPy's overflow, division and validity warnings made errors, so that nothing hides in
    an intermediate: NonFiniteError names the tag, the first task whose result is not finite, and the arguments
    there. Underflow to 0 is rounding, and allowed.
    """
    tag = (function.__doc__ or "").split(":", 1)[0]
    if not TAG.fullmatch(tag):
        raise TypeError(f"{function.__qualname__}: an equation's docstring begins with its tag")
    names = list(inspect.signature(function).parameters)

    @functools.wraps(function)
    def evaluate(*args: P.args, **kwargs: P.kwargs) -> Q:
        try:
            result = ALARM.copy().run(function, *args, **kwargs)
            if finite(np.asarray(result)):
                return result
        except FloatingPointError:
            with np.errstate(all="ignore"):
                result = function(*args, **kwargs)
        raise not_finite(tag, np.asarray(result), dict(zip(names, args, strict=False)) | kwargs)

    EQUATIONS[tag] = evaluate
    return evaluate


def formula(tag: str) -> str:
    """Return the first paragraph of a tagged equation's docstring, `TAG: formula`, on one line."""
    doc = inspect.getdoc(EQUATIONS[tag]) or tag
    return " ".join(doc.split("\n\n")[0].split())


PUBLIC = {
    "L": "losses",
    "L_0": "initial_losses",
    "L_prev": "losses_prev",
    "mu_L_prev": "loss_means",
    "n": "norms",
    "s": "log_variances",
    "w": "weights",
}
"""The names that users know, by the papers' letters which the equations' functions use."""


def not_finite(tag: str, result: Array, given: Mapping[str, object]) -> NonFiniteError:
    """Return the error that says which task of `result` is not finite, and from which arguments."""
    given = {PUBLIC.get(name, name): value for name, value in given.items()}
    bad = np.argwhere(~np.isfinite(result))
    at = tuple(int(i) for i in bad[0]) if len(bad) else ()
    task = at[0] if at else None
    value = float(result[at]) if len(bad) else None
    what = "overflows on the way" if value is None else f"gives {value}"
    where = "" if task is None else f" for task {task}"
    message = f"{tag} {what}{where}, from {', '.join(_shown(n, v, task) for n, v in given.items())}"
    return NonFiniteError(message, argument=next(iter(given), None), task=task, value=value, equation=tag)


def _shown(name: str, value: object, task: int | None) -> str:
    """Return `name = value`, of one task where the value has an entry a task."""
    if isinstance(value, np.ndarray) and value.ndim == 1 and task is not None and task < len(value):
        return f"{name}[{task}] = {float(value[task])!r}"
    if isinstance(value, np.ndarray):
        return f"{name} = {np.array2string(value, threshold=8)}"
    return f"{name} = {value!r}"


# ROWS

MID_RANGE = (2.0**-900, 2.0**1000)
"""Sums of products of rows with squares between these neither overflow nor lose a digit to underflow."""


def norms(jacobian: Array, equation: str = "GN-1") -> Array:
    """Return ‖row‖₂ of each row of a (K, D) matrix, as (K,); each row is scaled by its largest entry first.

    The scaling keeps the squares in range, so the result is right to rounding from 1e-308 to 1e308. It is left out
    where all squares are far from both ends of float64: such a square has finite entries only, and nothing else is
    looked at.
    Errors: DomainError at an entry that is not finite, NonFiniteError if the norm exceeds the largest float64.
    """
    squares = np.einsum("kd,kd->k", jacobian, jacobian)  # after which NumPy looks for no overflow
    if ((squares > MID_RANGE[0]) & (squares < MID_RANGE[1])).all():
        return np.asarray(np.sqrt(squares))
    scale = row_scale(matrix("jacobian", jacobian, equation=equation))
    rows = jacobian / scale[:, None]
    with np.errstate(under="ignore", over="ignore"):
        result: Array = scale * np.sqrt(np.einsum("kd,kd->k", rows, rows))
    if not np.isfinite(result).all():
        raise not_finite(equation, result, {"jacobian": jacobian})
    return result


def row_scale(jacobian: Array) -> Array:
    """Return the largest absolute entry of each row, 1 for a row of zeros: what rows are equilibrated by."""
    scale = np.max(np.abs(jacobian), axis=1, initial=0.0)
    return np.asarray(np.where(scale > 0, scale, 1.0))
