"""Verdicts on logs whose weights come from the exact oracles, or from wrong loops written out here."""

from __future__ import annotations

import json

import numpy as np
import pytest

import mtlref
from mtlref.audit import audit_many, judge, read_run, report, write_log
from mtlref.audit import verdict as verdict_module
from mtlref.audit.batch import FOLLOWS, UNUSABLE
from mtlref.exact import dwa as exact_dwa
from mtlref.exact import gradnorm as exact_gradnorm
from mtlref.notation import LogError
from tests.audit import loops

STEPS, K = 20, 3


def measurements(steps=STEPS, seed=0):
    """Losses that fall at unequal rates, and norms of unequal size."""
    rng = np.random.default_rng(seed)
    rates, start = np.array([0.10, 0.02, 0.05]), np.array([3.0, 0.1, 40.0])
    losses = start * np.exp(-rates * np.arange(steps)[:, None]) * rng.uniform(0.9, 1.1, (steps, K))
    return losses, np.array([1.0, 0.4, 2.0]) * rng.uniform(0.5, 1.5, (steps, K))


def exact_weights(losses, norms, alpha=1.5, lr=0.025):
    """The weights in use at every step, from the 50-digit oracle, rounded to float64."""
    steps = exact_gradnorm.run(losses.tolist(), [np.diag(n).tolist() for n in norms], alpha=alpha, lr=lr)
    return np.array([np.ones(K), *[np.array(step["w_next"], dtype=float) for step in steps[:-1]]])


def loop(losses, norms, *, sign=1.0, share=1.0, total=K, alpha=1.5, lr=0.025, w=None):
    """A GradNorm loop of its own: `sign` of the exponent, `share` of the slope, `total` of the weights."""
    w, rows = (np.ones(K) if w is None else w), []
    for L, n in zip(losses, norms, strict=True):
        rows.append(w)
        G = w * n
        progress = L / losses[0]
        target = G.mean() * (progress / progress.mean()) ** (sign * alpha)
        u = w - lr * share * np.sign(G - target) * n
        w = total * u / u.sum()
    return np.array(rows)


def log(tmp_path, losses, norms, weights, settings=None, cast=np.float64, epochs=None):
    """A log on disk."""
    columns = {} if epochs is None else {"epoch": epochs}
    for kind, values in (("loss", losses), ("norm", norms), ("weight", weights)):
        if values is not None:
            columns |= {f"{kind}/{name}": values[:, i].astype(cast) for i, name in enumerate("abc")}
    path = tmp_path / "run.csv"
    write_log(path, columns, settings)
    return str(path)


def verdict_of(path, method="gradnorm", **settings):
    run = read_run(path, method=method, settings=settings)
    return run, judge(run.method, run.log)


@pytest.mark.parametrize("cast", [np.float64, np.float32])
def test_the_exact_run_passes_in_float64_and_in_float32(tmp_path, cast):
    losses, norms = (x.astype(cast).astype(float) for x in measurements())
    run, verdict = verdict_of(log(tmp_path, losses, norms, exact_weights(losses, norms), cast=cast), lr=0.025)
    assert run.log.unit == np.finfo(cast).eps / 2
    assert verdict.passed
    assert verdict.steps == STEPS - 1
    assert verdict.worst.error <= 4 * np.finfo(cast).eps
    unseen = ["AbsoluteSum", "SumOfEntries", "HeadsUnweighted", "NextWeightsAtOnce"]
    assert [defect.name for defect in verdict.open_defects] == unseen  # no weight is negative; the log holds norms


def test_a_float32_log_is_not_judged_by_float64_digits(tmp_path):
    """The same numbers as the float64 log but for the seventh digit: off by far more than float64 would allow."""
    losses, norms = measurements()
    weights = exact_weights(losses, norms)
    weights[7, 1] *= 1 + 1e-6
    assert not verdict_of(log(tmp_path, losses, norms, weights))[1].passed


@pytest.mark.parametrize(
    ("wrong", "names"),
    [
        ({"sign": -1.0}, ["InvertedRate"]),
        ({"share": 1 / K}, ["MeanForSum"]),
        ({"sign": -1.0, "share": 1 / K}, ["InvertedRate", "MeanForSum"]),
        ({"total": 1, "w": np.full(K, 1 / K)}, ["SumToOne"]),
        ({"alpha": 0.0}, None),
        ({"lr": 0.02}, None),
    ],
)
def test_a_wrong_loop_fails_and_is_named(tmp_path, wrong, names):
    losses, norms = measurements()
    _, verdict = verdict_of(log(tmp_path, losses, norms, loop(losses, norms, **wrong)), alpha=1.5, lr=0.025)
    assert not verdict.passed
    assert verdict.first.row <= 2
    if names is None:
        assert verdict.diagnosis.kind == "unknown"
    else:
        assert verdict.diagnosis.kind == "identical"
        assert [defect.name for defect in verdict.diagnosis.explanations[0].defects] == names


@pytest.mark.parametrize("adam", [False, True])
def test_logits_that_are_moved_are_known_by_the_weights_they_give(tmp_path, adam):
    """The loop keeps its logits, Adam's moments are theirs; the log has the weights alone."""
    losses, norms = measurements()
    v, m, s, rows = np.zeros(K), np.zeros(K), np.zeros(K), []
    for t, (L, n) in enumerate(zip(losses, norms, strict=True), 1):
        w = K * np.exp(v) / np.exp(v).sum()
        rows.append(w)
        pace = (L / losses[0]) / np.mean(L / losses[0])
        slope = np.sign(w * n - np.mean(w * n) * pace**1.5) * n
        g = (np.diag(w) - np.outer(w, w) / K) @ slope
        m, s = 0.9 * m + 0.1 * g, 0.999 * s + 0.001 * g**2
        v = v - 0.025 * (m / (1 - 0.9**t) / (np.sqrt(s / (1 - 0.999**t)) + 1e-8) if adam else g)
    optimiser = {"optimiser": {"name": "adam", "lr": 0.025}} if adam else {}
    _, verdict = verdict_of(log(tmp_path, losses, norms, np.array(rows)), alpha=1.5, lr=0.025, **optimiser)
    assert verdict.departures == STEPS - 1
    assert verdict.diagnosis.kind == "identical"
    assert [defect.name for defect in verdict.diagnosis.explanations[0].defects] == ["LogitsMoved"]


def test_one_wrong_step_is_found_where_it_is(tmp_path):
    losses, norms = measurements()
    weights = exact_weights(losses, norms)
    weights[11:] = loop(losses[11:], norms[11:], w=weights[11] + [0.01, -0.01, 0.0])[: STEPS - 11]
    _, verdict = verdict_of(log(tmp_path, losses, norms, weights))
    assert verdict.first.row == 11
    assert verdict.diagnosis.kind == "unknown"


def test_a_run_that_does_not_start_at_one_is_told_so(tmp_path):
    losses, norms = measurements()
    run, verdict = verdict_of(log(tmp_path, losses, norms, loop(losses, norms, w=np.array([2.0, 0.5, 0.5]))))
    assert verdict.first.row == 0
    assert "GN-9" in report.text(run, verdict)


def test_a_short_log_is_said_to_be_too_short(tmp_path):
    losses, norms = measurements(5)
    run, verdict = verdict_of(log(tmp_path, losses, norms, loop(losses, norms, sign=-1.0)))
    assert verdict.diagnosis.kind == "too short"
    assert "too short to tell. 4 steps" in report.text(run, verdict)


def test_a_defect_that_cannot_show_is_not_ruled_out(tmp_path):
    """Norms of 1 in every task: a slope without its factor n is then the slope itself."""
    losses, norms = measurements()
    norms = np.ones_like(norms)
    run, verdict = verdict_of(log(tmp_path, losses, norms, loop(losses, norms, sign=-1.0)))
    assert verdict.diagnosis.kind == "identical"
    assert {d.name for d in verdict.open_defects} >= {"SignOnly", "AbsoluteSum"}
    assert "Not ruled out by this log: AbsoluteSum [GN-7], SumOfEntries [GN-1], SignOnly [GN-6]" in report.text(
        run, verdict
    )


def test_known_defects_are_tried_when_they_are_asked_for(tmp_path, monkeypatch):
    losses, norms = measurements()
    tried = []
    explains = verdict_module.explains
    monkeypatch.setattr(verdict_module, "explains", lambda *given: tried.append(given) or explains(*given))
    _, verdict = verdict_of(log(tmp_path, losses, norms, loop(losses, norms, sign=-1.0)))
    assert not verdict.passed
    assert not tried
    assert [d.name for d in verdict.diagnosis.explanations[0].defects] == ["InvertedRate"]
    asked = len(tried)
    assert asked > 1
    assert "InvertedRate" not in [d.name for d in verdict.open_defects]
    assert len(tried) > asked


def test_what_cannot_be_diagnosed_leaves_the_other_logs_their_verdicts(tmp_path, monkeypatch):
    def refused(*_):
        raise LogError("no reading of it", argument="log")

    monkeypatch.setattr(verdict_module, "diagnose", refused)
    losses, norms = measurements()
    wrong = log(tmp_path, losses, norms, loop(losses, norms, sign=-1.0))
    outcomes = list(audit_many([wrong, "example:torch-loop"], method="gradnorm", settings={}))
    assert [outcome.status for outcome in outcomes] == [UNUSABLE, FOLLOWS]
    assert outcomes[0].text == "no reading of it"


def test_two_explanations_that_fit_equally_are_both_named(tmp_path):
    """Equal rates and α = ½: a target of α Ḡ and one of K^(−½) Ḡ, half and 0.58 of the mean, leave the signs alike as
    long as no norm lies between them; the paper's target, Ḡ, has the second norm below it."""
    losses, norms = np.ones((12, K)), np.ones((12, K)) * [1.0, 2.0, 4.0]
    w, rows = np.ones(K), []
    for _ in range(12):
        rows.append(w)
        u = w - 1e-3 * np.array([-1.0, 2.0, 4.0])
        w = K * u / u.sum()
    _, verdict = verdict_of(log(tmp_path, losses, norms, np.array(rows)), alpha=0.5, lr=1e-3)
    assert verdict.diagnosis.kind == "ambiguous"
    named = {e.defects[0].name for e in verdict.diagnosis.explanations}
    assert named == {"RateSumsToOne", "FactorForExponent"}


def test_a_norm_on_its_target_decides_nothing(tmp_path):
    """Equal losses, equal norms, equal weights: every G_i sits on its target, and float64 may fall on either side."""
    losses, norms = np.full((12, K), 0.7), np.full((12, K), 0.3)
    weights = np.ones((12, K))
    weights[1:] = [1.0075, 0.99625, 0.99625]
    norms[1:] = 0.3 / weights[1:]
    run, verdict = verdict_of(log(tmp_path, losses, norms, weights))
    assert verdict.kinks >= 1
    assert "so near a kink" in report.text(run, verdict)


def test_a_method_that_cannot_follow_the_log_to_its_end_says_where_it_stops(tmp_path):
    """A run that never moves its weights, the steepest task's near 0. The method raises that weight at its first
    step, and its second would take the sum of the weights below 0; from the log's weights it never does."""
    norms, weights = (np.tile(row, (STEPS, 1)) for row in ([100.0, 1.0, 1.0], [0.003, 1.4985, 1.4985]))
    path = log(tmp_path, np.ones((STEPS, K)), norms, weights)
    run, verdict = verdict_of(path, alpha=0.0, lr=0.035)
    assert not verdict.passed
    assert verdict.run.end_row == 1
    assert "beyond it the method itself cannot be evaluated" in report.text(run, verdict)


@pytest.mark.parametrize("ending", ["jsonl", "npz"])
def test_other_formats_get_the_same_verdict(tmp_path, ending):
    losses, norms = measurements()
    weights = loop(losses, norms, sign=-1.0)
    path = tmp_path / f"run.{ending}"
    if ending == "npz":
        np.savez(path, losses=losses, norms=norms, weights=weights)
    else:
        rows = [
            {"loss": dict(zip("abc", L, strict=True)), "norm": dict(zip("abc", n, strict=True)), "weight": list(w)}
            for L, n, w in zip(losses.tolist(), norms.tolist(), weights.tolist(), strict=True)
        ]
        for row in rows:
            row["weight"] = dict(zip("abc", row["weight"], strict=True))
        path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    _, verdict = verdict_of(str(path))
    assert verdict.first.row == 2
    assert verdict.diagnosis.explanations[0].name == "InvertedRate [GN-4]"


# DWA


def dwa_log(tmp_path, weights_of, batches=4):
    """A log with a row a batch: eight epochs, whose mean losses go through `weights_of`."""
    rng = np.random.default_rng(2)
    losses = np.exp(-0.1 * np.arange(12)[:, None] * [1.0, 0.2, 0.5]) * [2.0, 0.05, 30.0]
    rows = losses[:, None, :] * rng.uniform(0.8, 1.2, (12, batches, K))
    means = rows.mean(axis=1)
    weights = np.repeat(weights_of(means), batches, axis=0)
    return log(tmp_path, rows.reshape(-1, K), None, weights, epochs=np.repeat(np.arange(12), batches))


def exact_lambdas(means, T=2.0):
    return np.array(exact_dwa.run(means.tolist(), temperature=T), dtype=float)


def test_dwa_is_judged_on_epoch_means(tmp_path):
    run, verdict = verdict_of(dwa_log(tmp_path, exact_lambdas), "dwa")
    assert len(run.log.rows) == 12
    assert verdict.passed
    assert "epoch" in run.method.cadence


@pytest.mark.parametrize(
    ("weights_of", "name"),
    [
        (lambda means: exact_lambdas(means, T=1.0), "NoTemperature"),
        (lambda means: exact_lambdas(means) / K, "SumToOne"),
        (lambda means: exact_lambdas(1 / means), "InvertedRatio"),
    ],
)
def test_a_wrong_dwa_is_named(tmp_path, weights_of, name):
    _, verdict = verdict_of(dwa_log(tmp_path, weights_of), "dwa", temperature=2.0)
    assert verdict.diagnosis.kind == "identical"
    assert [d.name for d in verdict.diagnosis.explanations[0].defects] == [name]


def test_epochs_of_unequal_length_are_judged_on_their_means(tmp_path):
    """A sum over the batches would do for epochs of one length, since only ratios count."""
    rng, lengths = np.random.default_rng(4), [3, 5, 2, 4, 1, 6, 3, 2, 5]
    epochs = np.repeat(np.arange(len(lengths)), lengths)
    losses = np.array([2.0, 0.05, 30.0]) * rng.uniform(0.8, 1.2, (len(epochs), K))
    means = np.array([losses[epochs == epoch].mean(axis=0) for epoch in range(len(lengths))])
    weights = np.repeat(exact_lambdas(means), lengths, axis=0)
    run, verdict = verdict_of(log(tmp_path, losses, None, weights, epochs=epochs), "dwa")
    assert verdict.passed
    assert verdict.steps == len(lengths) - 1
    np.testing.assert_allclose(run.log.losses, means, rtol=1e-14)


def test_weights_that_change_within_an_epoch_are_refused(tmp_path):
    losses, norms = measurements(8)
    path = log(tmp_path, losses, norms, exact_weights(losses, norms), epochs=np.repeat([0, 1], 4))
    with pytest.raises(mtlref.LogError, match="the weights change within epoch 0"):
        verdict_of(path, "dwa")


# THE SHIPPED LOGS


def test_the_run_of_gradnorm_pytorch_is_what_its_source_says():
    run, verdict = loops.shipped("gradnorm-pytorch")
    assert not verdict.passed
    assert verdict.departures == verdict.steps == 399
    assert verdict.first.row == 1
    assert verdict.diagnosis.kind == "identical"
    assert [d.name for d in verdict.diagnosis.explanations[0].defects] == ["InvertedRate", "MeanForSum"]
    assert verdict.diagnosis.explanations[0].steps == 399
    # The same, from the log alone: the package's own lines, in NumPy.
    L, n, w = run.log.losses, run.log.norms, run.log.weights
    ratio = L / L[0]
    rate = ratio / ratio.sum(axis=1, keepdims=True) * 2
    target = (w * n).mean(axis=1, keepdims=True) * rate**-1.5
    u = w - 0.025 * np.sign(w * n - target) * n / 2
    u = u / np.abs(u).sum(axis=1, keepdims=True) * 2
    np.testing.assert_allclose(w[1:], u[:-1], atol=1e-6)


def test_the_run_of_the_torch_loop_passes():
    run, verdict = loops.shipped("torch-loop")
    assert verdict.passed
    assert verdict.steps == 399
    assert verdict.run.apart < 1e-5


def test_the_report_as_json_is_plain(tmp_path):
    for name in ("gradnorm-pytorch", "torch-loop"):
        plain = json.loads(json.dumps(report.plain(*loops.shipped(name)), allow_nan=False))
        assert plain["passed"] == (name == "torch-loop")


# WHAT CANNOT BE JUDGED


@pytest.mark.parametrize(
    ("settings", "keep", "message"),
    [
        ({}, ("loss", "weight"), r"GradNorm reads norms \(--norms PATTERN\); the log holds none"),
        ({}, ("loss", "norm"), r"the log holds no weights"),
        ({"alpha": -1.0}, ("loss", "norm", "weight"), "alpha = -1.0 must not be negative"),
        ({"beta": 1.0}, ("loss", "norm", "weight"), "GradNorm has no setting 'beta'; it has: alpha, lr"),
        ({"optimiser": "adamw"}, ("loss", "norm", "weight"), "optimiser = 'adamw' is not known"),
    ],
)
def test_what_is_missing_is_named(tmp_path, settings, keep, message):
    losses, norms = measurements(8)
    parts = {"loss": losses, "norm": norms, "weight": exact_weights(losses, norms)}
    path = log(tmp_path, *(parts[kind] if kind in keep else None for kind in parts))
    with pytest.raises(mtlref.MtlrefError, match=message):
        read_run(path, method="gradnorm", settings=settings)


def test_a_log_outside_the_method_s_domain_names_the_step(tmp_path):
    losses, norms = measurements(8)
    weights = exact_weights(losses, norms)
    losses[5, 1] = -0.1
    run = read_run(log(tmp_path, losses, norms, weights), method="gradnorm")
    with pytest.raises(
        mtlref.DomainError, match=r"step 5: GN-3 compares losses of at least 0, not losses\[1\] = -0.1"
    ):
        judge(run.method, run.log)


def test_a_weight_that_the_method_cannot_have_names_the_step(tmp_path):
    losses, norms = measurements(8)
    weights = np.ones((8, K))
    weights[3, 2] = 0.0
    run = read_run(log(tmp_path, losses, norms, weights), method="uncertainty")
    verdict = judge(run.method, run.log)
    assert "step 3: UW-1 is an exponential, above 0, not weights[2] = 0.0" in verdict.stopped
    assert (verdict.first.row, verdict.steps) == (0, 3)


def test_an_example_that_there_is_not_is_named():
    with pytest.raises(mtlref.LogError, match="there are: gradnorm-pytorch, torch-loop"):
        read_run("example:nothing")


def test_a_log_without_a_method_is_asked_for_one(tmp_path):
    losses, norms = measurements(8)
    with pytest.raises(mtlref.LogError, match="which method"):
        read_run(log(tmp_path, losses, norms, exact_weights(losses, norms)))


def test_adam_is_one_setting_away(tmp_path):
    losses, norms = measurements()
    gradients = [np.diag(n).tolist() for n in norms]
    steps = exact_gradnorm.run(losses.tolist(), gradients, alpha=1.5, lr=0.025, adam={})
    weights = np.array([np.ones(K), *[np.array(step["w_next"], dtype=float) for step in steps[:-1]]])
    path = log(
        tmp_path, losses, norms, weights, {"method": "gradnorm", "settings": {"optimiser": "adam", "lr": 0.025}}
    )
    run = read_run(path)
    assert run.method.optimiser == mtlref.Adam(0.025)
    assert judge(run.method, run.log).passed
    assert not verdict_of(path, optimiser={"name": "adam", "lr": 0.02})[1].passed
