"""Right and different: PE-LTR and PCGrad from their equations, without the specification's code."""

from __future__ import annotations

from itertools import combinations

import numpy as np

from mtlref.conformance import Implementation

# PE-LTR


def lapack(A, c, dtype):
    """The bordered system as it is printed, with both Lagrange conditions."""
    K = len(A)
    M = np.zeros((K + 1, K + 1), dtype)
    M[:K, :K], M[:K, K], M[K, :K] = A, 1, 1
    z = np.concatenate([-A @ c, [1 - c.sum()]]).astype(dtype)
    return np.linalg.solve(M, z)[:K]


def pseudo_inverse(A, c, dtype, cut=1e-15):
    """The same by a pseudo-inverse, which leaves out singular values up to a share `cut` of the largest."""
    K = len(A)
    M = np.block([[A, np.ones((K, 1))], [np.ones((1, K)), np.zeros((1, 1))]])
    return (np.linalg.pinv(M, cut) @ np.append(-A @ c, 1 - c.sum()))[:K]


def eliminated(A, c, dtype):
    """The last weight eliminated: K − 1 unknowns."""
    K = len(A)
    N = np.vstack([np.eye(K - 1), -np.ones((1, K - 1))])
    e = np.zeros(K)
    e[-1] = 1 - c.sum()
    if K == 1:
        return e
    x = np.linalg.solve(N.T @ A @ N, -N.T @ A @ (e + c))
    return N @ x + e


def by_sorting(v, s):
    """The projection by sorting, from the largest down."""
    u = np.sort(v)[::-1]
    theta = max((u[: k + 1].sum() - s) / (k + 1) for k in range(len(u)))
    return np.maximum(v - theta, 0)


def by_bisection(v, s):
    """The projection by bisection on the threshold, until it moves no more."""
    low, high = v.min() - s - 1, v.max()
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if np.maximum(v - middle, 0).sum() > s else (low, middle)
    x = np.maximum(v - (low + high) / 2, 0)
    return x if x.sum() == 0 else x + (x > 0) * (s - x.sum()) / max(1, np.count_nonzero(x))


def by_active_sets(v, s):
    """The projection by leaving out what becomes negative, the others shifted alike."""
    inside = np.ones(len(v), bool)
    while True:
        x = np.where(inside, v + (s - v[inside].sum()) / inside.sum(), 0)
        if np.all(x >= 0):
            return x
        inside &= x > 0


def optimum(J, c):
    """The exact optimum, by all supports."""
    K, s = len(J), 1 - c.sum()
    points = s * J + c @ J
    best, least = None, np.inf
    for size in range(1, K + 1):
        for support in map(list, combinations(range(K), size)):
            B = points[support]
            if size == 1:
                a = np.ones(1)
            else:
                a_rest = np.linalg.lstsq((B[1:] - B[0]).T, -B[0], rcond=None)[0]
                a = np.append(1 - a_rest.sum(), a_rest)
            length = np.linalg.norm(a @ B)
            if np.all(a >= 0) and length < least * (1 - 1e-12):
                least, best = length, np.zeros(K)
                best[support] = a
    return s * best + c


def bounds_of(problem):
    """c (K,)."""
    bounds = problem.method.bounds
    return np.zeros(problem.n_tasks) if bounds is None else np.array(bounds)


def pe_ltr(name, solve=lapack, project=by_sorting, dtype="float64", choices=None, transform=None):
    """PE-LTR from its two steps."""

    def step(problem, state):
        J = problem.jacobian.astype(dtype)
        K = problem.n_tasks
        bounds = problem.method.bounds
        c = np.zeros(K, dtype) if bounds is None else np.array(bounds, dtype)
        if problem.method.solver == "exact":
            w_next = optimum(J, c)
            found = {"w_next": w_next}
        else:
            A = J @ J.T
            scale = A.diagonal().max()
            w_hat = solve(A / scale, c, dtype)
            w_tilde = project(w_hat, 1 - c.sum())
            w_next = w_tilde + c
            found = {"gram": A, "w_hat": w_hat, "w_tilde": w_tilde, "w_next": w_next}
        w = w_next if problem.method.timing == "same" else state.weights
        found.update(weights=w, head_weights=w, direction=w @ J)
        return found if transform is None else transform(found, K)

    return Implementation("pe_ltr", name=name, step=step, dtype=dtype, choices=choices or {})


def times_K(found, K):
    """Weights in units of 1/K."""
    names = ("weights", "head_weights", "direction", "w_next")
    return {name: K * value if name in names else value for name, value in found.items()}


class Keeper:
    """PE-LTR that keeps its weights in a buffer of its own, for runs."""

    def __init__(self, K, bounds):
        self.w = np.full(K, 1 / K)
        self.c = np.zeros(K) if bounds is None else np.array(bounds)

    def step(self, J):
        used = self.w.copy()
        A = J @ J.T
        A /= A.diagonal().max()
        self.w[:] = by_active_sets(eliminated(A, self.c, "float64"), 1 - self.c.sum()) + self.c
        return used


def kept(run):
    """A run of `Keeper`."""
    keeper = Keeper(run.n_tasks, run.method.bounds)
    weights, after = [], []
    for problem in run:
        weights.append(keeper.step(problem.jacobian))
        after.append(keeper.w.copy())
    return {"weights": weights, "w_next": after}


# PCGRAD


def surgery(J, draw):
    """Algorithm 1 on vectors."""
    changed = J.copy()
    for i in range(len(J)):
        for j in draw[i]:
            overlap = changed[i] @ J[j]
            if overlap < 0:
                changed[i] -= overlap / (J[j] @ J[j]) * J[j]
    return changed.sum(axis=0)


def in_coefficients(J, draw):
    """The same on coefficients of the gradients, from their inner products, tasks from the last to the first."""
    G = J @ J.T
    C = np.eye(len(J), dtype=J.dtype)
    for i in reversed(range(len(J))):
        for j in draw[i]:
            overlap = C[i] @ G[:, j]
            if overlap < 0:
                C[i, j] -= overlap / G[j, j]
    return C


def pcgrad(name, dtype="float64", coefficients=False):
    """PCGrad with the order given."""

    def step(problem, state):
        J, draw = problem.jacobian.astype(dtype), problem.draw
        if not coefficients:
            return {"direction": surgery(J, draw)}
        C = in_coefficients(J, draw)
        w = C.sum(axis=0)
        return {"coefficients": C, "weights": w, "direction": w @ J, "head_weights": np.ones(len(J))}

    return Implementation("pcgrad", name=name, step=step, dtype=dtype)


RIGHT = [
    pe_ltr("printed system"),
    pe_ltr("pseudo-inverse", pseudo_inverse),
    pe_ltr("eliminated, bisection", eliminated, by_bisection),
    pe_ltr("active sets", lapack, by_active_sets),
    pe_ltr("float32", dtype="float32"),
    pe_ltr("same step", choices={"timing": "same"}),
    pe_ltr("times K", choices={"scale": "K"}, transform=times_K),
    pe_ltr("all supports", choices={"solver": "exact"}),
    Implementation("pe_ltr", name="keeper", run=kept),
    pcgrad("vectors"),
    pcgrad("vectors, float32", "float32"),
    pcgrad("coefficients", coefficients=True),
    pcgrad("coefficients, float32", "float32", coefficients=True),
]
"""Every one of them passes every check."""
