"""Implementations that are wrong in other ways than the listed defects: what no single replaced equation expresses,
and what somebody may write. Each must fail."""

from __future__ import annotations

import numpy as np

from mtlref.conformance import Implementation
from tests.conformance import right as r

WRONG = []
"""All of them."""


def wrong(method, **declared):
    """Register a function of a problem and a state as the step of an implementation."""

    def register(function):
        WRONG.append(Implementation(method, name=function.__name__, step=function, **declared))
        return function

    return register


def wrong_run(method, **declared):
    """Register a function of a run as the only door of an implementation."""

    def register(function):
        WRONG.append(Implementation(method, name=function.__name__, run=function, **declared))
        return function

    return register


def softmax(x):
    """The softmax of x."""
    e = np.exp(x - np.max(x))
    return e / e.sum()


def total_to(K, u):
    """u, scaled to a sum of K."""
    return K * u / np.sum(u)


# GRADNORM


def parts(problem, state):
    """w, L, L(0), J, n, α and the rate."""
    start = problem.losses if state.initial_losses is None else state.initial_losses
    J = problem.jacobian
    return state.weights, problem.losses, start, J, np.linalg.norm(J, axis=1), problem.method.alpha, problem.method.lr


def moved(w, L, start, n, alpha, lr):
    """The right next weights from norms n."""
    pace = L / start
    side = np.sign(w * n - np.mean(w * n) * (pace / np.mean(pace)) ** alpha)
    return total_to(len(w), w - lr * side * n)


@wrong("gradnorm")
def norm_without_the_bias(problem, state):
    w, L, start, J, _n, alpha, lr = parts(problem, state)
    return {"w_next": moved(w, L, start, np.linalg.norm(J[:, :-1], axis=1), alpha, lr)}


@wrong("gradnorm")
def gradients_accumulated_over_the_tasks(problem, state):
    w, L, start, J, _n, alpha, lr = parts(problem, state)
    return {"w_next": moved(w, L, start, np.linalg.norm(np.cumsum(J, axis=0), axis=1), alpha, lr)}


@wrong("gradnorm")
def largest_entry_for_the_norm(problem, state):
    w, L, start, J, _n, alpha, lr = parts(problem, state)
    return {"w_next": moved(w, L, start, np.abs(J).max(axis=1), alpha, lr)}


@wrong("gradnorm")
def guard_in_the_progress(problem, state):
    w, L, start, _J, n, alpha, _lr = parts(problem, state)
    r_i = L / (start + 1e-8)
    target = np.mean(w * n) * (r_i / np.mean(r_i)) ** alpha
    return {**r.gradnorm_python(problem, state), "target": target}


@wrong("gradnorm")
def guard_in_the_sum(problem, state):
    found = r.gradnorm_python(problem, state)
    return {"w_next": np.array(found["w_next"]) / (1 + 1e-8)}


@wrong("gradnorm")
def power_before_the_mean(problem, state):
    w, L, start, _J, n, alpha, lr = parts(problem, state)
    return {"w_next": moved(w, (L / start) ** alpha, np.ones(len(w)), n, 1.0, lr)}


@wrong("gradnorm")
def mean_of_unweighted_norms(problem, state):
    w, L, start, _J, n, alpha, lr = parts(problem, state)
    pace = L / start
    side = np.sign(w * n - np.mean(n) * (pace / np.mean(pace)) ** alpha)
    return {"w_next": total_to(len(w), w - lr * side * n)}


@wrong("gradnorm")
def floor_under_the_weights(problem, state):
    w = problem.n_tasks * 0.05
    return {"w_next": total_to(problem.n_tasks, np.maximum(r.gradnorm_python(problem, state)["w_next"], w))}


@wrong("gradnorm")
def renormalised_before_the_step(problem, state):
    found = r.gradnorm_python(problem, state)
    w = total_to(problem.n_tasks, state.weights)
    return {"w_next": w - problem.method.lr * np.array(found["dw"])}


@wrong("gradnorm")
def gradient_of_the_balance_in_the_network(problem, state):
    found = r.gradnorm_python(problem, state)
    leak = 0.01 * (np.sign(found["dw"]) @ problem.jacobian)
    return {"w_next": found["w_next"], "weights": found["weights"], "direction": found["direction"] + leak}


@wrong("gradnorm")
def network_detached(problem, state):
    return {**r.gradnorm_python(problem, state), "direction": np.zeros(problem.jacobian.shape[1])}


@wrong("gradnorm")
def reported_and_not_used(problem, state):
    found = r.gradnorm_python(problem, state)
    return {**found, "direction": np.array(found["w_next"]) @ problem.jacobian}


@wrong("gradnorm")
def heads_with_squared_weights(problem, state):
    return {**r.gradnorm_python(problem, state), "head_weights": state.weights**2}


@wrong("gradnorm")
def single_precision_undeclared(problem, state):
    return r.gradnorm_single(problem, state)


def gradnorm_run(run, baseline, rate=lambda t: 1.0):
    """A run in which `baseline`(t, losses so far, problem) is L(0)."""
    w, seen, rows = np.ones(run.n_tasks), [], []
    for t, problem in enumerate(run):
        seen.append(problem.losses)
        start = baseline(t, seen, problem)
        n = np.linalg.norm(problem.jacobian, axis=1)
        w_next = moved(w, problem.losses, start, n, problem.method.alpha, rate(t) * problem.method.lr)
        rows.append((w, w_next))
        w = w_next
    return {"weights": [w for w, _ in rows], "w_next": [w for _, w in rows]}


@wrong_run("gradnorm")
def start_is_the_mean_of_three_steps(run):
    return gradnorm_run(run, lambda t, seen, problem: np.mean(seen[:3], axis=0))


@wrong_run("gradnorm")
def start_is_the_step_before(run):
    return gradnorm_run(run, lambda t, seen, problem: seen[max(t - 1, 0)])


@wrong_run("gradnorm")
def start_is_the_largest_loss(run):
    return gradnorm_run(run, lambda t, seen, problem: np.max(seen, axis=0))


@wrong_run("gradnorm")
def start_is_an_evaluation(run):
    known = {}

    def baseline(t, seen, problem):
        if problem.evaluation is not None and t:
            known.setdefault("start", problem.evaluation)
        return known.get("start", seen[0])

    return gradnorm_run(run, baseline)


@wrong_run("gradnorm")
def rate_that_decays(run):
    return gradnorm_run(run, lambda t, seen, problem: seen[0], lambda t: 1 / (1 + t))


@wrong_run("gradnorm")
def softmax_of_free_parameters(run):
    v, K, rows = np.zeros(run.n_tasks), run.n_tasks, []
    for problem in run:
        w, n = K * softmax(v), np.linalg.norm(problem.jacobian, axis=1)
        pace = problem.losses / run.steps[0].losses
        side = np.sign(w * n - np.mean(w * n) * (pace / np.mean(pace)) ** problem.method.alpha)
        v = v - problem.method.lr * w * (side * n - np.sum(side * n * w) / K)
        rows.append((w, K * softmax(v)))
    return {"weights": [w for w, _ in rows], "w_next": [w for _, w in rows]}


# DWA


def dwa_run(run, epoch, pair=lambda t: (t, t - 1), first=1):
    """A run on `epoch`(problem), with ratios of the epochs `pair`(t), from the epoch `first` on."""
    K, seen, after = run.n_tasks, [], []
    for t, problem in enumerate(run):
        seen.append(epoch(problem))
        a, b = pair(t)
        ratio = np.ones(K) if t < first else seen[a] / seen[b]
        after.append(K * softmax(ratio / problem.method.temperature))
    return {"weights": [np.ones(K), *after[:-1]], "w_next": after}


@wrong_run("dwa")
def ratio_of_last_batches(run):
    return dwa_run(run, lambda problem: problem.batches[-1])


@wrong_run("dwa")
def ratio_of_medians(run):
    return dwa_run(run, lambda problem: np.median(problem.batches, axis=0))


@wrong_run("dwa")
def ratio_of_the_batches_in_an_epoch(run):
    K = run.n_tasks
    after = [K * softmax(p.batches[-1] / p.batches[-2] / p.method.temperature) for p in run]
    return {"weights": [np.ones(K), *after[:-1]], "w_next": after}


@wrong_run("dwa")
def an_epoch_late(run):
    return dwa_run(run, lambda problem: problem.losses, lambda t: (t - 1, t - 2), 2)


@wrong_run("dwa")
def to_the_first_epoch(run):
    return dwa_run(run, lambda problem: problem.losses, lambda t: (t, 0))


@wrong_run("dwa")
def one_more_epoch_of_ones(run):
    return dwa_run(run, lambda problem: problem.losses, first=2)


@wrong_run("dwa")
def evaluations_for_training_losses(run):
    return dwa_run(run, lambda p: p.losses if p.evaluation is None else p.evaluation)


@wrong("dwa")
def gradient_through_the_ratio(problem, state):
    found = r.dwa_log(problem, state)
    return {**found, "direction": found["direction"] + 0.05 * problem.jacobian.sum(axis=0)}


@wrong("dwa")
def ratio_that_is_clipped(problem, state):
    if state.losses_prev is None:
        return {"w_next": np.ones(problem.n_tasks)}
    ratio = np.clip(problem.losses / state.losses_prev, 0.5, 1.5)
    return {"w_next": problem.n_tasks * softmax(ratio / problem.method.temperature)}


@wrong("dwa")
def guard_in_the_ratio(problem, state):
    before = np.full(problem.n_tasks, 1.0) if state.losses_prev is None else state.losses_prev
    ratio = np.ones(len(before)) if state.losses_prev is None else problem.losses / (before + 1e-8)
    return {"w_next": problem.n_tasks * softmax(ratio / problem.method.temperature)}


@wrong("dwa")
def tasks_that_change_places(problem, state):
    found = np.array(r.dwa_quotients(problem, state)["w_next"])
    return {"w_next": found[::-1] if len(found) > 2 else found}


# COV-WEIGHTING


def cov_run(run, weights_of, evaluated=False):
    """A run whose weights are `weights_of` the history; with `evaluated`, the evaluations are steps as well."""
    history, weights = [], []
    for problem in run:
        history.append(problem.losses)
        weights.append(weights_of(history))
        if evaluated and problem.evaluation is not None:
            history.append(problem.evaluation)
    return {"weights": weights}


def of_all(history):
    """The right weights."""
    return r.coefficients(history, np.ones(len(history)))


@wrong_run("cov")
def evaluations_update_the_statistics(run):
    return cov_run(run, of_all, evaluated=True)


@wrong_run("cov")
def a_window_of_five_steps(run):
    return cov_run(run, lambda history: of_all(history[-5:]))


@wrong_run("cov")
def the_first_step_counts_twice(run):
    return cov_run(run, lambda history: of_all([history[0], *history]))


@wrong_run("cov")
def without_the_first_step(run):
    return cov_run(run, lambda history: of_all(history[1:] or history))


@wrong_run("cov")
def variation_of_the_logarithms(run):
    return cov_run(run, lambda history: of_all([np.log1p(row) for row in history]))


@wrong_run("cov")
def absolute_deviation(run):
    def weights_of(history):
        mean = [np.mean(history[:t], axis=0) for t in range(1, len(history))]
        ratio = np.array([np.ones(run.n_tasks), *(L / m for L, m in zip(history[1:], mean, strict=True))])
        c = np.mean(np.abs(ratio - ratio.mean(axis=0)), axis=0) / ratio.mean(axis=0)
        return total_to(1, c) if c.any() else np.full(len(c), 1 / len(c))

    return cov_run(run, weights_of)


@wrong_run("cov")
def a_least_share(run):
    return cov_run(run, lambda history: total_to(1, np.maximum(of_all(history), 0.02)))


@wrong_run("cov")
def guard_in_the_coefficient(run):
    return cov_run(run, lambda history: total_to(1, of_all(history) + 1e-8))


REMEMBERED = []


@wrong_run("cov")
def history_that_is_never_reset(run):
    REMEMBERED[:] = [row for row in REMEMBERED if len(row) == run.n_tasks]
    weights = []
    for problem in run:
        REMEMBERED.append(problem.losses)
        weights.append(of_all(REMEMBERED))
    return {"weights": weights}


# UNCERTAINTY WEIGHTING


def uw(problem, state):
    """w, s, L, the rate and the right slope for the gaussian."""
    s, L = state.log_variances, problem.losses
    w = 0.5 * np.exp(-s)
    return w, s, L, problem.method.lr, 0.5 - w * L


@wrong("uncertainty")
def losses_detached(problem, state):
    return {**r.uncertainty_complex(problem, state), "direction": np.zeros(problem.jacobian.shape[1])}


@wrong("uncertainty")
def reported_twice_those_in_use(problem, state):
    return {**r.uncertainty_complex(problem, state), "weights": np.exp(-state.log_variances)}


@wrong("uncertainty")
def heads_without_the_half(problem, state):
    return {**r.uncertainty_complex(problem, state), "head_weights": np.exp(-state.log_variances)}


@wrong("uncertainty")
def log_variances_clipped(problem, state):
    w, s, _L, lr, ds = uw(problem, state)
    return {"s_next": np.clip(s - lr * ds, -0.5, 2.0), "weights": w}


@wrong("uncertainty")
def price_of_the_absolute_value(problem, state):
    w, s, L, lr, _ds = uw(problem, state)
    return {"s_next": s - lr * (0.5 * np.sign(s) - w * L)}


@wrong("uncertainty")
def mean_over_the_tasks(problem, state):
    _w, s, _L, lr, ds = uw(problem, state)
    return {"s_next": s - lr * ds / len(s)}


@wrong("uncertainty")
def one_noise_for_all(problem, state):
    _w, s, _L, lr, ds = uw(problem, state)
    return {"s_next": s - lr * np.mean(ds)}


@wrong("uncertainty")
def slope_in_the_deviation(problem, state):
    _w, s, L, lr, _ds = uw(problem, state)
    sigma = np.exp(s / 2)
    return {"s_next": 2 * np.log(np.maximum(sigma - lr * (1 / sigma - L / sigma**3), 1e-3))}


@wrong_run("uncertainty")
def momentum_undeclared(run):
    s, v, after = np.zeros(run.n_tasks), 0.0, []
    for problem in run:
        v = 0.9 * v + 0.5 - 0.5 * np.exp(-s) * problem.losses
        s = s - problem.method.lr * v
        after.append(s)
    return {"s_next": after}


@wrong_run("uncertainty")
def weights_a_step_old(run):
    found = r.uncertainty_loop(run)
    return {**found, "weights": [found["weights"][0], *found["weights"][:-1]]}


# FIXED AND EQUAL WEIGHTS


@wrong("fixed")
def scaled_down_if_above_one(problem, state):
    w = r.fixed_loop(problem, state)["w"]
    return {"weights": w / max(1.0, w.sum())}


@wrong_run("fixed")
def weights_that_decay(run):
    w = np.broadcast_to(run.method.weights, run.n_tasks)
    return {"weights": [w * 0.99**t for t in range(len(run))]}


@wrong("fixed")
def one_over_the_loss(problem, state):
    return {"weights": r.fixed_loop(problem, state)["w"] / np.maximum(problem.losses, 1e-8)}


@wrong("equal")
def random_weights(problem, state):
    return {"weights": total_to(problem.n_tasks, np.random.default_rng().uniform(0.5, 1.5, problem.n_tasks))}


@wrong("equal")
def gradients_of_equal_length(problem, state):
    J = problem.jacobian
    lengths = np.linalg.norm(J, axis=1, keepdims=True)
    return {"weights": np.ones(len(J)), "direction": (J / np.where(lengths > 0, lengths, 1)).sum(axis=0)}


@wrong("equal")
def overwritten(problem, state):
    problem.losses[:] = 1.0
    return {"weights": problem.losses}


@wrong("equal")
def wrong_shape(problem, state):
    return {"weights": np.ones((problem.n_tasks, 1))}


@wrong("equal")
def not_a_number(problem, state):
    return {"weights": np.where(problem.losses > 1.5, np.nan, 1.0)}
