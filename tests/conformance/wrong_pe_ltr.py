"""Wrong in other ways than the listed defects: PE-LTR as somebody may write it. Each must fail."""

from __future__ import annotations

import numpy as np

from mtlref.conformance import Implementation
from tests.conformance import right_gradients as r
from tests.conformance.wrong_pcgrad import named, square

WRONG = []
"""All of them."""


# PE-LTR, THE TWO STEPS


def two_steps(**declared):
    """Register a function from the Jacobian and the bounds to the next weights."""

    def register(function):
        def step(problem, state):
            c = r.bounds_of(problem)
            return {"w_next": function(problem.jacobian, c)}

        WRONG.append(Implementation("pe_ltr", name=named(function), step=step, **declared))
        return function

    return register


def relaxed(J, c, A=None):
    """The right relaxed weights, from other inner products if they are given."""
    A = J @ J.T if A is None else A
    return r.lapack(A / A.diagonal().max(), c, "float64")


def answer(J, c, A=None, project=r.by_sorting):
    """The right two steps, from other inner products or with another projection."""
    return project(relaxed(J, c, A), 1 - c.sum()) + c


@two_steps()
def ridge_beside_the_mean_square(J, c):
    A = J @ J.T
    return answer(J, c, A + 1e-10 * np.trace(A) / len(A) * np.eye(len(A)))


@two_steps()
def ridge_of_a_millionth(J, c):
    return answer(J, c, J @ J.T + 1e-6 * np.eye(len(J)))


@two_steps()
def single_precision_in_the_system(J, c):
    A = J @ J.T
    return r.by_sorting(r.lapack((A / A.diagonal().max()).astype("float32"), c, "float32") * 1.0, 1 - c.sum()) + c


@two_steps()
def half_of_the_singular_values(J, c):
    A = J @ J.T
    return r.by_sorting(r.pseudo_inverse(A / A.diagonal().max(), c, "float64", 1e-3), 1 - c.sum()) + c


@two_steps()
def normal_equations(J, c):
    A, K = J @ J.T, len(J)
    M = np.block([[A, np.ones((K, 1))], [np.ones((1, K)), np.zeros((1, 1))]])
    w_hat = (np.linalg.inv(M.T @ M) @ M.T @ np.append(-A @ c, 1 - c.sum()))[:K]
    return r.by_sorting(w_hat, 1 - c.sum()) + c


def kinked(v, s):
    """The projection by SLSQP on the distance, not on its square, to the solver's own tolerance."""
    from scipy.optimize import minimize

    return minimize(
        lambda x: np.linalg.norm(x - v),
        np.maximum(v, 0),
        method="SLSQP",
        bounds=[(0, None)] * len(v),
        constraints={"type": "eq", "fun": lambda x: x.sum() - s},
    ).x


@two_steps()
def projection_by_slsqp(J, c):
    return answer(J, c, project=kinked)


@two_steps()
def optimum_by_fifty_rounds_of_frank_wolfe(J, c):
    s = 1 - c.sum()
    x = np.full(len(c), s / len(c))
    for _ in range(50):
        d = J.T @ (x + c)
        towards = np.zeros(len(c))
        towards[np.argmin(J @ d)] = s
        change = J.T @ (towards - x)
        share = np.clip(-(d @ change) / max(change @ change, 1e-300), 0, 1)
        x = x + share * (towards - x)
    return x + c


@two_steps()
def bisection_of_twenty_halvings(J, c):
    def project(v, s):
        low, high = v.min() - s, v.max()
        for _ in range(20):
            middle = (low + high) / 2
            low, high = (middle, high) if np.maximum(v - middle, 0).sum() > s else (low, middle)
        return np.maximum(v - low, 0)

    return answer(J, c, project=project)


@two_steps()
def negative_ones_shifted_once(J, c):
    def project(v, s):
        inside = v > 0
        return np.where(inside, np.maximum(v + (s - v[inside].sum()) / inside.sum(), 0), 0)

    return answer(J, c, project=project)


@two_steps()
def mean_taken_off_then_divided(J, c):
    def project(v, s):
        x = np.maximum(v - (v.sum() - s) / len(v), 0)
        return s * x / x.sum()

    return answer(J, c, project=project)


@two_steps()
def absolute_values(J, c):
    def project(v, s):
        return s * np.abs(v) / np.abs(v).sum()

    return answer(J, c, project=project)


@two_steps()
def largest_takes_all(J, c):
    def project(v, s):
        return s * (v == v.max())

    return answer(J, c, project=project)


@two_steps()
def literal_projection_then_divided(J, c):
    w = r.by_sorting(relaxed(J, c), 1.0) + c
    return w / w.sum()


@two_steps()
def bounds_clipped_in_at_the_end(J, c):
    w = np.maximum(answer(J, 0 * c), c)
    return w / w.sum()


@two_steps()
def bounds_mixed_in_at_the_end(J, c):
    return (1 - c.sum()) * answer(J, 0 * c) + c


@two_steps()
def projection_of_the_sum(J, c):
    return r.by_sorting(relaxed(J, c) + c, 1.0)


@two_steps()
def bounds_with_the_wrong_sign(J, c):
    A, K = J @ J.T, len(J)
    M = np.block([[A, np.ones((K, 1))], [np.ones((1, K)), np.zeros((1, 1))]])
    return r.by_sorting(np.linalg.solve(M, np.append(A @ c, 1 - c.sum()))[:K], 1 - c.sum()) + c


@two_steps()
def bounds_backwards(J, c):
    return answer(J, c[::-1].copy())


@two_steps()
def bounds_ignored(J, c):
    return answer(J, 0 * c)


@two_steps()
def covariances(J, c):
    centred = J - J.mean(axis=1, keepdims=True)
    return answer(J, c, centred @ centred.T) if J.shape[1] > len(J) else answer(J, c) + 1e-6


@two_steps()
def absolute_inner_products(J, c):
    return answer(J, c, np.abs(J @ J.T))


@two_steps()
def conflicts_only(J, c):
    A = J @ J.T
    return answer(J, c, np.where(np.eye(len(A), dtype=bool), A, np.minimum(A, 0)) + 1e-9 * np.eye(len(A)))


@two_steps()
def lengths_for_squares(J, c):
    A, n = J @ J.T, np.linalg.norm(J, axis=1)
    return answer(J, c, A / np.sqrt(np.outer(n, n)))


@two_steps()
def last_coordinate_left_out(J, c):
    return answer(J, c, J[:, :-1] @ J[:, :-1].T + 1e-12 * np.eye(len(J)))


@two_steps()
def inverse_squares_whatever_the_angles(J, c):
    inverse = 1 / np.maximum(np.sum(J**2, axis=1), 1e-300)
    return (1 - c.sum()) * inverse / inverse.sum() + c


@two_steps()
def sum_to_K(J, c):
    return len(c) * answer(J, c)


@two_steps()
def rounded_to_six_digits(J, c):
    return np.round(answer(J, c), 6)


def whole(name, change, with_state=False, declared=None):
    """PE-LTR with all observables of a right one, `change`d."""

    def step(problem, state):
        J, c = problem.jacobian, r.bounds_of(problem)
        s, A = 1 - c.sum(), J @ J.T
        w_hat = relaxed(J, c)
        w_tilde = r.by_sorting(w_hat, s)
        d = (w_tilde + c) @ J
        found = {
            "gram": A,
            "w_hat": w_hat,
            "multiplier": -square((w_hat + c) @ J),
            "w_tilde": w_tilde,
            "objective": square(d),
            "kkt_residual": max(0.0, float(w_tilde @ (J @ d) - s * np.min(J @ d))),
            "w_next": w_tilde + c,
            "weights": state.weights,
            "head_weights": state.weights,
            "direction": state.weights @ J,
        }
        return {**found, **change(found, problem, state)}

    WRONG.append(Implementation("pe_ltr", name=name, step=step, choices=declared or {}))


whole("half of the objective", lambda found, problem, state: {"objective": found["objective"] / 2})
whole("residual of either sign", lambda found, problem, state: {"kkt_residual": found["kkt_residual"] - 1e-6})
whole("multiplier of the projected weights", lambda found, problem, state: {"multiplier": -found["objective"]})
whole("mean inner products", lambda found, problem, state: {"gram": found["gram"] / problem.jacobian.shape[1]})
whole("relaxed with the bounds", lambda found, problem, state: {"w_hat": found["w_hat"] + r.bounds_of(problem)})
whole("projected with the bounds", lambda found, problem, state: {"w_tilde": found["w_next"]})
whole("reports the next weights", lambda found, problem, state: {"weights": found["w_next"]})
whole("heads get the next weights", lambda found, problem, state: {"head_weights": found["w_next"]})
whole(
    "direction of the next weights", lambda found, problem, state: {"direction": found["w_next"] @ problem.jacobian}
)
whole(
    "averaged with the weights before",
    lambda found, problem, state: {"w_next": 0.9 * state.weights + 0.1 * found["w_next"]},
)
whole(
    "weighted gradients measured",
    lambda found, problem, state: {"w_next": answer(problem.jacobian * state.weights[:, None], r.bounds_of(problem))},
)
whole(
    "gradients over their losses",
    lambda found, problem, state: {
        "w_next": answer(problem.jacobian / problem.losses[:, None], r.bounds_of(problem))
    },
)
whole("same step declared and not done", lambda found, problem, state: {}, declared={"timing": "same"})
whole("optimum declared and not made", lambda found, problem, state: {}, declared={"solver": "exact"})


def ruled(name, solve):
    """One that says that it follows the rule for dependent gradients, and solves otherwise."""

    def step(problem, state):
        J, c = problem.jacobian, r.bounds_of(problem)
        A = J @ J.T
        return {"w_next": r.by_sorting(solve(A / A.diagonal().max(), c), 1 - c.sum()) + c}

    WRONG.append(Implementation("pe_ltr", name=name, step=step, choices={"silent": "ruled"}))


def independent(A):
    """Whether the relaxed system is regular."""
    K = len(A)
    M = np.block([[A, np.ones((K, 1))], [np.ones((1, K)), np.zeros((1, 1))]])
    return np.linalg.cond(M) < 1e11


def least_whole(A, c):
    """The least norm of ŵ + c, not of ŵ."""
    w_hat = r.cut_off(A, c, "float64")
    null = np.linalg.svd(np.vstack([A, np.ones(len(A))]))
    rank = np.count_nonzero(null[1] > 1e-11 * null[1][0])
    N = null[2][rank:]
    return w_hat if independent(A) else w_hat - N.T @ (N @ (w_hat + c))


def equal_where_singular(A, c):
    """Equal weights where the system is singular."""
    return r.lapack(A, c, "float64") if independent(A) else np.full(len(A), (1 - c.sum()) / len(A))


def first_ones(A, c):
    """The first tasks alone, as many as are independent."""
    rank = np.linalg.matrix_rank(A, 1e-10, hermitian=True)
    if independent(A) or rank + 1 >= len(A):
        return r.cut_off(A, c, "float64")
    few, w_hat = rank + 1, np.zeros(len(A))
    K = few
    M = np.block([[A[:K, :K], np.ones((K, 1))], [np.ones((1, K)), np.zeros((1, 1))]])
    w_hat[:K] = np.linalg.solve(M, np.append(-(A @ c)[:K], 1 - c.sum()))[:K]
    return w_hat


def tiny_ridge(A, c):
    """A ridge of 1e-7 where the system is singular."""
    return r.lapack(A if independent(A) else A + 1e-7 * np.eye(len(A)), c, "float64")


ruled("rule: least norm of the whole", least_whole)
ruled("rule: equal weights", equal_where_singular)
ruled("rule: first tasks alone", first_ones)
ruled("rule: a ridge", tiny_ridge)


def running(name, start, use):
    """A run of PE-LTR from `start`(K, c), with the Jacobian that `use` makes of this step's and the one before."""

    def run(problems):
        c = r.bounds_of(problems.steps[0])
        w, before = start(problems.n_tasks, c), problems.steps[0].jacobian
        weights, after = [], []
        for problem in problems:
            weights.append(w)
            w = answer(use(problem.jacobian, before), c)
            before = problem.jacobian
            after.append(w)
        return {"weights": weights, "w_next": after}

    WRONG.append(Implementation("pe_ltr", name=name, run=run))


running("starts at the bounds", lambda K, c: c + (1 - c.sum()) * np.eye(K)[0], lambda now, before: now)
running("gradients of the step before", lambda K, c: np.full(K, 1 / K), lambda now, before: before)
running("gradients averaged", lambda K, c: np.full(K, 1 / K), lambda now, before: (now + before) / 2)
