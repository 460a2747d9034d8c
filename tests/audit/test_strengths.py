"""The signs that a strength of GradNorm gives a row, and the intervals in which it gives them."""

from __future__ import annotations

import numpy as np
import pytest

from mtlref.audit.inference.gradnorm import Measured, parts


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
