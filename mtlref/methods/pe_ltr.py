"""PE-LTR: weights, above given bounds, that bring the weighted sum of the task gradients close to zero.

Lin, Chen, Pei, Sun, Xiao, Sun, Zhang, Ou and Jiang, "A Pareto-Efficient Algorithm for Multiple Objective
Optimization in E-Commerce Recommendation", RecSys 2019.

At every step the network descends with the weights in use, and the weights of the next step are computed from the
same gradients: their inner products are formed (PELTR-1) and the sum of the weights above the bounds is made as
short as it can be without regard to their signs (PELTR-2, PELTR-3). The nearest weights that respect the bounds
(PELTR-4) give the sum's length (PELTR-5), how far it may be from the shortest one (PELTR-6), and the next weights
(PELTR-7), for the trunk and the heads (PELTR-8). They start at 1/K (PELTR-9).

For three tasks or more the two steps PELTR-2 and PELTR-4 do not give the shortest sum. `solver="exact"` puts the
quadratic program in their place; PELTR-6 bounds what the published steps miss.

Derivation: derivations/pe_ltr.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import ArrayLike

from mtlref.contract import Cadence, Method, Reads, Step, same_tasks
from mtlref.notation import Array, DomainError, NonFiniteError, count, equation, matrix, vector
from mtlref.qp import minimum_norm, project_simplex, shares
from mtlref.state import State

RANK_TOLERANCE = 1e-14
"""PELTR-C3: an eigenvalue of the scaled system counts as 0 up to this share, times K + 1, of the largest."""


@dataclass(frozen=True, eq=False)
class PELTRState(State):
    """What PE-LTR remembers: `weights` (K,), w(t), in use at the step that comes."""

    weights: Array


@dataclass(frozen=True)
class PELTR(Method):
    """PE-LTR (PELTR-1 … PELTR-9).

    `bounds` (K,): c, the least weight of each task, in [0, 1] and with Σ c ≤ 1; None is 0 for every task.
    `timing` (PELTR-C1): the weights computed from a step's gradients are used at the "next" step, or at the "same".
    `solver` (PELTR-C2): "published", the two steps of the paper, or "exact", the optimum that they stand for.
    Errors: DomainError for a hyper-parameter out of range.
    """

    bounds: Sequence[float] | None = None
    solver: Literal["published", "exact"] = "published"
    timing: Literal["next", "same"] = "next"

    stem: ClassVar[str] = "pe_ltr"
    title: ClassVar[str] = "PE-LTR"
    source: ClassVar[str] = "Lin et al., RecSys 2019, PECsolver"
    reads: ClassVar[Reads] = "gram"
    cadence: ClassVar[Cadence] = "step"
    tags: ClassVar[dict[str, str]] = {
        "gram": "PELTR-1",
        "w_hat": "PELTR-2",
        "multiplier": "PELTR-3",
        "w_tilde": "PELTR-4",
        "objective": "PELTR-5",
        "kkt_residual": "PELTR-6",
        "w_next": "PELTR-7",
    }
    heads: ClassVar[str] = "PELTR-8"
    start: ClassVar[str] = "PELTR-9"

    def __post_init__(self) -> None:
        if self.bounds is not None:
            object.__setattr__(self, "bounds", tuple(float(c) for c in vector("bounds", self.bounds)))
            self._shares(len(self.bounds))
        if self.solver not in ("published", "exact"):
            message = f"solver = {self.solver!r} must be 'published' or 'exact' (PELTR-C2)"
            raise DomainError(message, argument="solver", value=self.solver, equation="PELTR-4")
        if self.timing not in ("next", "same"):
            message = f"timing = {self.timing!r} must be 'next' or 'same' (PELTR-C1)"
            raise DomainError(message, argument="timing", value=self.timing, equation="PELTR-7")

    @property
    def lagged(self) -> bool:
        """Whether the weights in use come from the step before: with timing "next"."""
        return self.timing == "next"

    def _shares(self, K: int) -> tuple[Array, float]:
        """Return c (K,) and the slack s = 1 − Σ c. Errors: ShapeError if there are not K bounds."""
        return shares(np.zeros(K) if self.bounds is None else self.bounds, K)

    def init(self, n_tasks: int) -> PELTRState:
        """Return the state before the first step: w_i = 1/K. Errors: ShapeError if there are not K bounds."""
        K = count("n_tasks", n_tasks)
        self._shares(K)
        return PELTRState(initial_weights(K))

    def step(self, state: State, losses: ArrayLike, jacobian: ArrayLike | None = None) -> Step:
        """Return the weights in use now and the state with w(t+1), from the Jacobian (K, D) and, unused, the losses.

        The rows of `jacobian` are the gradients of the unweighted losses with respect to the shared parameters.
        Errors: ShapeError, DomainError; NonFiniteError where an inner product of gradients is beyond float64.
        """
        # MEASURE
        _, w = same_tasks(state, PELTRState)
        J, exponent = self._inputs(losses, jacobian, len(w))
        c, slack = self._shares(len(w))
        A = gram(J)

        # RELAX
        w_hat = relaxed_weights(A, c, slack)
        multiplier = relaxed_multiplier(A, w_hat, c)

        # PROJECT
        w_tilde = projected_weights(w_hat, slack) if self.solver == "published" else optimal_weights(J, c)
        objective = squared_length(J, w_tilde, c)
        kkt_residual = optimality_residual(J, w_tilde, c, slack)

        # WEIGHTS
        w_next = bounded_weights(w_tilde, c)
        w_used = w if self.timing == "next" else w_next
        return Step(
            weights=w_used,
            head_weights=head_weights(w_used),
            state=PELTRState(w_next),
            terms={
                "gram": restored("PELTR-1", A, exponent),
                "w_hat": w_hat,
                "multiplier": float(restored("PELTR-3", multiplier, exponent)),
                "w_tilde": w_tilde,
                "objective": float(restored("PELTR-5", objective, exponent)),
                "kkt_residual": float(restored("PELTR-6", kkt_residual, exponent)),
                "w_next": w_next,
            },
        )

    def resumed(self, state: State, weights: Array) -> PELTRState:
        """Return the state with `weights` in use: it remembers nothing else."""
        same_tasks(state, PELTRState)
        return PELTRState(vector("weights", weights))

    def _inputs(self, losses: ArrayLike, jacobian: ArrayLike | None, K: int) -> tuple[Array, int]:
        """Check the losses (K,); return the Jacobian (K, D) over 2^exponent, with entries below 1, and exponent."""
        vector("losses", losses, K)
        if jacobian is None:
            message = "PELTR-1 needs the Jacobian; jacobian is None"
            raise DomainError(message, argument="jacobian", equation="PELTR-1")
        J = matrix("jacobian", jacobian, K, "PELTR-1")
        exponent = math.frexp(float(np.max(np.abs(J), initial=0.0)))[1]
        return np.asarray(np.ldexp(J, -exponent)), exponent


@equation
def gram(jacobian: Array) -> Array:
    """PELTR-1: A = J Jᵀ, A_ij = g_i · g_j.

    `jacobian` (K, D), the gradients of the unweighted losses; returns (K, K).
    """
    return np.asarray(jacobian @ jacobian.T)


@equation
def relaxed_weights(A: Array, c: Array, slack: float) -> Array:
    """PELTR-2: [ŵ; λ] = M⁻¹ [−A c; s], M = [[A, 1], [1ᵀ, 0]]: the minimum of ‖Jᵀ(ŵ + c)‖² over Σ ŵ = s, of any sign.

    `A` (K, K), `c` (K,), `slack` = s = 1 − Σ c; returns ŵ (K,). Where M is singular, ŵ of least norm (PELTR-C3). The
    rows and columns of M are scaled so that no gradient's scale hides another's.
    """
    K = len(A)
    squares = np.diag(A)
    sigma = math.sqrt(np.min(squares[squares > 0])) if np.any(squares > 0) else 1.0
    unit = np.append(np.sqrt(squares + sigma**2), 1 / sigma)
    M = np.block([[A, np.ones((K, 1))], [np.ones((1, K)), np.zeros((1, 1))]]) / unit[:, None] / unit[None, :]
    z = np.append(-A @ c, slack) / unit
    values, vectors = np.linalg.eigh(M)
    regular = np.abs(values) > RANK_TOLERANCE * (K + 1) * np.max(np.abs(values))
    if np.all(regular):
        return np.asarray((np.linalg.solve(M, z) / unit)[:K])
    solution = vectors[:, regular] @ ((vectors[:, regular].T @ z) / values[regular])
    w_hat, null = (solution / unit)[:K], (vectors[:, ~regular] / unit[:, None])[:K]
    N = np.linalg.qr(null / np.max(np.abs(null), axis=0))[0]
    return np.asarray(w_hat - N @ (N.T @ w_hat))


@equation
def relaxed_multiplier(A: Array, w_hat: Array, c: Array) -> float:
    """PELTR-3: λ = −(ŵ + c)ᵀ A (ŵ + c): the multiplier of Σ ŵ = s in PELTR-2, less the squared length of its sum.

    `A` (K, K), `w_hat`, `c` (K,); returns a number of at most 0: −λ bounds the objective from below.
    """
    w = w_hat + c
    return -float(w @ A @ w)


@equation
def projected_weights(w_hat: Array, slack: float) -> Array:
    """PELTR-4: w̃ = argmin ‖w̃ − ŵ‖² over w̃ ≥ 0, Σ w̃ = s (PELTR-E1).

    `w_hat` (K,), `slack` = s; returns (K,). Solved by QP-1.
    """
    return project_simplex(w_hat, slack)


def optimal_weights(jacobian: Array, c: Array) -> Array:
    """Return w̃ = w − c ≥ 0, w the weights of QP-2: what `solver="exact"` has in the place of PELTR-4.

    `jacobian` (K, D), `c` (K,); returns (K,). Errors: CertificateError if the optimum cannot be certified.
    """
    return minimum_norm(jacobian, c).weights - c


@equation
def squared_length(jacobian: Array, w_tilde: Array, c: Array) -> float:
    """PELTR-5: f = ‖d‖², d = Jᵀ(w̃ + c).

    `jacobian` (K, D), `w_tilde`, `c` (K,); returns a number of at least 0.
    """
    d = (w_tilde + c) @ jacobian
    return float(d @ d)


@equation
def optimality_residual(jacobian: Array, w_tilde: Array, c: Array, slack: float) -> float:
    """PELTR-6: ρ = max_i (d·d − d·b_i)₊, b_i = s g_i + Jᵀ c: 0 for the optimum, and f − minimum ≤ 2ρ.

    `jacobian` (K, D), `w_tilde`, `c` (K,), `slack` = s; returns a number of at least 0. Since w̃ sums to s,
    d·d − d·b_i = Σ_j w̃_j g_j·d − s g_i·d.
    """
    slopes = jacobian @ ((w_tilde + c) @ jacobian)
    return max(0.0, float(w_tilde @ slopes - slack * np.min(slopes)))


@equation
def bounded_weights(w_tilde: Array, c: Array) -> Array:
    """PELTR-7: w(t+1) = w̃ + c.

    `w_tilde`, `c` (K,); returns (K,), at least c and with sum 1.
    """
    return w_tilde + c


@equation
def head_weights(w: Array) -> Array:
    """PELTR-8: h_i = w_i: the weights multiply the losses, so head i descends ∇(w_i L_i).

    `w` (K,), the weights in use; returns (K,).
    """
    return w


@equation
def initial_weights(K: int) -> Array:
    """PELTR-9: w_i(0) = 1/K.

    Returns (K,).
    """
    return np.full(K, 1 / K)


def restored(tag: str, value: Array | float, exponent: int) -> Array:
    """Return `value`, inner products of gradients that were divided by 2^exponent, in the gradients' own scale.

    Errors: NonFiniteError, with `tag`, if it is beyond float64 there.
    """
    with np.errstate(over="ignore", under="ignore"):
        result = np.asarray(np.ldexp(value, 2 * exponent))
    if not np.isfinite(result).all():
        message = f"{tag} is beyond the largest float64: it holds squares of gradients of size 2^{exponent}"
        raise NonFiniteError(message, argument="jacobian", value=float(np.max(np.abs(result))), equation=tag)
    return result
