"""Implementations that are right and different: from the equations, in NumPy or in plain Python, by other roads.

None of them imports the methods of the package. They differ in order of summation, precision, buffers, what they
remember, how they reach the same number, and by what they declare.
"""

from __future__ import annotations

import cmath
import math

import numpy as np

from mtlref.conformance import Implementation

RIGHT = []
"""All of them."""


def right(method, name, **declared):
    """Register a function of a problem and a state as the step of an implementation."""

    def register(function):
        RIGHT.append(Implementation(method, name=name, step=function, **declared))
        return function

    return register


def right_run(method, name, **declared):
    """Register a function of a run as the only door of an implementation."""

    def register(function):
        RIGHT.append(Implementation(method, name=name, run=function, **declared))
        return function

    return register


def combined(w, J):
    """Σ w_i g_i, the last task first."""
    total = np.zeros_like(J[0])
    for i in reversed(range(len(w))):
        total += w[i] * J[i]
    return total


# GRADNORM


@right("gradnorm", "plain Python, math.fsum, tasks reversed")
def gradnorm_python(problem, state):
    K, alpha, lr = problem.n_tasks, problem.method.alpha, problem.method.lr
    w, L = [float(x) for x in state.weights], [float(x) for x in problem.losses]
    start = L if state.initial_losses is None else [float(x) for x in state.initial_losses]
    n = [math.hypot(*(float(x) for x in row)) for row in problem.jacobian]
    G = [math.fabs(w[i] * n[i]) for i in range(K)]
    mean = math.fsum(reversed(G)) / K
    pace = [L[i] / start[i] for i in range(K)]
    r = [K * p / math.fsum(reversed(pace)) for p in pace]
    target = [mean * math.pow(x, alpha) for x in r]
    dw = [0.0] * K
    for i in reversed(range(K)):
        side = (G[i] > target[i]) - (G[i] < target[i])
        dw[i] = side * math.copysign(n[i], w[i]) if w[i] else 0.0
    u = [w[i] - lr * dw[i] for i in range(K)]
    total = math.fsum(reversed(u))
    w_next = [x / total * K for x in u]
    distance = math.fsum(abs(G[i] - target[i]) for i in reversed(range(K)))
    terms = {"G": G, "G_bar": mean, "r": r, "target": target, "L_grad": distance, "dw": dw, "w_next": w_next}
    return {**terms, "weights": w, "head_weights": w, "direction": combined(w, problem.jacobian)}


def gradnorm_numpy(w, L, start, J, alpha, lr, one):
    """A step in the precision of its arguments: squares and a root for the norms, exp and log for the power."""
    K = len(w)
    n = np.sqrt((J * J).sum(axis=1))
    G = np.abs(w * n)
    pace = L / start
    r = pace / (pace.sum() / K)
    with np.errstate(divide="ignore"):
        power = np.exp(alpha * np.log(r)) if alpha else np.ones(K, r.dtype)
    target = (G.sum() / K) * power
    u = w - lr * np.where(target > G, -1, np.where(target < G, 1, 0)).astype(w.dtype) * np.sign(w) * n
    return (u * (one * K / u.sum())).astype(w.dtype)


@right("gradnorm", "single precision throughout", dtype="float32")
def gradnorm_single(problem, state):
    f = np.float32
    w, L, J = state.weights.astype(f), problem.losses.astype(f), problem.jacobian.astype(f)
    start = L if state.initial_losses is None else state.initial_losses.astype(f)
    w_next = gradnorm_numpy(w, L, start, J, f(problem.method.alpha), f(problem.method.lr), f(1))
    return {"w_next": w_next, "weights": w, "direction": combined(w, J)}


class GradNormLoop:
    """A training loop's object: buffers of its own, written into in place."""

    def __init__(self, K):
        self.w, self.start = np.ones(K), None

    def step(self, L, J, alpha, lr):
        if self.start is None:
            self.start = L.copy()
        used = self.w.copy()
        self.w[:] = gradnorm_numpy(self.w, L, self.start, J, alpha, lr, 1.0)
        return used, self.w.copy()


@right_run("gradnorm", "an object with buffers of its own")
def gradnorm_object(run):
    loop = GradNormLoop(run.n_tasks)
    rows = [loop.step(p.losses, p.jacobian, p.method.alpha, p.method.lr) for p in run]
    return {"weights": [used for used, _ in rows], "w_next": [after for _, after in rows]}


@right("gradnorm", "weights that are shares, declared", choices={"scale": "1/K"})
def gradnorm_shares(problem, state):
    found = gradnorm_python(problem, state)
    scaled = ("w_next", "weights", "head_weights", "direction")
    return {name: np.array(found[name]) / problem.n_tasks for name in scaled}


@right("gradnorm", "a fixed exponent and rate, declared", choices={"alpha": 0.75, "lr": 0.0125})
def gradnorm_fixed(problem, state):
    start = problem.losses if state.initial_losses is None else state.initial_losses
    w, J = state.weights, problem.jacobian
    return {"w_next": gradnorm_numpy(w, problem.losses, start, J, 0.75, 0.0125, 1.0)}


@right("gradnorm", "weights below zero clamped, declared", choices={"negative": "clamp"})
def gradnorm_clamped(problem, state):
    found = gradnorm_python(problem, state)
    u = np.clip(state.weights - problem.method.lr * np.array(found["dw"]), 0, None)
    return {"w_next": len(u) * u / np.sum(u), "weights": state.weights}


@right("gradnorm", "Adam on the weights, declared", choices={"optimiser": "adam"})
def gradnorm_adam(problem, state):
    found, memory = gradnorm_python(problem, state), state.optimiser
    g, t = np.array(found["dw"]), memory.step + 1
    m = memory.first_moment + (1 - 0.9) * (g - memory.first_moment)
    v = memory.second_moment + (1 - 0.999) * (g * g - memory.second_moment)
    u = state.weights - problem.method.optimiser.lr * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
    return {"w_next": len(u) * u / np.sum(u), "weights": state.weights, "dw": g}


# DWA


@right("dwa", "log-sum-exp, tasks reversed")
def dwa_log(problem, state):
    now, before = problem.losses[::-1], state.losses_prev
    ratio = np.ones(problem.n_tasks) if before is None else np.exp(np.log1p((now - before[::-1]) / before[::-1]))
    x = ratio / problem.method.temperature
    log_total = max(x) + math.log(math.fsum(math.exp(value - max(x)) for value in x))
    w_next = np.exp(x - log_total + math.log(len(x)))[::-1]
    w = state.weights
    return {
        "ratio": ratio[::-1],
        "w_next": w_next,
        "weights": w,
        "head_weights": w,
        "direction": combined(w, problem.jacobian),
    }


@right("dwa", "quotients of exponentials: 1 / Σ_j exp((w_j − w_k)/T)")
def dwa_quotients(problem, state):
    K, before = problem.n_tasks, state.losses_prev
    ratio = [1.0 if before is None else problem.losses[k] / before[k] for k in range(K)]
    gap = np.subtract.outer(ratio, ratio) / problem.method.temperature
    return {"w_next": [K / math.fsum(np.exp(np.minimum(gap[:, k], 700.0))) for k in range(K)]}


@right("dwa", "single precision throughout", dtype="float32")
def dwa_single(problem, state):
    f = np.float32
    L = problem.losses.astype(f)
    ratio = np.ones(len(L), f) if state.losses_prev is None else L / state.losses_prev.astype(f)
    x = np.exp((ratio - ratio.max()) / f(problem.method.temperature))
    return {"ratio": ratio, "w_next": f(len(L)) * x / x.sum(), "weights": state.weights.astype(f)}


@right_run("dwa", "a loop over the batches, with a running mean and the official code's table of losses")
def dwa_batches(run):
    epochs, K, weights, after = [], run.n_tasks, [], []
    for t, problem in enumerate(run):
        mean = np.zeros(K)
        for count, batch in enumerate(problem.batches, start=1):
            mean += (batch - mean) / count
        if t < 2:
            weights.append(np.ones(K))
        else:
            x = np.exp(np.divide(epochs[-1], epochs[-2]) / problem.method.temperature)
            weights.append(K * x / x.sum())
        epochs.append(mean)
        x = np.ones(K) if t == 0 else np.exp(epochs[-1] / epochs[-2] / problem.method.temperature)
        after.append(K * x / x.sum())
    return {"weights": weights, "w_next": after}


@right("dwa", "a plain softmax, declared", choices={"scale": "1/K", "temperature": 2.0})
def dwa_shares(problem, state):
    found = dwa_quotients(problem, state)
    return {"w_next": np.array(found["w_next"]) / problem.n_tasks, "weights": state.weights / problem.n_tasks}


# COV-WEIGHTING


def coefficients(history, share, observe="ratio"):
    """The weights from the whole history (T, K), the newest row's losses included; `share` (T,) weighs the steps."""
    mean = [np.average(history[:t], axis=0, weights=share[len(share) - t :]) for t in range(1, len(history) + 1)]
    seen = np.array(history)
    if observe == "ratio":
        seen = np.array([np.ones(len(history[0])), *(history[t] / mean[t - 1] for t in range(1, len(history)))])
    centre = np.average(seen, axis=0, weights=share)
    c = np.sqrt(np.average((seen - centre) ** 2, axis=0, weights=share)) / centre
    return np.full(len(c), 1 / len(c)) if not c.any() else c / c.sum()


@right_run("cov", "the whole history at every step")
def cov_history(run):
    history, weights = [], []
    for problem in run:
        history.append(problem.losses)
        weights.append(coefficients(history, np.ones(len(history))))
    return {"weights": weights, "head_weights": weights, "alpha": weights}


@right_run("cov", "the whole history, older steps counting less, declared", choices={"decay": 0.8})
def cov_decayed(run):
    history, weights = [], []
    for problem in run:
        history.append(problem.losses)
        weights.append(coefficients(history, 0.8 ** np.arange(len(history))[::-1]))
    return {"weights": weights}


@right_run("cov", "the weights of the steps before, declared", choices={"statistics": "previous"})
def cov_previous(run):
    history, weights = [], []
    for problem in run:
        K = run.n_tasks
        weights.append(coefficients(history, np.ones(len(history))) if history else np.full(K, 1 / K))
        history.append(problem.losses)
    return {"weights": weights}


@right_run("cov", "the losses themselves, declared", choices={"observed": "loss"})
def cov_of_losses(run):
    history, weights = [], []
    for problem in run:
        history.append(problem.losses)
        weights.append(coefficients(history, np.ones(len(history)), "loss"))
    return {"weights": weights}


@right("cov", "sums of squares, not means, and a population of t − 1")
def cov_sums(problem, state):
    t, L = state.step + 1, problem.losses
    ratio = np.ones(len(L)) if state.loss_means is None else L / state.loss_means
    old = state.ratio_means
    mean = old + (ratio - old) / t
    squares = state.M * (t - 1) + (ratio - old) * (ratio - mean)
    deviation = np.sqrt(squares / max(t - 1, 1))
    c = deviation / mean
    total = math.fsum(c)
    w = np.full(len(c), 1 / len(c)) if total == 0 else c / total
    return {"ratio": ratio, "mu_ratio": mean, "weights": w, "alpha": w, "direction": combined(w, problem.jacobian)}


@right("cov", "single precision throughout", dtype="float32")
def cov_single(problem, state):
    f = np.float32
    a, L = f(1) / f(state.step + 1), problem.losses.astype(f)
    ratio = np.ones(len(L), f) if state.loss_means is None else L / state.loss_means.astype(f)
    old = state.ratio_means.astype(f)
    mean = (f(1) - a) * old + a * ratio
    M = (f(1) - a) * state.M.astype(f) + a * (ratio - old) * (ratio - mean)
    c = np.sqrt(np.maximum(M, f(0))) / mean
    w = np.full(len(c), f(1) / f(len(c))) if not c.any() else c / c.sum(dtype=f)
    return {"weights": w}


@right_run("cov", "weights that sum to K, declared", choices={"scale": "K"})
def cov_sum_to_K(run):
    return {"weights": [run.n_tasks * w for w in cov_history(run)["weights"]]}


# UNCERTAINTY WEIGHTING


def form(method, K):
    """a, b and D of each task: the density's, from the book."""
    known = {"gaussian": (0.5, 1.0), "softmax": (1.0, 1.0), "laplace": (1.0, 0.5)}
    names = method.likelihoods if isinstance(method.likelihoods, tuple) else (method.likelihoods,) * K
    outputs = method.dimensions if isinstance(method.dimensions, tuple) else (method.dimensions or 1,) * K
    return *np.array([known[name] for name in names]).T, np.array(outputs, dtype=float)


@right("uncertainty", "slopes by complex steps of the objective")
def uncertainty_complex(problem, state):
    K, s, L = problem.n_tasks, state.log_variances, problem.losses
    a, b, D = form(problem.method, K)

    def objective(values):
        return sum(a[i] * cmath.exp(-b[i] * values[i]) * L[i] + D[i] * values[i] / 2 for i in reversed(range(K)))

    ds = [objective([s[j] + (1e-40j if j == i else 0) for j in range(K)]).imag / 1e-40 for i in range(K)]
    w = a * np.exp(-b * s)
    s_next = s - problem.method.lr * np.array(ds)
    terms = {"w": w, "objective": objective(s).real, "ds": ds, "s_next": s_next}
    return {**terms, "weights": w, "head_weights": w, "direction": combined(w, problem.jacobian)}


for declared in (
    {"likelihoods": "softmax"},
    {"likelihoods": "laplace"},
    {"likelihoods": ("gaussian", "softmax", "laplace"), "dimensions": (2, 1, 3)},
    {"dimensions": 4},
):
    right("uncertainty", f"complex steps, {declared}", choices=declared)(uncertainty_complex)


@right("uncertainty", "precisions in plain Python: w = 1/(2σ²)")
def uncertainty_python(problem, state):
    lr, rows = problem.method.lr, []
    for s, L in zip(state.log_variances, problem.losses, strict=True):
        sigma = math.exp(s / 2)
        rows.append((1 / (2 * sigma**2), s - lr * (0.5 - L / (2 * sigma**2))))
    return {"weights": [w for w, _ in rows], "s_next": [s for _, s in rows]}


@right("uncertainty", "single precision throughout", dtype="float32")
def uncertainty_single(problem, state):
    f = np.float32
    s, L = state.log_variances.astype(f), problem.losses.astype(f)
    w = f(0.5) * np.exp(-s)
    ds = f(0.5) - w * L
    return {"w": w, "ds": ds, "s_next": s - f(problem.method.lr) * ds, "weights": w}


@right_run("uncertainty", "single precision, a loop of its own", dtype="float32")
def uncertainty_loop(run):
    s = np.zeros(run.n_tasks, np.float32)
    after, weights = [], []
    for problem in run:
        w = np.exp(-s) / np.float32(2)
        s -= np.float32(problem.method.lr) * (np.float32(0.5) - w * problem.losses.astype(np.float32))
        weights.append(w)
        after.append(s.copy())
    return {"weights": weights, "s_next": after}


@right_run("uncertainty", "Adam, declared", choices={"optimiser": "adam"})
def uncertainty_adam(run):
    s, m, v, after = np.zeros(run.n_tasks), 0.0, 0.0, []
    for t, problem in enumerate(run, start=1):
        g = 0.5 - 0.5 * np.exp(-s) * problem.losses
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        s = s - problem.method.optimiser.lr * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        after.append(s)
    return {"s_next": after}


# FIXED AND EQUAL WEIGHTS


@right("fixed", "the given weights, one task at a time")
def fixed_loop(problem, state):
    given = problem.method.weights
    w = np.empty(problem.n_tasks, np.float32 if problem.n_tasks < 0 else np.float64)
    for i in reversed(range(problem.n_tasks)):
        w[i] = given[i] if isinstance(given, tuple) else given
    return {"w": w, "weights": w, "head_weights": w, "direction": combined(w, problem.jacobian)}


@right("fixed", "single precision", dtype="float32")
def fixed_single(problem, state):
    w = np.broadcast_to(np.float32(problem.method.weights), problem.n_tasks)
    return {"weights": w, "direction": w @ problem.jacobian.astype(np.float32)}


@right("fixed", "weights held by the code, declared", choices={"weights": (1.0, 0.1, 3.0)})
def fixed_own(problem, state):
    w = np.array([1.0, 0.1, 3.0])
    return {"weights": w, "direction": w.dot(problem.jacobian)}


@right("equal", "the sum of the gradients")
def equal_sum(problem, state):
    total = [math.fsum(column) for column in problem.jacobian.T]
    return {"weights": [1] * problem.n_tasks, "head_weights": np.ones(problem.n_tasks, int), "direction": total}


@right("equal", "the mean, declared", choices={"scale": "1/K"})
def equal_mean(problem, state):
    return {"weights": np.full(problem.n_tasks, 1 / problem.n_tasks), "direction": problem.jacobian.mean(axis=0)}


@right_run("equal", "single precision, runs alone", dtype="float32")
def equal_run(run):
    ones = np.ones(run.n_tasks, np.float32)
    return {"weights": [ones for _ in run], "direction": [p.jacobian.astype(np.float32).sum(axis=0) for p in run]}
