"""What logged digits allow, against closed forms: DWA of two tasks, and norms from inner products."""

from __future__ import annotations

import numpy as np
import pytest

from mtlref.audit import judge, read_run
from mtlref.audit.compare import compared
from mtlref.audit.precision import DOUBLE, SINGLE, precision, unit_of
from tests.audit import loops

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


@pytest.mark.parametrize("seed", range(4))
def test_weights_that_no_step_reads_excuse_nothing_by_their_digits(tmp_path, seed):
    """Beside exact losses, four decimals are off by half a unit of the last: a weight that is off by one departs."""
    losses, weights = dwa_run(seed)
    weights = weights.round(4)
    weights[100] += [1e-4, -1e-4]
    method, log = log_of(tmp_path, losses, weights)
    assert [row for b in compared(method, log) for row in b.rows[~b.agrees]] == [100]


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


# KINKS


def gradnorm_run(seed, digits, steps=600, lr=0.01, K=3):
    """A run of GradNorm as a tracker prints it, and at which steps printed digits alone decide no sign, written out.

    The distance G_i − T_i may be off by (w_i + n_i) δ and by what the mean norm and the rates are off.
    """
    losses, norms = loops.falling(np.random.default_rng(seed), steps, K)
    losses = 1 + losses / losses.max(axis=0)
    weights = loops.gradnorm(losses, norms, 1.0, loops.Descent(lr))
    L, n, w = (np.round(x, digits) for x in (losses, norms, weights))
    half, G, rates = 0.5 * 10.0**-digits, w * n, L / L[0]
    mean, share = G.mean(axis=1, keepdims=True), rates / rates.mean(axis=1, keepdims=True)
    of_G = half * (w + n)
    of_rates = half * (1 / L + 1 / L[0])  # relative
    reach = (
        of_G
        + share * of_G.mean(axis=1, keepdims=True)
        + mean * share * (of_rates + of_rates.mean(axis=1, keepdims=True) / share.mean(axis=1, keepdims=True))
    )
    near = np.any(np.abs(G - mean * share) < 1.1 * reach, axis=1)
    return L, n, w, near[:-1]


def gradnorm_log(tmp_path, L, n, w):
    np.savez(tmp_path / "run.npz", losses=L, norms=n, weights=w)
    run = read_run(str(tmp_path / "run.npz"), method="gradnorm", settings={"alpha": 1.0, "lr": 0.01})
    return run.method, run.log


def departing(tmp_path, L, n, w):
    return [int(row) for b in compared(*gradnorm_log(tmp_path, L, n, w)) for row in b.rows[~b.agrees]]


@pytest.mark.parametrize(("seed", "digits"), [(2, 3), (3, 3), (3, 4)])
def test_a_right_run_s_signs_that_digits_leave_open_depart_nowhere(tmp_path, seed, digits):
    L, n, w, near = gradnorm_run(seed, digits)
    verdict = judge(*gradnorm_log(tmp_path, L, n, w))
    assert verdict.departures == 0
    assert (digits == 3) <= verdict.kinks <= near.sum()


def test_a_kink_that_no_number_reaches_alone_is_reached_by_all_together(tmp_path):
    """The last step's G_0 is above its target by less than all digits together may be off; the run's own was below.

    With α = 1: T_0 = mean(w n) · (L_0 / L_0(0)) / mean(L / L(0)), and in the run every digit was off to that side.
    """
    delta, lr, up = 0.5e-3, 0.01, np.array([1.0, -1.0, -1.0])
    L, n, w, _ = gradnorm_run(0, 3)

    def distance(w, n, L_now):
        rates = L_now / L[0]
        return (w * n)[0] - (w * n).mean() * rates[0] / rates.mean()

    def off(at, of_w, of_n, of_L):
        return w[at] - 0.49 * delta * of_w, n[at] - 0.49 * delta * of_n, L[at] + 0.49 * delta * of_L

    def suits(at):
        for n[at, 0] in np.round(np.arange(0.05, 3, 0.001), 3):
            gap = distance(w[at], n[at], L[at])
            if gap > 0:
                break
        singles = [distance(*off(at, *2.1 * move.reshape(3, 3))) for sign in (1, -1) for move in sign * np.eye(9)]
        return min(singles) > 0 > distance(*off(at, up, up, up))

    at = next(at for at in range(20, 500) if suits(at))
    true_w, true_n, true_L = off(at, up, up, up)
    G, rates = true_w * true_n, true_L / L[0]
    u = true_w - lr * np.sign(G - G.mean() * rates / rates.mean()) * true_n
    w[at + 1] = np.round(3 * u / u.sum(), 3)
    L, n, w = (x[: at + 2] for x in (L, n, w))
    assert departing(tmp_path, L, n, w) == []
    w[at + 1] += [0.1, -0.05, -0.05]
    assert departing(tmp_path, L, n, w) == [at + 1]


def test_a_weight_that_is_printed_as_0_has_a_sign(tmp_path):
    """w_0 = 10⁻⁶ takes its whole step down, 0 takes none. Moving 0 by its digits takes the step too, less that move.

    Its loss is 0, and so is its target.
    """
    L, n, w, _ = gradnorm_run(0, 4)
    at, lr, true = 300, 0.01, np.array([1e-6, 1.2, 1.8 - 1e-6])
    L = L + np.random.default_rng(0).uniform(0, 1e-5, L.shape)  # the losses are exact
    L[at, 0] = 0.0
    rates = L[at] / L[0]
    for n[at, 0] in np.round(np.arange(1, 3, 1e-4), 4):
        G = true * n[at]
        u = true - lr * np.sign(G - G.mean() * rates / rates.mean()) * n[at]
        answer = 3 * u / u.sum()
        if abs(np.round(answer[0], 4)) - abs(answer[0]) > 4.5e-5:  # printing takes the answer farther from 0
            break
    w[at], w[at + 1] = np.round(true, 4), np.round(answer, 4)
    L, n, w = (x[: at + 2] for x in (L, n, w))
    assert departing(tmp_path, L, n, w) == [at]  # where the weight was set, and not where it went
    w[at + 1] += [-2e-3, 1e-3, 1e-3]  # farther than the whole step
    assert departing(tmp_path, L, n, w) == [at, at + 1]


def test_a_sign_that_is_wrong_away_from_a_kink_departs(tmp_path):
    L, n, w, near = gradnorm_run(0, 4)
    at = 1 + int(np.flatnonzero(~near)[200])
    w[at] += np.round([0.02 * n[at, 0], -0.01 * n[at, 0], -0.01 * n[at, 0]], 4)  # one sign turned, and brought to K
    assert departing(tmp_path, L, n, w)[0] == at


@pytest.mark.parametrize("stem", ["dwa", "uncertainty", "cov"])
def test_rounded_losses_beside_exact_weights_are_no_kink(tmp_path, stem):
    """Methods without a kink: the digits of the losses move every answer by far more than the weights' own."""
    losses = 1 + loops.falling(np.random.default_rng(1), 300, 3)[0]
    made = {
        "dwa": lambda: loops.dwa(losses, 2.0),
        "uncertainty": lambda: loops.uncertainty(losses, ["gaussian"] * 3, loops.Descent(0.02)),
        "cov": lambda: loops.cov(losses),
    }
    np.savez(tmp_path / "run.npz", losses=np.round(losses, 3), weights=made[stem]())
    settings = {"lr": 0.02} if stem == "uncertainty" else {}
    run = read_run(str(tmp_path / "run.npz"), method=stem, settings=settings)
    verdict = judge(run.method, run.log)
    assert verdict.passed
    assert verdict.kinks == 0
