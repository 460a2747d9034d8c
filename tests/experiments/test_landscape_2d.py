"""The landscape against its formulas in complex numbers, its Pareto set against a root, its runs against loops."""

from __future__ import annotations

import cmath
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from scipy.optimize import brentq

from mtlref import autograd as ad
from mtlref.audit import judge, read_run
from mtlref.experiments.landscape_2d import (
    METHODS,
    PARETO_X2,
    STARTS,
    Landscape2D,
    region,
    values_and_gradients,
    weights,
)
from mtlref.experiments.sweep import sweep


def formula(x1, x2):
    """L1 and L2 by their formulas, in complex numbers; |u| and max(u, v) follow the real parts."""

    def size(u):
        return u if u.real >= 0 else -u

    def larger(u, v):
        return u if u.real >= v.real else v

    f1 = cmath.log(larger(size((-x1 - 7) / 2 - cmath.tanh(-x2)), 5e-6 + 0j)) + 6
    f2 = cmath.log(larger(size((-x1 + 3) / 2 + cmath.tanh(-x2) + 2), 5e-6 + 0j)) + 6
    q1 = ((-x1 + 7) ** 2 + (-x2 - 8) ** 2 / 10) / 10 - 20
    q2 = ((-x1 - 7) ** 2 + (-x2 - 8) ** 2 / 10) / 10 - 20
    c1, c2 = larger(cmath.tanh(x2 / 2), 0j), larger(cmath.tanh(-x2 / 2), 0j)
    return f1 * c1 + q1 * c2, f2 * c1 + q2 * c2


def test_values_and_gradients_are_those_of_the_formulas_by_complex_step():
    points = np.vstack([np.random.default_rng(0).uniform(-10, 10, (60, 2)), np.delete(STARTS, 3, axis=0)])
    L, J = values_and_gradients(points)
    h = 1e-30
    for (x1, x2), values, rows in zip(points, L, J, strict=True):
        np.testing.assert_allclose(values, [v.real for v in formula(complex(x1), complex(x2))], rtol=1e-12)
        by_x1 = [v.imag / h for v in formula(x1 + 1j * h, complex(x2))]
        by_x2 = [v.imag / h for v in formula(complex(x1), x2 + 1j * h)]
        np.testing.assert_allclose(rows, np.stack([by_x1, by_x2], axis=1), rtol=1e-9, atol=1e-12)


def by_tape(points):
    """The losses and gradients by the tape, c1 and c2 written as (|u| ± u)/2."""
    x = ad.parameter(points)
    x1, x2 = x[:, 0], x[:, 1]
    bend, above = ad.tanh(-x2), ad.tanh(x2 * 0.5)
    c1, c2 = (ad.absolute(above) + above) * 0.5, (ad.absolute(above) - above) * 0.5
    losses = []
    for u, side in (((-x1 - 7.0) * 0.5 - bend, -x1 + 7.0), ((-x1 + 3.0) * 0.5 + bend + 2.0, -x1 - 7.0)):
        f = ad.log(ad.relu(ad.absolute(u) - 5e-6) + 5e-6) + 6.0
        q = (side**2 + (-x2 - 8.0) ** 2 * 0.1) * 0.1 - 20.0
        losses.append(f * c1 + q * c2)
    blocks = ad.jacobian([L.sum() for L in losses], [x]).blocks[0]
    return np.stack([L.value for L in losses], axis=1), blocks.transpose(1, 0, 2)


def test_values_and_gradients_are_those_of_the_tape_at_the_kink_and_below_the_floor_too():
    points = np.vstack(
        [np.random.default_rng(1).uniform(-10, 10, (200, 2)), STARTS, [[1.0, 0.0], [-7.0 + 1e-6, 1e-7]]]
    )
    assert abs((-points[-1, 0] - 7) / 2 + np.tanh(points[-1, 1])) < 5e-6
    for found, taped in zip(values_and_gradients(points), by_tape(points), strict=True):
        np.testing.assert_allclose(found, taped, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("arm", list(METHODS))
@pytest.mark.parametrize("bad", ["", "zero row", "equal rows", "opposed rows"])
def test_the_weights_are_those_of_the_method_s_own_step(arm, bad):
    rng, method = np.random.default_rng(2), METHODS[arm]
    J = rng.standard_normal((100, 2, 2)) * 10.0 ** rng.uniform(-2, 4, (100, 2, 1))
    if bad == "zero row":
        J[:, 0] = 0.0
    elif bad:
        J[:, 0] = J[:, 1] * (1.0 if bad == "equal rows" else -1.0)
    for rows, w in zip(J, weights(arm, J), strict=True):
        draw = method.sample(rng, 2)
        step = method.step(method.init(2), np.ones(2), rows, **({} if draw is None else {"draw": draw}))
        d, size = step.weights @ rows, np.abs(rows).max()
        np.testing.assert_allclose(w @ rows, d, rtol=1e-8, atol=1e-9 * size)


def test_at_the_kink_the_gradient_is_half_of_each_side_s():
    """x2 = 0: the mean of the slopes on both sides, f_k/2 from above and −q_k/2·(−1) from below."""
    _, J = values_and_gradients(np.array([[0.0, 0.0]]))
    near = [values_and_gradients(np.array([[0.0, side]]))[1][0] for side in (1e-9, -1e-9)]
    np.testing.assert_allclose(J[0], (near[0] + near[1]) / 2, rtol=1e-6, atol=1e-7)


def test_the_pareto_set_lies_where_both_slopes_in_x2_vanish():
    """At x1 = 0 the losses are equal, q tanh(−x2/2) with q = −15.1 + (x2 + 8)²/100: the root of its derivative."""

    def slope(x2):
        q = -15.1 + (x2 + 8) ** 2 / 100
        return (x2 + 8) / 50 * np.tanh(-x2 / 2) - q / 2 / np.cosh(x2 / 2) ** 2

    root = brentq(slope, -10, -8.05)
    assert root == pytest.approx(PARETO_X2, abs=5e-4)
    _, J = values_and_gradients(np.array([[0.0, root]]))
    np.testing.assert_allclose(J[0].sum(axis=0), 0.0, atol=1e-12)


@pytest.mark.parametrize(
    ("point", "name"),
    [((0.0, -8.4), "Pareto set"), ((-7.2, -8.2), "Pareto set"), ((5.0, 2.3), "valley"), ((7.5, -8.36), "elsewhere")],
)
def test_regions(point, name):
    assert region(np.array(point)) == name


def by_hand(arm, start, steps):
    """Adam along a method's direction, in plain Python, with the gradients of the formulas."""
    x, m, v = np.array(start), np.zeros(2), np.zeros(2)
    for t in range(1, steps + 1):
        h = 1e-30
        a, b = formula(x[0] + 1j * h, complex(x[1])), formula(complex(x[0]), x[1] + 1j * h)
        g1, g2 = (np.array([p.imag, q.imag]) / h for p, q in zip(a, b, strict=True))
        dot = g1 @ g2
        if arm == "sum" or (arm == "pcgrad" and dot >= 0):
            d = g1 + g2
        elif arm == "pcgrad":
            d = (1 - dot / (g1 @ g1)) * g1 + (1 - dot / (g2 @ g2)) * g2
        else:
            w = np.clip((g2 - g1) @ g2 / ((g1 - g2) @ (g1 - g2)), 0, 1)
            d = w * g1 + (1 - w) * g2
        m, v = 0.9 * m + 0.1 * d, 0.999 * v + 0.001 * d**2
        x = x - 1e-2 * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
    return x


@pytest.mark.parametrize("arm", list(METHODS))
def test_a_short_run_is_that_of_a_plain_loop(arm):
    run = Landscape2D(steps=40, lr=1e-2).run(arm, 0)
    for p in (1, 2, 3, 5):
        end = [run.metrics[f"start {p} {name}"] for name in ("x1", "x2")]
        np.testing.assert_allclose(end, by_hand(arm, STARTS[p - 1], 40), rtol=1e-7)


def test_seeds_move_the_starts_and_the_logs_pass_the_audit(tmp_path):
    with ThreadPoolExecutor(1) as executor:
        runs = sweep(Landscape2D(steps=30), 2, tmp_path, executor)
    assert runs[0].curves["start 1 x1"][0] == -8.5
    assert 0 < abs(runs[1].curves["start 1 x1"][0] + 8.5) < 0.6
    for arm in METHODS:
        audited = read_run(str(tmp_path / "logs" / f"{arm}-seed-0.csv"))
        assert judge(audited.method, audited.log).passed
