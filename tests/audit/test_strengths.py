"""The signs that a strength of GradNorm gives a row, and the intervals in which it gives them."""

from __future__ import annotations

import numpy as np
import pytest

from mtlref.audit import read_run
from mtlref.audit.inference import gradnorm
from mtlref.audit.inference.gradnorm import FINE, Measured, leftover, measured, parts
from tests.audit import loops


def one_row(lift, lag, blur):
    """A row of which only ln(G/Ḡ) and ln r are read, each off by `blur`."""
    row, nothing = np.ones((1, len(lift))), np.zeros((1, len(lift)))
    return Measured(row, row, lift[None], lag[None], nothing + blur, nothing + blur, nothing, nothing[:, 0])


def test_a_strength_beside_a_wide_change_has_the_signs_of_its_own_side():
    """α = 3, known. Task 4 turns at 3.007, give or take 0.4; task 0 at 2.896, and there it is settled: +1."""
    lift = np.array([-7.31163647, 1.14439005, -5.93761943, 0.13908196, -0.34679465])
    lag = np.array([-2.5245947, 0.67239666, -1.89645091, 0.6522247, -0.11532647])
    found = [sign for _, _, sign in parts(one_row(lift, lag, np.array([0.01] * 4 + [0.045])), 0, 3.0, 3.0)]
    assert {tuple(sign[:4]) for sign in found} == {(1, -1, -1, -1)}
    assert {sign[4] for sign in found} == {1, -1}


@pytest.mark.parametrize("seed", range(20))
def test_every_strength_has_its_signs_in_an_interval_that_holds_it(seed):
    rng = np.random.default_rng(seed)
    lift, lag = rng.normal(size=4), rng.choice([-1.0, 1.0], 4) * rng.uniform(0.5, 2, 4)
    blur = 10 ** rng.uniform(-4, -1)
    low, high = sorted(rng.uniform(-4, 4, 2))
    found = list(parts(one_row(lift, lag, blur), 0, low, high))
    for alpha in np.linspace(low, high, 33):
        wanted = np.sign(lift - alpha * lag)
        assert any(a <= alpha <= b and np.array_equal(sign, wanted) for a, b, sign in found)


def logged(folder, losses, norms, weights, forms):
    """The log of a run whose losses, norms and weights are printed in these formats."""
    kinds = zip(("loss", "norm", "weight"), (losses, norms, weights), forms, strict=True)
    columns = {f"{name}/{i}": [form % x for x in values[:, i]] for name, values, form in kinds for i in range(3)}
    lines = [",".join(columns), *map(",".join, zip(*columns.values(), strict=True))]
    (folder / "run.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return read_run(str(folder / "run.csv"), method="gradnorm").log


@pytest.mark.parametrize("form", ["%.3f", "%.3g", "%.5f"])
def test_what_is_read_of_a_log_is_off_by_no_more_than_it_says(tmp_path, form):
    """ln r of a task moves with the coarsest loss of all through the mean; so does ln(G/Ḡ). To first order: 1.1."""
    rng = np.random.default_rng(0)
    losses, norms = rng.uniform(0.5, 3, (60, 3)) * [1.0, 1.0, 0.02], rng.uniform(0.5, 3, (60, 3))
    weights = rng.uniform(0.2, 2, (60, 3))
    data = measured(logged(tmp_path, losses, norms, weights, (form, form, form)), {})
    rates, G = losses / losses[0], weights * norms
    lag = np.log(rates / rates.mean(axis=1, keepdims=True))
    lift = np.log(G / G.mean(axis=1, keepdims=True))
    assert np.all(np.abs(data.lag - lag) <= 1.1 * data.of_lag + 1e-12)
    assert np.all(np.abs(data.lift - lift) <= 1.1 * data.of_lift + 1e-12)
    assert np.all(np.max(np.abs(data.n / norms - 1), axis=1) <= 1.1 * data.of_n)


def test_a_true_step_along_norms_of_three_digits_is_no_miss(tmp_path):
    """Weights are exact, and a step's share of 0.4 % that the norms are off by is more than `FINE` lets through."""
    rng, lr = np.random.default_rng(1), 0.02
    losses, norms = rng.uniform(0.5, 3, (60, 3)), rng.uniform(1, 1.3, (60, 3))
    weights = loops.gradnorm(losses, norms, 1.5, loops.Descent(lr))
    data = measured(logged(tmp_path, losses, norms, weights, ("%.17g", "%.3g", "%.17g")), {})
    worst = 0.0
    for t in range(59):
        G, rate = weights[t] * norms[t], losses[t] / losses[0]
        sign = np.sign(G - G.mean() * (rate / rate.mean()) ** 1.5)
        left, _ = leftover(data, t, sign * np.sign(weights[t]) * data.n[t], lr, False, FINE)
        assert left <= 1
        worst = max(worst, left)
    assert worst > 0.05


def test_branches_are_ranked_by_all_their_rows(monkeypatch):
    """Both signs are open on two rows: the first row's + misses by 0.1, its − by 0.9; the second's by 0.5 and 0.4."""
    missed = {(0, 1.0): 0.1, (0, -1.0): 0.9, (1, 1.0): 0.5, (1, -1.0): 0.4}
    both = [(0.0, 1.0, np.full(2, sign)) for sign in (1.0, -1.0)]
    monkeypatch.setattr(gradnorm, "BRANCHES", 2)
    monkeypatch.setattr(gradnorm, "parts", lambda data, t, low, high: both)
    monkeypatch.setattr(gradnorm, "leftover", lambda data, t, v, *_: (missed[t, float(v[0])], 1.0))
    ones, nothing = np.ones((3, 2)), np.zeros((3, 2))
    data = Measured(ones, ones, nothing, nothing, nothing, nothing, nothing, nothing[:, 0])
    found = gradnorm.march(data, None, (0.0, 1.0), 1.0, False, 1.0)
    assert [tuple(v[0] for v in branch.path) for branch in found] == [(1.0, -1.0), (1.0, 1.0)]
    assert [branch.missed for branch in found] == pytest.approx([0.17, 0.26])
