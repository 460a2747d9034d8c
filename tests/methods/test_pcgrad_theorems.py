"""PCGrad: the paper's theorems on quadratics, and how often the orders matter."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path

import numpy as np
import pytest

from mtlref.methods.pcgrad import PCGrad, partners
from tests.methods.test_pcgrad import take

DERIVATION = Path(__file__).parents[2] / "derivations" / "pcgrad.md"

# THEOREMS, ON QUADRATICS


def quadratics(rng, D=3):
    """Return two convex quadratics ½ (x − a)ᵀ A (x − a) as (A, a), and the largest eigenvalue of the sum."""
    both = []
    for _ in range(2):
        R = rng.standard_normal((D, D)) * rng.uniform(0.1, 2, D)
        both.append((R @ R.T, rng.standard_normal(D)))
    return both, float(np.linalg.eigvalsh(both[0][0] + both[1][0])[-1])


def test_theorem_1_on_quadratics():
    """Step 1/L descends by (t/2)(1 + cos φ) sin²φ (‖g1‖² + ‖g2‖²) at least, to the optimum or to cos φ = −1."""
    rng = np.random.default_rng(11)
    conflicts = 0
    for _ in range(8):
        both, lipschitz = quadratics(rng)
        x, t = 3 * rng.standard_normal(3), 1 / lipschitz

        def total(at, both=both):
            return sum(0.5 * (at - a) @ A @ (at - a) for A, a in both)

        for _ in range(400):
            J = np.array([A @ (x - a) for A, a in both])
            n = np.linalg.norm(J, axis=1)
            cosine = J[0] @ J[1] / (n[0] * n[1])
            y = x - t * (take(J).weights @ J)
            conflicts += cosine < 0
            bound = t / 2 * (1 + cosine) * (1 - cosine**2) * (n @ n) if cosine < 0 else 0.0
            assert total(y) <= total(x) - bound + 1e-12 * total(x)
            x = y
        assert np.linalg.norm(np.sum(J, axis=0)) < 1e-2 * np.max(n) or cosine < -1 + 1e-2
    assert conflicts > 100


def test_theorem_2_on_quadratics():
    """ℓ > ξL and t ≥ 2/(ℓ − ξL) imply that the step ends no higher than the plain one; cos φ ≤ −Φ follows."""
    rng = np.random.default_rng(12)
    met = 0
    for _ in range(4000):
        J = rng.standard_normal((2, 2)) * rng.uniform(0.1, 3, (2, 1))
        R = rng.standard_normal((2, 2))
        A = R @ R.T
        g, n = np.sum(J, axis=0), np.linalg.norm(J, axis=1)
        cosine, similarity = J[0] @ J[1] / (n[0] * n[1]), 2 * n[0] * n[1] / (n @ n)
        xi = (1 - cosine**2) * np.sum((J[0] - J[1]) ** 2) / (g @ g)
        L, curvature = np.linalg.eigvalsh(A)[-1], g @ A @ g / (g @ g)
        if cosine >= 0 or curvature <= xi * L:
            continue
        t, d = 2 / (curvature - xi * L) * rng.uniform(1, 2), take(J).weights @ J
        change = [-t * (g @ v) + t**2 / 2 * (v @ A @ v) for v in (d, g)]
        assert change[0] <= change[1] * (1 + 1e-12) + 1e-12
        assert cosine <= -similarity * (2 - cosine**2)
        met += 1
    assert met > 20


# HOW OFTEN: the figures of the derivation


def frequencies(K, D, problems=300, seed=2020):
    """Return in per cent how often, for Gaussian gradients, the orders matter, meeting oneself matters in one drawn
    order, and the direction conflicts with a task in one drawn order."""
    rng = np.random.default_rng(seed)
    counts = np.zeros(3)
    orders, method = list(permutations(range(K - 1))), PCGrad()
    for _ in range(problems):
        J = rng.standard_normal((K, D))
        draw = method.sample(rng, K)
        out = take(J, draw)
        others = [take(J, partners(K, False)[:, list(p)]).terms["projected"] for p in orders]
        counts[0] += any(np.max(np.abs(B - others[0])) > 1e-9 for B in others[1:])
        places = rng.integers(0, K, K)
        with_self = [np.insert(row, place, i) for i, (row, place) in enumerate(zip(draw, places, strict=True))]
        other = take(J, with_self, PCGrad(include_self=True))
        counts[1] += np.max(np.abs(other.terms["projected"] - out.terms["projected"])) > 1e-9
        counts[2] += np.min(J @ (out.weights @ J)) < -1e-9
    return 100 * counts / problems


@pytest.mark.parametrize(("K", "D"), [(2, 3), (3, 2), (3, 3), (4, 3), (4, 4), (3, 100)])
def test_the_derivation_s_frequencies(K, D):
    order, itself, conflict = frequencies(K, D)
    line = f"| {K} | {D} | {order:.1f} % | {itself:.1f} % | {conflict:.1f} % |"
    assert line in DERIVATION.read_text(encoding="utf-8"), line
