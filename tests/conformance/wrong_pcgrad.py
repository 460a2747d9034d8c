"""Wrong in other ways than the listed defects: PCGrad as somebody may write it. Each must fail."""

from __future__ import annotations

import numpy as np

from mtlref.conformance import Implementation
from tests.conformance import right_gradients as r

WRONG = []
"""All of them."""


def named(function):
    """The name that reports use."""
    return function.__name__.replace("_", " ")


# PCGRAD, ALGORITHM 1 ON VECTORS


def surgery(**declared):
    """Register a function from the gradients and the orders to the direction."""

    def register(function):
        def step(problem, state):
            return {"direction": function(problem.jacobian.copy(), problem.draw)}

        WRONG.append(Implementation("pcgrad", name=named(function), step=step, **declared))
        return function

    return register


def meeting(factor, conflict=lambda a, b: a @ b < 0):
    """Algorithm 1 with another factor of g_j, or another condition."""

    def run(J, draw):
        changed = J.copy()
        for i, order in enumerate(draw):
            for j in order:
                if conflict(changed[i], J[j]):
                    changed[i] -= factor(changed[i], J[j], J[i]) * J[j]
        return changed.sum(axis=0)

    return run


def square(g):
    """‖g‖²."""
    return g @ g


@surgery()
def no_division_by_the_norm(J, draw):
    return meeting(lambda a, b, own: a @ b)(J, draw)


@surgery()
def norm_for_its_square(J, draw):
    return meeting(lambda a, b, own: a @ b / np.sqrt(square(b)))(J, draw)


@surgery()
def own_norm_below(J, draw):
    return meeting(lambda a, b, own: a @ b / square(own))(J, draw)


@surgery()
def product_of_norms_below(J, draw):
    return meeting(lambda a, b, own: a @ b / np.sqrt(square(own) * square(b)))(J, draw)


@surgery()
def a_millionth_below(J, draw):
    return meeting(lambda a, b, own: a @ b / (square(b) + 1e-6))(J, draw)


@surgery()
def a_trillionth_below(J, draw):
    return meeting(lambda a, b, own: a @ b / (square(b) + 1e-12))(J, draw)


@surgery()
def floor_below(J, draw):
    return meeting(lambda a, b, own: a @ b / max(square(b), 1e-8))(J, draw)


@surgery()
def only_clear_conflicts(J, draw):
    return meeting(lambda a, b, own: a @ b / square(b), lambda a, b: a @ b < -0.1 * np.sqrt(square(a) * square(b)))(
        J, draw
    )


@surgery()
def conflicts_above_an_absolute_threshold(J, draw):
    return meeting(lambda a, b, own: a @ b / square(b), lambda a, b: a @ b < -1e-6)(J, draw)


@surgery()
def agreement_removed(J, draw):
    return meeting(lambda a, b, own: a @ b / square(b), lambda a, b: a @ b > 0)(J, draw)


@surgery()
def nearly_all_of_it(J, draw):
    return meeting(lambda a, b, own: (1 - 1e-7) * (a @ b) / square(b))(J, draw)


@surgery()
def partners_altered_in_place(J, draw):
    for i, order in enumerate(draw):
        for j in order:
            if J[i] @ J[j] < 0:
                J[i] -= J[i] @ J[j] / square(J[j]) * J[j]
    return J.sum(axis=0)


@surgery()
def the_partner_is_projected(J, draw):
    changed = J.copy()
    for i, order in enumerate(draw):
        for j in order:
            if changed[j] @ J[i] < 0:
                changed[j] -= changed[j] @ J[i] / square(J[i]) * J[i]
    return changed.sum(axis=0)


@surgery()
def orders_read_backwards(J, draw):
    return r.surgery(J, draw[:, ::-1])


@surgery()
def orders_by_conflict(J, draw):
    unit = J / np.maximum(np.linalg.norm(J, axis=1, keepdims=True), 1e-300)
    return r.surgery(J, [sorted(order, key=lambda j, i=i: unit[i] @ unit[j]) for i, order in enumerate(draw)])


@surgery()
def next_tasks_order(J, draw):
    return r.surgery(J, [[j for j in draw[i - 1] if j != i] for i in range(len(J))])


@surgery()
def first_conflict_only(J, draw):
    changed = J.copy()
    for i, order in enumerate(draw):
        for j in order:
            if J[i] @ J[j] < 0:
                changed[i] -= J[i] @ J[j] / square(J[j]) * J[j]
                break
    return changed.sum(axis=0)


@surgery()
def last_partner_only(J, draw):
    return r.surgery(J, draw[:, -1:])


@surgery()
def first_task_kept(J, draw):
    return r.surgery(J, [[], *draw[1:]])


@surgery()
def against_the_sum_of_the_others(J, draw):
    total = J.sum(axis=0)
    changed = []
    for g in J:
        rest = total - g
        changed.append(g - min(g @ rest, 0) / square(rest) * rest if rest.any() else g)
    return np.sum(changed, axis=0)


@surgery()
def unit_gradients(J, draw):
    lengths = np.linalg.norm(J, axis=1, keepdims=True)
    return r.surgery(J / np.where(lengths > 0, lengths, 1), draw)


@surgery()
def lengths_restored(J, draw):
    total = np.zeros(J.shape[1])
    for i, order in enumerate(draw):
        own = J[i].copy()
        for j in order:
            if own @ J[j] < 0:
                own -= own @ J[j] / square(J[j]) * J[j]
        length = np.linalg.norm(own)
        total += own * (np.linalg.norm(J[i]) / length if length > 1e-12 else 1)
    return total


@surgery()
def length_of_the_plain_sum(J, draw):
    d = r.surgery(J, draw)
    length = np.linalg.norm(d)
    return d * (np.linalg.norm(J.sum(axis=0)) / length if length > 0 else 1)


@surgery()
def half_way(J, draw):
    return (r.surgery(J, draw) + J.sum(axis=0)) / 2


@surgery()
def tensor_by_tensor(J, draw):
    half = J.shape[1] // 2
    return np.concatenate([r.surgery(J[:, :half], draw), r.surgery(J[:, half:], draw)])


@surgery()
def coordinate_by_coordinate(J, draw):
    return np.concatenate([r.surgery(column[:, None], draw) for column in J.T])


@surgery()
def heads_in_the_norm(J, draw):
    D = J.shape[1]
    return r.surgery(np.hstack([J, 0.1 * np.eye(len(J))]), draw)[:D]


@surgery()
def single_precision_undeclared(J, draw):
    return r.surgery(J.astype(np.float32), draw)


@surgery()
def plain_sum(J, draw):
    return J.sum(axis=0)


@surgery()
def tasks_without_gradient_stop_all(J, draw):
    return r.surgery(J, draw) if J.any(axis=1).all() else np.zeros(J.shape[1])


@surgery()
def equal_tasks_counted_once(J, draw):
    once = np.unique(J, axis=0)
    return r.surgery(J, draw) if len(once) == len(J) else once.sum(axis=0)


@surgery()
def clipped_to_length_hundred(J, draw):
    d = r.surgery(J, draw)
    return d * min(1.0, 100 / max(np.linalg.norm(d), 1e-300))


def extended(name, change):
    """PCGrad with coefficients and weights, `change`d."""

    def step(problem, state):
        J = problem.jacobian
        C = r.in_coefficients(J, problem.draw)
        w = C.sum(axis=0)
        found = {"coefficients": C, "weights": w, "direction": w @ J, "head_weights": np.ones(len(J))}
        return {**found, **change(found)}

    WRONG.append(Implementation("pcgrad", name=name, step=step))


extended("reported ones", lambda found: {"weights": np.ones_like(found["weights"])})
extended("row sums reported", lambda found: {"weights": found["coefficients"].sum(axis=1)})
extended("heads get the weights", lambda found: {"head_weights": found["weights"]})
extended("transposed coefficients", lambda found: {"coefficients": found["coefficients"].T})


def with_momentum(run):
    """A direction that keeps nine tenths of the one before."""
    directions, before = [], 0.0
    for problem in run:
        before = 0.9 * before + r.surgery(problem.jacobian, problem.draw)
        directions.append(before)
    return {"direction": directions}


def first_orders_for_ever(run):
    """The first step's orders at every step."""
    draw = run.steps[0].draw
    return {"direction": [r.surgery(problem.jacobian, draw) for problem in run]}


def one_step_late(run):
    """The direction of the step before."""
    found = [r.surgery(problem.jacobian, problem.draw) for problem in run]
    return {"direction": [found[0], *found[:-1]]}


for function in (with_momentum, first_orders_for_ever, one_step_late):
    WRONG.append(Implementation("pcgrad", name=named(function), run=function))


def reported_with_own_orders():
    """Its own orders, right; weights of one reported whatever it descends."""
    rng = np.random.default_rng(3)

    def step(problem, state):
        K = problem.n_tasks
        orders = [rng.permutation([j for j in range(K) if j != i]) for i in range(K)]
        return {"direction": r.surgery(problem.jacobian, orders), "weights": np.ones(K)}

    return Implementation("pcgrad", name="own orders, reported ones", step=step, choices={"order": "own"})


def two_orders_in_turn():
    """Two fixed orders, one after the other."""
    calls = []

    def step(problem, state):
        calls.append(problem)
        K = problem.n_tasks
        orders = [[j for j in range(K) if j != i][:: 1 if len(calls) % 2 else -1] for i in range(K)]
        return {"direction": r.surgery(problem.jacobian, orders)}

    return Implementation("pcgrad", name="two orders in turn", step=step, choices={"order": "own"})


WRONG += [reported_with_own_orders(), two_orders_in_turn()]
