"""HMoE: whether the descent along its masked gradient settles. The scores are free here: each tower is a number."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtlref import HMoE
from mtlref.autograd import value_and_jacobian
from mtlref.methods.hmoe import relation_weights
from mtlref.networks import Parameters

ETA = 0.01


def descended(A, start, y, steps, constrained=True):
    """The scores after some steps of descent on Σ_k ½ (out_k − y_k)², tower k's last bias being score k."""
    K, one = len(A), np.ones((1, 1))
    net = HMoE(n_inputs=1, n_experts=1, experts=(1,), towers=(1,) * K, constrained=constrained)
    S = np.array(start)

    def losses(parameters):
        outs = net.forward(parameters, one)
        return [((out - y_k) ** 2).sum() * 0.5 for out, y_k in zip(outs, y, strict=True)]

    def gradient(S):
        heads = tuple((0 * one, np.log(A[k])[None], 0 * one, S[k : k + 1]) for k in range(K))
        parameters = Parameters((one[None], one[None]), heads)
        J = value_and_jacobian(lambda flat: losses(parameters.rebuilt(flat)), parameters.flat)[1]
        return np.array([head[-1].sum() for head in parameters.rebuilt(J.blocks).heads])

    for _ in range(steps):
        S = S - ETA * gradient(S)
    return S


@pytest.mark.parametrize("a", [0.2, 0.45, 0.5, 0.55, 0.9])
def test_masked_scores_move_as_the_eigenvalues_say(a):
    """(1, −1) is an eigenvector: a step multiplies the difference by 1 − η a(2a − 1) with the mask and by
    1 − η (2a − 1)² without it, the sum by 1 − η a and 1 − η. At rest out = y = 0, so S = 0.
    """
    A, steps = np.array([[a, 1 - a], [1 - a, a]]), 60
    for constrained, difference, total in ((True, a * (2 * a - 1), a), (False, (2 * a - 1) ** 2, 1.0)):
        S = descended(A, [1.0, 0.4], [0.0, 0.0], steps, constrained)
        np.testing.assert_allclose(S[0] - S[1], 0.6 * (1 - ETA * difference) ** steps, rtol=1e-10)
        np.testing.assert_allclose(S[0] + S[1], 1.4 * (1 - ETA * total) ** steps, rtol=1e-10)


def test_at_the_start_masked_scores_drift_at_a_steady_rate():
    """a_kj = 1/K: S_i − S_j gains (y_i − y_j)/K a step, however many there were; without the mask it stands."""
    y, start = np.array([1.0, -2.0, 0.5]), np.array([0.3, 0.1, -0.4])
    for steps in (1, 50):
        S = descended(np.full((3, 3), 1 / 3), start, y, steps)
        np.testing.assert_allclose(np.diff(S), np.diff(start) + steps * ETA * np.diff(y) / 3, rtol=1e-10)
        S = descended(np.full((3, 3), 1 / 3), start, y, steps, constrained=False)
        np.testing.assert_allclose(np.diff(S), np.diff(start), rtol=1e-10)


@given(st.integers(2, 6), st.integers(0, 10_000))
def test_the_eigenvalues_of_the_masked_descent(K, seed):
    rng = np.random.default_rng(seed)
    others = rng.dirichlet(np.ones(K - 1), K) * rng.uniform(0, 0.499, (K, 1))
    A = np.zeros((K, K))
    A[~np.eye(K, dtype=bool)] = others.ravel()
    A[np.eye(K, dtype=bool)] = 1 - others.sum(axis=1)
    assert np.linalg.eigvals(np.diag(np.diag(A)) @ A).real.min() > 0
    a, b = rng.uniform(0.01, 0.99, 2)
    eigenvalues = np.linalg.eigvals(np.diag([a, b]) @ [[a, 1 - a], [1 - b, b]])
    np.testing.assert_allclose(np.prod(eigenvalues).real, a * b * (a + b - 1), atol=1e-13)
    if abs(a + b - 1) > 1e-6:
        assert (eigenvalues.real.min() > 0) == (a + b > 1)


def test_two_relations_without_a_bias_are_odd():
    rng = np.random.default_rng(3)
    relations, x = rng.standard_normal((2, 7, 2)), rng.standard_normal((40, 7))

    def excess(at):
        first, second = (a.value for a in relation_weights(list(relations), at))
        return first[:, 0] + second[:, 1] - 1

    np.testing.assert_allclose(excess(-x), -excess(x), atol=1e-14)
    assert np.abs(excess(x)).min() > 0
    shared = [a.value for a in relation_weights([relations[0]] * 2, x)]
    np.testing.assert_allclose(shared[0][:, 0] + shared[1][:, 1], 1.0, rtol=1e-14)
