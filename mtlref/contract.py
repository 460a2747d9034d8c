"""The one contract of the weighting methods.

A method is a frozen dataclass of hyper-parameters. It has an initial state (`init`) and one pure function
(`step`) from the state, the K task losses and their K×D Jacobian to a `Step`: the weights in use now, and the
state that the next step starts from.

    state = method.init(n_tasks=3)
    out = method.step(state, losses, jacobian)
    update = out.weights @ jacobian          # (D,): the shared parameters descend this
    state = out.state                        # head i descends out.head_weights[i] times its own gradient

- MTL-1, the label loss's gradient: the shared parameters descend Σ_i w_i ∇L_i, head i descends h_i ∇L_i.
- MTL-2, the Gram matrix: nothing a method returns depends on the Jacobian beyond J Jᵀ. `compress` and
  `from_gram` give a K×K matrix that stands for a Jacobian of any width.

Derivation: derivations/equal.md.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar, Literal, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from mtlref.notation import (
    MID_RANGE,
    Array,
    ShapeError,
    equation,
    matrix,
    not_finite,
    require,
    row_scale,
    unseen_matrix,
    vector,
)
from mtlref.state import State, own

Reads = Literal["losses", "norms", "gram"]
Cadence = Literal["step", "epoch"]


@dataclass(frozen=True)
class Step:
    """What one step of a method returns.

    `weights` (K,): the coefficients in use at this step on the shared parameters' task gradients;
    `head_weights` (K,): the coefficient of each task on its own head's gradient;
    `state`: what the next step starts from; `terms`: every tagged intermediate, in tag order.
    """

    weights: Array
    head_weights: Array
    state: State
    terms: Mapping[str, Array | float]

    def __post_init__(self) -> None:
        object.__setattr__(self, "terms", MappingProxyType(dict(self.terms)))


class Method(ABC):
    """A weighting method: hyper-parameters in, nothing remembered. Subclasses are frozen dataclasses.

    Its state has `weights` (K,): those in use at the step, or in the epoch, that comes, if the method is `lagged`.
    """

    stem: ClassVar[str]
    """The name that the module, the derivation, the defects, the vectors and the tests share."""
    title: ClassVar[str]
    """The method's name in prose."""
    source: ClassVar[str]
    """Where the method is published."""
    reads: ClassVar[Reads]
    """What a step depends on: the losses alone, also the gradients' norms, or all their inner products."""
    cadence: ClassVar[Cadence] = "step"
    """When the method steps: every optimiser step, or once an epoch on the epoch's mean losses."""
    tags: ClassVar[Mapping[str, str]]
    """The tag of every term, in tag order."""
    start: ClassVar[str]
    """The tag of the equation that gives the first weights."""
    heads: ClassVar[str]
    """The tag of the equation that gives the heads' weights."""

    @property
    def lagged(self) -> bool:
        """Whether the weights in use are those that the state brings, made from earlier steps alone.

        A method that is not lagged makes them from this step's own losses or gradients.
        """
        return True

    @abstractmethod
    def init(self, n_tasks: int) -> State:
        """Return the state before the first step of `n_tasks` tasks (K ≥ 1)."""

    @abstractmethod
    def step(self, state: State, losses: ArrayLike, jacobian: ArrayLike | None = None) -> Step:
        """Return the weights in use now and the next state, from losses (K,) and the Jacobian (K, D).

        Errors: ShapeError and DomainError for what comes in, NonFiniteError for what cannot be evaluated.
        """

    def sample(self, rng: np.random.Generator, n_tasks: int) -> Array | None:
        """Return the random draw that `step` takes as `draw=`; None, as here, for a deterministic method."""
        return None

    def resumed(self, state: State, weights: Array) -> State:
        """Return `state` as it would be had it led to `weights` being in use; as it is, if it cannot say."""
        return state

    def followed(self, state: State, terms: Mapping[str, ArrayLike]) -> State:
        """Return the `state` after a step as it would be had that step given `terms`; what they leave out, stays.

        Here `w_next` counts, if the method is lagged.
        """
        if not self.lagged or "w_next" not in terms:
            return state
        return self.resumed(state, np.asarray(terms["w_next"], dtype=np.float64))


S = TypeVar("S", bound=State)


def same_tasks(state: State, kind: type[S], weights: str = "weights") -> tuple[S, Array]:
    """Return `state`, known to be a `kind`, and its checked weights (K,). Errors: DomainError, ShapeError."""
    known = own(state, kind)
    return known, vector(f"state.{weights}", getattr(known, weights))


def weights_of(state: State) -> Array:
    """Return the field `weights` (K,) of a method's state."""
    weights: Array = vars(state)["weights"]
    return weights


# THE LABEL LOSS


@equation
def direction(w: Array, jacobian: Array) -> Array:
    """MTL-1: d = Σ_i w_i ∇L_i = Jᵀ w.

    `w` (K,), `jacobian` (K, D); returns (D,), what the shared parameters descend.
    """
    return w @ jacobian


# THE GRAM MATRIX

FEW = 6
"""So few long rows are multiplied one after another, at up to four times the speed of BLAS's product of matrices."""


def inner_products(jacobian: ArrayLike, K: int | None = None, equation: str | None = None) -> tuple[Array, Array]:
    """Return the inner products (K, K) of the rows of J (K, D), row i over 2^e_i, and the exponents e (K,).

    One pass over J where every ‖g_i‖² is far from both ends of float64: then e = 0, no product has left the range,
    and what underflowed in a sum is below its rounding. Elsewhere the rows are scaled first, which rounds nothing.
    A square that is finite has finite entries only, so nothing else is looked at.
    Errors: ShapeError, DomainError at an entry that is not finite.
    """
    J = unseen_matrix("jacobian", jacobian, K, equation)
    with np.errstate(all="ignore"):
        G = products(J)
    squares = np.diag(G)
    if np.all((squares > MID_RANGE[0]) & (squares < MID_RANGE[1])):
        return G, np.zeros(len(G), dtype=np.intp)
    J = matrix("jacobian", J, K, equation)
    exponents = np.frexp(row_scale(J))[1]
    rows = np.ldexp(J, -exponents[:, None])
    return products(rows), exponents


def products(rows: Array) -> Array:
    """Return the inner products (K, K) of the rows (K, D), symmetric to the last bit."""
    if len(rows) > FEW:
        return np.asarray(rows @ rows.T)
    G = np.empty((len(rows), len(rows)))
    for i, row in enumerate(rows):
        G[i, : i + 1] = G[: i + 1, i] = rows[: i + 1] @ row
    return G


def compress(jacobian: ArrayLike) -> Array:
    """Return a K×K matrix R with R Rᵀ = J Jᵀ, which stands for the (K, D) Jacobian in every method (MTL-2).

    With Jᵀ = Q Rᵀ (QR), J Jᵀ = R Qᵀ Q Rᵀ = R Rᵀ: the digits are those of J, not of its square.
    Errors: ShapeError, DomainError, NonFiniteError if a row's norm exceeds the largest float64.
    """
    J = matrix("jacobian", jacobian)
    scale = row_scale(J)
    _, upper = np.linalg.qr((J / scale[:, None]).T)
    R = np.zeros((len(J), len(J)))
    with np.errstate(over="ignore"):
        R[:, : len(upper)] = scale[:, None] * upper.T
    if not np.isfinite(R).all():
        raise not_finite("MTL-2", R, {"jacobian": J})
    return R


def from_gram(gram: ArrayLike, tolerance: float = 1e-12) -> Array:
    """Return a K×K matrix F with F Fᵀ = `gram`, which stands for the Jacobian in every method (MTL-2).

    The Gram matrix is equilibrated to cosines C = gram_ij / √(gram_ii gram_jj), C = V Λ Vᵀ, and
    F_ij = √gram_ii (V √Λ)_ij. An eigenvalue in [−K·`tolerance`, 0) is rounding and counts as 0.
    Errors: ShapeError; DomainError if `gram` is not symmetric, or not positive semidefinite.
    """
    G = matrix("gram", gram)
    if G.shape[0] != G.shape[1]:
        raise ShapeError(f"gram must be square; its shape is {G.shape}", argument="gram", value=G.shape)
    square = np.diag(G)
    require(square >= 0, "gram diagonal", square, "MTL-2", "needs squared norms, not")
    norm = np.sqrt(square)
    unit = np.where(norm > 0, norm, 1.0)
    with np.errstate(over="ignore"):
        C = G / unit[:, None] / unit[None, :]
    steepest = np.abs(C).max(axis=1)
    require(steepest <= 1 + tolerance, "cosine", steepest, "MTL-2", "needs inner products within the norms, not")
    wrong = np.abs(C - C.T).max(axis=1) + np.where(norm > 0, 0.0, steepest)
    require(wrong <= tolerance, "asymmetry", wrong, "MTL-2", "needs a symmetric matrix of inner products, not")
    values, V = np.linalg.eigh((C + C.T) / 2)
    require(values >= -len(G) * tolerance, "eigenvalue", values, "MTL-2", "needs a positive semidefinite gram, not")
    F: Array = norm[:, None] * V * np.sqrt(np.maximum(values, 0.0))
    return F
