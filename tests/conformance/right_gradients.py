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


def inverted(A, c, dtype):
    """The inverse of the system, its last row with the other sign."""
    K = len(A)
    M = np.vstack([np.column_stack([A, np.ones(K)]), [-1.0] * K + [0.0]])
    return (np.linalg.inv(M) @ np.append(-(A @ c), c.sum() - 1))[:K]


def least_squares(A, c, dtype):
    """The system by least squares, in the type given."""
    K = len(A)
    M = np.ones((K + 1, K + 1), dtype)
    M[:K, :K], M[K, K] = A, 0
    return np.linalg.lstsq(M, np.append(-A @ c, 1 - c.sum()).astype(dtype), rcond=None)[0][:K]


def cut_off(A, c, dtype):
    """The pseudo-inverse with a cut that tells dependent gradients: ŵ of least norm there."""
    return pseudo_inverse(A, c, dtype, 1e-11)


def by_shifting_the_slope(A, c, dtype):
    """A(ŵ + c) = μ 1 for a μ that brings the sum to 1; where A is singular, by a direction without a gradient."""
    K = len(A)
    if np.linalg.cond(A) > 1e7:
        return lapack(A, c, dtype)
    w = np.linalg.solve(A, np.ones(K))
    return w / w.sum() - c


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


def after_clipping(v, s):
    """The projection of what clipping leaves, which is the same where v sums to s or more."""
    return by_sorting(np.maximum(v, 0), s)


def polished(v, s):
    """SLSQP on the square for the support, and the shift on it in closed form."""
    from scipy.optimize import minimize

    start = np.full(len(v), s / len(v))
    unit = max(1.0, np.abs(v).max())
    found = minimize(
        lambda x: np.sum((x - v / unit) ** 2),
        start,
        jac=lambda x: 2 * (x - v / unit),
        bounds=[(0, None)] * len(v),
        constraints={"type": "eq", "fun": lambda x: x.sum() - s / unit, "jac": lambda x: np.ones(len(v))},
        options={"ftol": 1e-12},
    )
    inside = found.x > 1e-6
    x = np.where(inside, v + (s - v[inside].sum()) / inside.sum(), 0)
    return (
        x if np.all(x >= 0) and np.all((v - (v[inside].sum() - s) / inside.sum())[~inside] <= 0) else by_sorting(v, s)
    )


def one_by_one(v, s):
    """The projection by dropping the smallest weight until none is negative, in a list."""
    order = sorted(range(len(v)), key=lambda i: v[i])
    while True:
        theta = (sum(v[i] for i in order) - s) / len(order)
        if v[order[0]] >= theta or len(order) == 1:
            break
        order.pop(0)
    x = np.zeros(len(v), v.dtype)
    for i in order:
        x[i] = max(v[i] - theta, 0)
    return x


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


def pe_ltr(name, solve=lapack, project=by_sorting, dtype="float64", choices=None, transform=None, unscaled=False):
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
            scale = 1 if unscaled else A.diagonal().max()
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


def in_place(J, draw):
    """Algorithm 1 in buffers, partners divided by their length first, the sum taken from the last task."""
    J = np.array(J)
    unit, total, buffer = np.zeros_like(J), np.zeros_like(J[0]), np.empty_like(J[0])
    for g, u in zip(J, unit, strict=True):
        length = np.linalg.norm(g)
        if length > 0:
            np.divide(g, length, out=u)
    for i in range(len(J) - 1, -1, -1):
        buffer[:] = J[i]
        for j in draw[i]:
            buffer -= np.minimum(np.dot(buffer, unit[j]), 0) * unit[j]
        np.add(total, buffer, out=total)
    return total


def two_tensors(J, draw):
    """Algorithm 1 on gradients that are lists of two tensors, inner products summed over them."""
    D = J.shape[1]
    tasks = [[g[: D // 3], g[D // 3 :]] for g in J]

    def inner(a, b):
        return sum(float(x @ y) for x, y in zip(a, b, strict=True))

    total = [0.0, 0.0]
    for i, order in enumerate(draw):
        own = [x.copy() for x in tasks[i]]
        for j in order:
            dot = inner(own, tasks[j])
            if dot < 0:
                share = dot / inner(tasks[j], tasks[j])
                own = [x - share * y for x, y in zip(own, tasks[j], strict=True)]
        total = [x + y for x, y in zip(total, own, strict=True)]
    return np.concatenate(total)


def all_at_once(J, draw):
    """Algorithm 1 for all tasks at once, position by position, with a mask; a square of 0 is replaced by 1."""
    squares = np.sum(J * J, axis=1)
    squares[squares == 0] = 1
    changed = J.copy()
    for others in draw.T:
        dots = np.sum(changed * J[others], axis=1)
        changed = changed - (np.where(dots < 0, dots, 0) / squares[others])[:, None] * J[others]
    return np.einsum("kd->d", changed)


def transformed(name, combine, choices=None, after=lambda d, K: d, dtype="float64"):
    """PCGrad that gives the direction alone."""

    def step(problem, state):
        return {"direction": after(combine(problem.jacobian.astype(dtype), problem.draw), problem.n_tasks)}

    return Implementation("pcgrad", name=name, step=step, choices=choices or {}, dtype=dtype)


def directions(run):
    """A run of PCGrad."""
    return {"direction": [in_place(problem.jacobian, problem.draw) for problem in run]}


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
    pe_ltr("inverse", inverted),
    pe_ltr("inverse, not scaled", inverted, one_by_one, unscaled=True),
    pe_ltr("printed system, not scaled", unscaled=True),
    pe_ltr("least squares", least_squares, one_by_one),
    pe_ltr("least squares, float32", least_squares, dtype="float32"),
    pe_ltr("clipped first", lapack, after_clipping),
    pe_ltr("polished", eliminated, polished),
    pe_ltr("slopes", by_shifting_the_slope, by_active_sets),
    pe_ltr("rule for dependent gradients", cut_off, choices={"silent": "ruled"}),
    pe_ltr("bounds held", choices={"bounds": (0.1, 0.25, 0.05)}),
    pe_ltr("no bounds", pseudo_inverse, one_by_one, choices={"bounds": None}),
    pe_ltr("optimum in the same step", choices={"solver": "exact", "timing": "same"}),
    pe_ltr("float32 in the same step", lapack, by_active_sets, "float32", {"timing": "same"}),
    Implementation("pe_ltr", name="keeper", run=kept),
    transformed("buffers", in_place),
    transformed("buffers, float32", in_place, dtype="float32"),
    transformed("two tensors", two_tensors),
    transformed("all at once", all_at_once),
    transformed("all at once, float32", all_at_once, dtype="float32"),
    transformed("mean", surgery, {"reduction": "mean"}, lambda d, K: d / K),
    transformed("mean by scale", two_tensors, {"scale": "1/K"}, lambda d, K: d / K),
    transformed("itself too", all_at_once, {"include_self": True}),
    Implementation("pcgrad", name="runs", run=directions),
    pcgrad("vectors"),
    pcgrad("vectors, float32", "float32"),
    pcgrad("coefficients", coefficients=True),
    pcgrad("coefficients, float32", "float32", coefficients=True),
]
"""Every one of them passes every check."""
