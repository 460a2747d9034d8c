"""minimum-norm: the shortest convex combination of K gradients, on benign problems and on hard ones."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

from mtlref.bench.machine import peer
from mtlref.bench.measure import Contender, Setup
from mtlref.contract import compress
from mtlref.notation import Array
from mtlref.qp import minimum_norm

TITLE = "the weights of the shortest convex combination; what is compared is that combination's length"
BOUND = "the K×K factor and one least-squares solve of its size"
D = 2000
MOST = 200
"""SLSQP and cvxpy are asked for up to so many tasks: with 1000 SLSQP does not end within five minutes."""


def setups(full: bool, peers: bool) -> Iterator[Setup]:
    """Yield Jacobians (K, D): normal entries, and hard ones."""
    for K in (2, 10, 40, 200, 1000) if full else (2, 10, 40):
        yield setup("benign", np.random.default_rng(0).normal(size=(K, max(D, 2 * K))) + 0.3, peers)
    for kind, J in hard(10).items():
        yield setup(kind, J, peers)


def hard(K: int) -> dict[str, Array]:
    """Return conflicting, parallel and badly scaled gradients."""
    rng = np.random.default_rng(1)
    g = rng.normal(size=(K, D))
    return {
        "conflicting": g - 1.05 * g.mean(axis=0),
        "parallel": np.outer(np.linspace(1, 2, K), g[0]),
        "scales 1e±8": g * np.logspace(-8, 8, K)[:, None],
    }


def setup(kind: str, J: Array, peers: bool) -> Setup:
    """Return the contenders on one Jacobian: a peer that refuses it, or misses the length, is named in its stead."""
    R = compress(J)
    unit = max(float(np.linalg.norm(J, axis=1).min()), 1e-300)

    def length(weights: Any) -> list[Array]:
        return [np.array([1 + float(np.linalg.norm(np.asarray(weights) @ R)) / unit])]

    made = [
        Contender("bound", "bound", lambda: np.linalg.solve(compress(J) + np.eye(len(J)), np.ones(len(J)))),
        Contender("mtlref", "ours", lambda: minimum_norm(J).weights, length),
        Contender(
            "  the factor alone",
            "bound",
            lambda: compress(J),
            note="J → K×K by QR, where the inner products will not do",
        ),
        Contender("  the solve alone", "bound", lambda: minimum_norm(R), note="from K×K"),
    ]
    for name, make in (PEERS if peers else {"SciPy nnls": by_nnls}).items():
        call = make(J)
        refused = call is not None and misses(call, length, made[1])
        if call is not None:
            note = f"not compared: {refused}" if refused else ""
            made.append(Contender(name, "bound" if refused else "peer", harmless(call), length, note))
    return Setup({"kind": kind, "K": len(J), "D": J.shape[1]}, made, None, tolerance=1e-6)


def misses(call: Callable[[], Any], length: Callable[[Any], list[Array]], ours: Contender) -> str:
    """Return why a peer's answer cannot be compared, and nothing if it can."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            theirs = length(call())[0]
    except Exception as error:  # whatever a library raises is what it says of the problem
        return f"it refuses with {type(error).__name__}"
    difference = float(abs(theirs - length(ours.call())[0])[0])
    return f"its length is off by {difference:.1e} of the shortest gradient" if not difference <= 1e-6 else ""


def harmless(call: Callable[[], Any]) -> Callable[[], Any]:
    """Return the call with a refusal as its result."""

    def guarded() -> Any:
        with contextlib.suppress(Exception), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return call()
        return None

    return guarded


def by_nnls(J: Array) -> Callable[[], Any]:
    """Return SciPy's: w = a / Σ a, with a ≥ 0 the least squares of [Rᵀ; 1ᵀ] a = [0; 1]."""
    from scipy.optimize import nnls

    def call() -> Any:
        R = compress(J)
        a: Array = nnls(np.vstack([R.T / np.abs(R).max(), np.ones(len(R))]), np.append(np.zeros(len(R)), 1.0))[0]
        return a / a.sum()

    return call


def slsqp(J: Array) -> Callable[[], Any] | None:
    """Return SciPy's SLSQP on the Gram matrix."""
    from scipy.optimize import minimize

    K = len(J)
    if K > MOST:
        return None

    def call() -> Any:
        G = J @ J.T
        G = G / np.abs(G).max()
        sums = {"type": "eq", "fun": lambda w: w.sum() - 1, "jac": lambda w: np.ones(K)}
        options = {"ftol": 1e-15, "maxiter": 1000}
        fun, jac = lambda w: w @ G @ w, lambda w: 2 * G @ w
        found = minimize(fun, np.full(K, 1 / K), jac=jac, bounds=[(0, None)] * K, constraints=sums, options=options)
        return found.x

    return call


def quadprog(J: Array) -> Callable[[], Any] | None:
    """Return quadprog on the Gram matrix."""
    module: Any = peer("quadprog")
    if module is None:
        return None
    K = len(J)
    C = np.hstack([np.ones((K, 1)), np.eye(K)])
    b = np.append(1.0, np.zeros(K))
    return lambda: module.solve_qp(J @ J.T, np.zeros(K), C, b, 1)[0]


def cvxpy(J: Array, solver: str) -> Callable[[], Any] | None:
    """Return cvxpy with a solver, the problem built anew as its gradients are."""
    cp: Any = peer("cvxpy")
    if cp is None or len(J) > MOST:
        return None

    def call() -> Any:
        w = cp.Variable(len(J), nonneg=True)
        cp.Problem(cp.Minimize(cp.sum_squares(compress(J).T @ w)), [cp.sum(w) == 1]).solve(solver=solver)
        return w.value

    return call


PEERS: dict[str, Callable[[Array], Callable[[], Any] | None]] = {
    "SciPy nnls": by_nnls,
    "SciPy SLSQP": slsqp,
    "quadprog": quadprog,
    "cvxpy, Clarabel": partial(cvxpy, solver="CLARABEL"),
    "cvxpy, OSQP": partial(cvxpy, solver="OSQP"),
}
