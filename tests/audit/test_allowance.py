"""What logged digits allow, against closed forms: DWA of two tasks, and norms from inner products."""

from __future__ import annotations

import numpy as np
import pytest

from mtlref.audit import judge, read_run
from mtlref.audit.compare import compared
from mtlref.audit.precision import DOUBLE, SINGLE, precision, unit_of

N, T, DECIMALS = 200, 2.0, 3
HALF = 0.5 * 10.0**-DECIMALS


def dwa_run(seed=0, losses=None):
    """Losses that rise and fall by up to a factor of 6, and DWA's weights of them, written out."""
    losses = np.random.default_rng(seed).uniform(0.5, 3.0, (N, 2)) if losses is None else losses
    ratios = losses[1:-1] / losses[:-2]
    first = 2 / (1 + np.exp((ratios[:, 1] - ratios[:, 0]) / T))
    weights = np.concatenate([np.ones((2, 2)), np.stack([first, 2 - first], axis=1)])
    return losses, weights


def log_of(tmp_path, losses, weights, **more):
    np.savez(tmp_path / "run.npz", losses=losses, weights=weights, **more)
    found = read_run(str(tmp_path / "run.npz"), method="dwa", settings={"temperature": T})
    return found.method, found.log


def bound(losses, weights):
    """|dw_1| at most, of each row from the third: w_1 w_2 / 2T times what the two ratios may be off by together."""
    now, before = losses[1:-1], losses[:-2]
    off = (HALF / before + HALF * now / before**2).sum(axis=1)
    return weights[2:].prod(axis=1) / (2 * T) * off


@pytest.mark.parametrize("seed", range(8))
def test_rounded_losses_raise_no_false_alarm_and_hide_little(tmp_path, seed):
    """Each allowance is the closed form's at least, and a small multiple of it at most."""
    losses, weights = dwa_run(seed)
    method, log = log_of(tmp_path, np.round(losses, DECIMALS), weights)
    assert log.precision["losses"].words == f"{DECIMALS} decimals"
    assert judge(method, log).passed
    for block in compared(method, log):
        exceeding = np.any(np.abs(block.got - block.expected) > 1e-5, axis=1) & (block.rows >= 2)
        allowed, closed = block.allowance[exceeding, 0], bound(losses, weights)[block.rows[exceeding] - 2]
        assert np.all(allowed >= 0.98 * closed)
        assert np.all(allowed <= 8 * closed + 1e-5)


def test_a_fault_of_several_allowances_departs(tmp_path):
    losses, weights = dwa_run()
    wrong = weights.copy()
    wrong[100] += np.array([1, -1]) * 9 * bound(losses, weights)[98]
    method, log = log_of(tmp_path, np.round(losses, DECIMALS), wrong)
    verdict = judge(method, log)
    assert (verdict.first.row, verdict.departures) == (100, 1)


def test_digits_are_seen_from_the_numbers():
    x = np.random.default_rng(0).uniform(0.2, 2.0, (40, 3))
    assert unit_of(x) == DOUBLE
    assert unit_of(x.astype(np.float32).astype(float)) == SINGLE
    assert unit_of(x, x.astype(np.float32).astype(float)) == SINGLE
    assert unit_of(x, np.ones((40, 3))) == DOUBLE
    known = precision(np.round(x, 4), DOUBLE)
    assert (known.words, known.absolute) == ("4 decimals", 5e-05)
    scaled = np.array([[float(f"{v:.4g}") for v in row] for row in x * 10.0 ** np.arange(3)])
    assert precision(scaled, DOUBLE).words == "4 significant digits"


def test_norms_from_rounded_inner_products_carry_their_rounding(tmp_path):
    rng = np.random.default_rng(1)
    J = rng.normal(size=(60, 2, 4)) * np.array([1.0, 3.0])[:, None]
    gram = J @ J.transpose(0, 2, 1)
    np.savez(tmp_path / "g.npz", losses=rng.uniform(1, 2, (60, 2)), weights=np.ones((60, 2)), gram=np.round(gram, 3))
    log = read_run(str(tmp_path / "g.npz"), method="gradnorm").log
    true = np.sqrt(np.diagonal(gram, axis1=1, axis2=2))
    assert np.all(np.abs(log.norms - true) <= log.precision["norms"].of(log.norms))
