"""What the rounding of all earlier losses does to running statistics: a theorem, and printed logs."""

from __future__ import annotations

import numpy as np
import pytest

from mtlref.audit import read_log, write_log
from mtlref.audit.compare import compared
from mtlref.audit.drift import free_run
from mtlref.audit.memory import Memory, solved
from mtlref.audit.replay import Replay
from mtlref.audit.run import readable
from mtlref.audit.verdict import diagnose
from mtlref.optimisers import Adam
from mtlref.settings import build
from tests.audit import loops

K, N = 3, 80
SEEDS = range(2)


def printed(tmp_path, losses, weights, decimals, method, norms=None):
    """The log of a tracker that prints every number to so many decimals."""
    columns = loops.columns(losses, weights, norms=norms)
    write_log(tmp_path / "run.csv", {name: np.round(values, decimals) for name, values in columns.items()})
    return readable(read_log(tmp_path / "run.csv"), method)


def cov_of(losses, **choices):
    """The method with these choices, and the weights of the plain loop that has them."""
    named = {"statistics": "previous" if choices.get("previous") else "current", "decay": choices.get("decay")}
    named["observed"] = "ratio" if choices.get("ratio", True) else "loss"
    return build("cov", named), loops.cov(losses, **choices)


def falling(seed, steps=N):
    return loops.falling(np.random.default_rng(seed), steps, K)[0]


CHOICES = [{}, {"decay": 0.95}, {"decay": 0.95, "previous": True}, {"decay": 0.7, "ratio": False}]


@pytest.mark.parametrize("decimals", [2, 4, 6])
@pytest.mark.parametrize("choices", CHOICES, ids=str)
def test_a_right_run_passes_however_few_digits_were_printed(tmp_path, choices, decimals):
    for seed in SEEDS:
        method, weights = cov_of(falling(seed), **choices)
        log = printed(tmp_path, falling(seed), weights, decimals, method)
        assert all(block.agrees.all() for block in compared(method, log))
        assert free_run(method, log).follows or not method.lagged


def moments(losses, shares):
    """Mean and deviation under the shares, and what rounding by 1 may do to each: the theorem of the derivation."""
    mean = shares @ losses
    return mean, np.sqrt(shares @ (losses - mean) ** 2)


@pytest.mark.parametrize("decay", [None, 0.9])
def test_no_rounding_moves_mean_and_deviation_by_more_than_the_theorem_says(decay):
    """|Δμ| ≤ δ and |Δσ| ≤ δ, whatever the roundings are, and one of them reaches each."""
    rng = np.random.default_rng(0)
    shares = (1.0 if decay is None else decay) ** np.arange(50.0)
    shares /= shares.sum()
    for delta in (1e-3, 0.1, 2.0):
        for _ in range(50):
            losses = rng.uniform(0.5, 2.0, 50)
            mean, sigma = moments(losses, shares)
            moved, wider = moments(losses + delta * rng.choice([-1, 1, 0.3], 50), shares)
            assert abs(moved - mean) <= delta * (1 + 1e-12)
            assert abs(wider - sigma) <= delta * (1 + 1e-12)
        assert moments(losses + delta, shares)[0] - mean == pytest.approx(delta)
        pairs = np.resize([1.0, -1.0], 50)  # losses that go up and down by 1, and roundings that go with them
        even = np.full(50, 1 / 50)
        assert moments(pairs * (1 + delta), even)[1] - moments(pairs, even)[1] == pytest.approx(delta)


def closed(losses, delta, decay):
    """What the theorem allows c of observed losses at every row, (N, K): (|Δσ| + c |Δμ|) / (μ − |Δμ|), both δ."""
    beta, found = 1.0 if decay is None else decay, []
    for t in range(1, len(losses) + 1):
        shares = beta ** np.arange(t - 1, -1, -1.0)
        mean, sigma = zip(*(moments(column, shares / shares.sum()) for column in losses[:t].T), strict=True)
        mean, sigma = np.array(mean), np.array(sigma)
        found.append((delta + sigma / mean * delta) / (mean - delta))
    return np.array(found)


@pytest.mark.parametrize("decay", [None, 0.95])
def test_the_allowance_is_the_theorem_s_and_a_small_multiple_of_it_at_most(tmp_path, decay):
    """Of the losses themselves: Δα_i ≤ ((1 − α_i) Δc_i + α_i Σ_j≠i Δc_j) / Σ c to first order."""
    rng, decimals = np.random.default_rng(1), 4
    losses = rng.uniform(0.5, 2.0, (N, K))
    method, weights = cov_of(losses, decay=decay, ratio=False)
    log = printed(tmp_path, losses, weights, decimals, method)
    of_c = closed(log.losses, 0.5 * 10.0**-decimals, decay)
    c = np.array([loops_c(log.losses[: t + 1], decay) for t in range(N)])
    c[0] = 1.0  # all deviations are 0 there, and the first rows are not looked at
    of_alpha = ((1 - weights) * of_c + weights * (of_c.sum(axis=1, keepdims=True) - of_c)) / c.sum(
        axis=1, keepdims=True
    )
    memory, rows, got = Memory(method, log), [], []
    for done in Replay(method, log).blocks():
        got.append(memory.allowed(done, np.arange(len(done.expected))))
        rows.append(done.start + np.arange(len(done.expected)))
    at = np.concatenate(rows) >= 8
    ratio = np.concatenate(got)[at] / of_alpha[at]
    assert np.all(ratio >= 0.7)  # the rest is the row's own loss, which is allowed for apart
    assert np.all(ratio <= 3)


def loops_c(losses, decay):
    shares = (1.0 if decay is None else decay) ** np.arange(len(losses) - 1, -1, -1.0)
    mean, sigma = zip(*(moments(column, shares / shares.sum()) for column in losses.T), strict=True)
    return np.array(sigma) / np.array(mean)


def test_inverted_weights_are_found_and_named_in_a_printed_log(tmp_path):
    losses = np.random.default_rng(2).uniform(0.5, 2.0, (N, K)) * [1.0, 0.2, 5.0]
    method, weights = cov_of(losses, decay=0.95)
    weights[1:] = 1 / weights[1:]
    weights[1:] /= weights[1:].sum(axis=1, keepdims=True)
    diagnosis = diagnose(method, printed(tmp_path, losses, weights, 4, method))
    assert diagnosis.kind == "identical"
    assert [d.name for d in diagnosis.explanations[0].defects] == ["InvertedWeights"]


def test_a_variance_about_the_wrong_mean_is_found_and_named_in_a_printed_log(tmp_path):
    """(ℓ − μ)² for (ℓ − μ_prev)(ℓ − μ), with a decay, and observed losses: the loop is written out."""
    losses = np.random.default_rng(3).uniform(0.5, 2.0, (N, K)) * [1.0, 0.4, 5.0]
    beta, rows = 0.7, []
    mean, M = np.zeros(K), np.zeros(K)
    for t, L in enumerate(losses, 1):
        a = (1 - beta) / (1 - beta**t)
        mean = (1 - a) * mean + a * L
        M = (1 - a) * M + a * (L - mean) ** 2
        c = np.sqrt(M) / mean
        rows.append(c / c.sum() if c.sum() > 0 else np.full(K, 1 / K))
    method = build("cov", {"decay": beta, "observed": "loss"})
    diagnosis = diagnose(method, printed(tmp_path, losses, np.array(rows), 4, method))
    assert [e.name for e in diagnosis.explanations] == ["NewDeviationSquared [COV-5]"]


@pytest.mark.parametrize(("decimals", "share"), [(4, 0.02), (6, 0.0002)])
def test_one_wrong_weight_is_found_in_a_printed_log(tmp_path, decimals, share):
    losses = np.random.default_rng(4).uniform(0.5, 2.0, (N, K))
    method, weights = cov_of(losses, decay=0.95)
    weights[77] += share * np.array([1.0, -1.0, 0.0])
    log = printed(tmp_path, losses, weights, decimals, method)
    off = [int(row) for block in compared(method, log) for row in block.rows[~block.agrees]]
    assert off == [77]


@pytest.mark.parametrize("seed", SEEDS)
def test_adam_s_moments_carry_the_rounding_of_every_earlier_number(tmp_path, seed):
    losses = falling(seed)
    method = build("uncertainty", {"optimiser": Adam(0.01)})
    weights = loops.uncertainty(losses, ["gaussian"] * K, loops.Descent(0.01, betas=(0.9, 0.999)))
    columns = loops.columns(np.round(losses, 4), weights)
    write_log(tmp_path / "run.csv", columns)
    log = readable(read_log(tmp_path / "run.csv"), method)
    assert all(block.agrees.all() for block in compared(method, log))


@pytest.mark.parametrize("optimiser", [None, Adam(0.025)], ids=["plain", "Adam"])
def test_the_first_losses_stay_as_far_off_as_the_first_row_printed_them(tmp_path, optimiser):
    """GradNorm never writes to L(0) again: what it may be off is half of the last decimal at every row."""
    losses, norms = loops.falling(np.random.default_rng(5), N, K)
    method, descent = build("gradnorm", {"optimiser": optimiser}), loops.Descent(0.025)
    log = printed(tmp_path, losses, loops.gradnorm(losses, norms, 1.5, descent), 3, method, norms)
    memory, seen = Memory(method, log), 0
    for done in Replay(method, log).blocks():
        for _, before, off in memory.follow(done):
            if before.initial_losses is not None:
                assert before.initial_losses.values == pytest.approx(np.tile(log.losses[0], (len(off[1]), 1)))
                assert off[1] == pytest.approx(np.full((len(off[1]), K), 0.5e-3), rel=2e-3)  # float32 adds its own
                seen += len(off[1])
    assert seen == N - 2  # all steps but the first, which remembers nothing


def test_errors_are_handed_on_as_the_recursion_says():
    """A mean with slope ½, and a number that gets three times its error: e = 2 − 2^(1−t) and 3 e(t)."""
    n = 6
    half, three, none = np.full((n, 1), 0.5), np.full((n, 1), 3.0), np.zeros((n, 1))
    mean, other = solved([np.zeros(1)] * 2, [np.ones((n, 1)), none], [[half, three], [none, none]])
    expected = 2 - 2.0 ** (1 - np.arange(n + 1))
    np.testing.assert_allclose(mean[:, 0], expected, rtol=1e-15)
    np.testing.assert_allclose(other[1:, 0], 3 * expected[:-1], rtol=1e-15)
