"""What the experiments are made of, against laws, closed forms and loops that share nothing with them."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from scipy import stats
from scipy.optimize import minimize_scalar

from mtlref.audit import judge, read_run
from mtlref.experiments import gradnorm_toy, mmoe_synthetic, multi_digits, uw_regression
from mtlref.experiments.study import Run
from mtlref.experiments.sweep import stem, sweep
from mtlref.networks import SharedTrunk
from mtlref.notation import DomainError
from mtlref.settings import build

# GRADNORM'S TOY


def test_the_toy_s_matrices_share_b_and_differ_by_eps():
    """cov(M_i, M_j) = 10², var(M_i − M_j) = 2·3.5²: 25,000 entries fix both to two per cent."""
    law = gradnorm_toy.Law.drawn(np.random.default_rng(0), 10, "unit")
    a, b = (law.matrices[i].ravel() for i in (0, 9))
    assert np.cov(a, b)[0, 1] == pytest.approx(100, rel=0.03)
    assert np.var(a - b) == pytest.approx(2 * 3.5**2, rel=0.03)
    assert abs(a.mean()) < 0.3


@pytest.mark.parametrize("inputs", ["unit", "positive"])
def test_the_toy_s_targets_are_the_formula_s(inputs):
    law = gradnorm_toy.Law.drawn(np.random.default_rng(1), 2, inputs)
    x, targets = law.sample(np.random.default_rng(2), 4)
    for scale, M, y in zip((1.0, 100.0), law.matrices, targets, strict=True):
        for n, m in ((0, 0), (3, 99)):
            inner = math.fsum(x[n, j] * M[j, m] for j in range(250))
            assert y[n, m] == pytest.approx(scale * math.tanh(inner), rel=1e-12)
    if inputs == "unit":
        np.testing.assert_allclose(np.linalg.norm(x, axis=1), 1.0, rtol=1e-14)
        assert x.min() < 0
    else:
        assert 0 <= x.min() < 0.01 < 0.99 < x.max() <= 1


def test_the_toy_s_rank_correlation_is_spearman_s():
    a, b = np.random.default_rng(3).standard_normal((2, 10))
    found = gradnorm_toy._rank_correlation(a, b)
    assert found == pytest.approx(stats.spearmanr(a, b).statistic)
    assert gradnorm_toy._rank_correlation(a, np.ones(10)) == 0.0


# UNCERTAINTY WEIGHTING'S REGRESSIONS


def test_the_data_are_the_demonstration_s():
    """The first numbers of NumPy's seed 0, by the order of the demonstration: x, ε_1, ε_2."""
    np.random.seed(0)  # noqa: NPY002
    x, e1, e2 = (np.random.randn(100, 1) for _ in range(3))  # noqa: NPY002
    found, targets = uw_regression.data(0)
    np.testing.assert_array_equal(found, x)
    np.testing.assert_allclose(targets[0], 2 * x + 8 + 10 * e1, rtol=1e-13)
    np.testing.assert_allclose(targets[1], 3 * x + 3 + e2, rtol=1e-13)


def test_the_line_s_residual_is_linregress_s():
    x, (y, _) = uw_regression.data(3)
    fit = stats.linregress(x[:, 0], y[:, 0])
    residual = y[:, 0] - fit.intercept - fit.slope * x[:, 0]
    assert uw_regression.line_residual(x, y) == pytest.approx(np.sqrt(np.mean(residual**2)), rel=1e-12)


@pytest.mark.parametrize("loss", [0.8, 97.0])
def test_the_stationary_sigma_is_the_root_of_the_loss(loss):
    """The minimum of e^(−s) L/2 + s/2 by a search; the method's slope is 0 there."""
    s = minimize_scalar(lambda s: math.exp(-s) * loss / 2 + s / 2, bracket=(0, 5), tol=1e-12).x
    assert math.exp(s / 2) == pytest.approx(math.sqrt(loss), rel=1e-6)
    method = build("uncertainty", {})
    slope = method.step(method.at([math.log(loss)]), [loss]).terms["ds"]
    assert abs(slope[0]) < 1e-15


def test_the_sampling_error_is_that_of_many_draws():
    """Of 10 σ from 100 normal errors each, the farthest is outside in at most about 5 % of 4000 repetitions."""
    sigma = np.sqrt(np.mean(np.random.default_rng(13).standard_normal((4000, 10, 100)) ** 2, axis=2))
    outside = np.mean(np.abs(sigma - 1).max(axis=1) > uw_regression.sampling_error(10))
    assert 0.02 < outside < 0.08


def test_the_library_s_start_is_uniform_in_the_root_of_the_inputs():
    network = SharedTrunk(9, (400,), (1, 3))
    parameters = uw_regression.library_start(network, np.random.default_rng(14))
    assert [array.shape for array in parameters.flat] == [(9, 400), (400,), (400, 1), (1,), (400, 3), (3,)]
    for arrays, n in ((parameters.shared, 9), (sum(parameters.heads, ()), 400)):
        drawn = np.concatenate([array.ravel() for array in arrays]) * np.sqrt(n)
        assert stats.kstest(drawn, stats.uniform(-1, 2).cdf).pvalue > 0.01


def test_sigma_goes_to_the_root_of_the_loss_where_the_network_can_move_no_more():
    """A small network and quick log-variances: σ meets the root of the mean loss within a few per cent."""
    experiment = uw_regression.UWRegression(
        hidden=4, epochs=1500, early=100, window=100, batch=100, lr=0.02, rates=(0.05,)
    )
    metrics = experiment.run("rate=0.05", 0).metrics
    for i in (1, 2):
        assert metrics[f"σ{i} end"] == pytest.approx(metrics[f"√L{i} end"], rel=0.05)
        assert metrics[f"√L{i} end"] == pytest.approx(metrics[f"RMSE{i} end"], rel=0.05)


# TWO TASKS OF KNOWN CORRELATION


@pytest.mark.parametrize("p", [0.0, 0.5, 1.0, -0.3])
def test_the_directions_have_the_cosine_and_the_length_that_are_asked_for(p):
    w = mmoe_synthetic.Law.drawn(np.random.default_rng(4), p, 0.7).w
    np.testing.assert_allclose(w.T @ w, 0.49 * np.array([[1, p], [p, 1]]), atol=1e-14)


def test_the_labels_are_the_formula_s():
    law = mmoe_synthetic.Law.drawn(np.random.default_rng(5), 0.5, 1.0)
    x, y = law.sample(np.random.default_rng(6), 2000)
    expected = np.empty_like(y)
    for n in range(len(x)):
        for k in range(2):
            z = math.fsum(x[n] * law.w[:, k])
            expected[n, k] = z + math.fsum(math.sin(a * z + b) for a, b in zip(law.alpha, law.beta, strict=True))
    noise = y - expected
    assert noise.std() == pytest.approx(0.1, rel=0.05)
    assert abs(np.corrcoef(noise.T)[0, 1]) < 0.1


def test_the_models_have_about_as_many_parameters():
    """100·16·8 + 16·8·2 = 13,056 as the paper counts, without biases, gates and outputs."""
    sizes = {}
    for model in mmoe_synthetic.MODELS:
        parameters = mmoe_synthetic.network_of(model).init(np.random.default_rng(0))
        sizes[model] = sum(array.size for array in parameters.flat)
    assert sizes["shared-bottom"] == 100 * 113 + 113 + 2 * (113 * 8 + 8 + 8 + 1)
    experts, towers = 8 * (100 * 16 + 16), 2 * (16 * 8 + 8 + 8 + 1)
    assert sizes["omoe"] == experts + towers + 800
    assert sizes["mmoe"] == experts + towers + 1600
    assert sizes["hmoe"] == sizes["hmoe-free"] == experts + towers + 1600 + 400
    assert sizes["hmoe-own"] == sizes["hmoe"] + 8 * 16 + 2 * (8 + 2)


def test_the_own_start_gives_the_own_score_its_weight_at_every_input():
    """Its relation logits are log 9 on the constant and 0 on all else; the other two start as the defaults do."""
    parameters = mmoe_synthetic.started("hmoe-own", np.random.default_rng(15))
    x = np.random.default_rng(16).standard_normal((5, 100))
    seen = mmoe_synthetic.inputs("hmoe-own", x)
    np.testing.assert_array_equal(seen, np.concatenate([x, np.ones((5, 1))], axis=1))
    assert mmoe_synthetic.inputs("hmoe", x) is x
    a = mmoe_synthetic.network_of("hmoe-own").terms(parameters, seen)["a"]
    for k in (0, 1):
        np.testing.assert_allclose(a[k].value[:, k], 0.9, rtol=1e-14)
    assert not mmoe_synthetic.network_of("hmoe-free").constrained
    for model in ("hmoe", "hmoe-free"):
        flat = mmoe_synthetic.started(model, np.random.default_rng(17)).flat
        expected = mmoe_synthetic.network_of("hmoe").init(np.random.default_rng(17)).flat
        assert all(np.array_equal(found, wanted) for found, wanted in zip(flat, expected, strict=True))


def test_a_tiny_sweep_of_the_models_runs_and_its_logs_pass_the_audit(tmp_path):
    experiment = mmoe_synthetic.MMoESynthetic(correlations=(0.0, 1.0), rows=60, test=40, epochs=2, batch=20)
    with ThreadPoolExecutor(1) as executor:
        runs = sweep(experiment, 2, tmp_path, executor)
    summary = experiment.summary(runs)
    assert len(summary.table) == 12
    assert len(summary.claims) == 7
    correlations = [run.metrics["label correlation"] for run in runs if run.arm == "p=1 mmoe"]
    assert min(correlations) > 0.9
    audited = read_run(str(tmp_path / "logs" / f"{stem('p=0 hmoe', 0)}.csv"))
    assert judge(audited.method, audited.log).passed


# TWO DIGITS AND THEIR SUM


def test_a_canvas_holds_the_larger_ink_of_both_digits():
    images = np.random.default_rng(7).uniform(0, 1, (3, 8, 8))
    canvas = multi_digits.canvases(images, np.array([0, 2]), np.array([1, 1])).reshape(2, 10, 10)
    for n, (a, b) in enumerate(((0, 1), (2, 1))):
        for i in range(10):
            for j in range(10):
                left = images[a, i, j] if i < 8 and j < 8 else 0.0
                right = images[b, i - 2, j - 2] if i >= 2 and j >= 2 else 0.0
                assert canvas[n, i, j] == max(left, right)


def test_no_test_digit_is_seen_in_training_and_the_labels_are_the_digits_own(monkeypatch):
    """Image i is a plain i/1000 wide, so the canvas's corners say which digits it holds."""
    n = 50
    images = np.broadcast_to(np.arange(1, n + 1)[:, None, None] / 1000, (n, 8, 8)).copy()
    labels = np.arange(n) % 10
    monkeypatch.setattr(multi_digits, "digits", lambda: (images, labels))
    experiment = multi_digits.MultiDigits(training=30, partners=3, batch=10)
    seen = []
    for x, y in experiment.data(5):
        ids = np.rint(x.reshape(-1, 10, 10)[:, [0, 9], [0, 9]] * 1000).astype(int) - 1
        np.testing.assert_array_equal(labels[ids], y)
        assert np.all(ids[:, 0] != ids[:, 1])
        seen.append(set(ids.ravel().tolist()))
    assert not seen[0] & seen[1]
    assert len(seen[0]) == 30
    assert len(seen[1]) == 20


def test_random_weights_are_a_softmax_of_sum_k():
    method = multi_digits.RandomWeights()
    z = method.sample(np.random.default_rng(8), 3)
    out = method.step(method.init(3), [1.0, 2.0, 3.0], draw=z)
    total = math.fsum(map(math.exp, z))
    np.testing.assert_allclose(out.weights, [3 * math.exp(value) / total for value in z], rtol=1e-14)
    np.testing.assert_array_equal(out.weights, out.head_weights)
    assert not np.array_equal(z, method.sample(np.random.default_rng(9), 3))


def test_the_errors_are_counted_as_by_hand():
    network = SharedTrunk(100, (6,), (10, 10, 1))
    parameters = network.init(np.random.default_rng(10))
    x = np.random.default_rng(11).uniform(0, 1, (30, 100))
    y = np.random.default_rng(12).integers(0, 10, (30, 2))
    W, b = parameters.shared
    h = np.maximum(x @ W + b, 0)
    outputs = [h @ head[0] + head[1] for head in parameters.heads]
    wrong = [
        sum(int(row.argmax() != label) for row, label in zip(outputs[i], y[:, i], strict=True)) / 30 for i in (0, 1)
    ]
    squared = math.fsum((outputs[2][n, 0] - y[n, 0] - y[n, 1]) ** 2 for n in range(30)) / 30
    np.testing.assert_allclose(multi_digits.errors(network, parameters, (x, y)), [*wrong, squared], rtol=1e-12)


def test_scores_and_differences_by_hand():
    metrics = {"equal": (0.2, 0.4, 2.0), "a": (0.1, 0.4, 2.0), "b": (0.4, 0.8, 4.0)}
    runs = [
        Run(
            arm,
            seed,
            {name: v * (1 + 0.01 * seed * (arm == "a")) for name, v in zip(multi_digits.ERRORS, m, strict=True)},
            {},
        )
        for arm, m in metrics.items()
        for seed in range(4)
    ]
    scores = multi_digits.scores_of(runs, tuple(metrics))
    np.testing.assert_allclose(scores[0], [1.0, (0.5 + 1 + 1) / 3, 2.0])
    assert multi_digits.different(scores, tuple(metrics), 0) == (["a"], ["b"])


def test_a_tiny_sweep_of_all_methods_and_the_logs_that_an_audit_can_judge(tmp_path):
    pytest.importorskip("sklearn")
    experiment = multi_digits.MultiDigits(epochs=2, batch=10, training=20, partners=2, trunk=(8,))
    with ThreadPoolExecutor(1) as executor:
        runs = sweep(experiment, 2, tmp_path, executor)
    summary = experiment.summary(runs)
    assert [row["arm"] for row in summary.table] == list(experiment.arms)
    for arm in (
        "equal",
        "fixed",
        "gradnorm",
        "pe_ltr",
        "uncertainty",
        "dwa",
        "cov",
        "gradnorm-slow",
        "dwa+gradnorm-slow",
        "gradnorm+pe_ltr",
    ):
        audited = read_run(str(tmp_path / "logs" / f"{stem(arm, 0)}.csv"))
        assert judge(audited.method, audited.log).passed, arm


def test_without_the_clamp_gradnorm_s_weight_of_the_sum_falls_below_zero():
    """On the default data, within two epochs: what a combination refuses (COMB-3)."""
    pytest.importorskip("sklearn")
    experiment = multi_digits.MultiDigits(epochs=2)
    _, settings = experiment.methods["gradnorm+pe_ltr"]
    settings["stages"][0] = {**settings["stages"][0], "negative": "keep"}
    with pytest.raises(DomainError, match=r"COMB-3 takes weights of at least 0, not gradnorm.weights\[2\]"):
        experiment.run("gradnorm+pe_ltr", 0)
    settings["stages"][0]["negative"] = "clamp"
    metrics = experiment.run("gradnorm+pe_ltr", 0).metrics
    assert 0 < metrics["all at 0"] <= metrics["sum at 0"] < 1


def test_every_figure_can_be_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    from mtlref.experiments.plots import save

    small = (
        gradnorm_toy.GradNormToy(tasks=(2,), steps=8, epoch=4, batch=4, test=5),
        uw_regression.UWRegression(hidden=2, epochs=6, early=4, window=2),
        mmoe_synthetic.MMoESynthetic(correlations=(0.0, 1.0), rows=40, test=20, epochs=2, batch=20),
    )
    for experiment in small:
        with ThreadPoolExecutor(1) as executor:
            runs = sweep(experiment, 2, tmp_path / experiment.name, executor)
        drawn = []
        for name in ("a.svg", "b.svg"):
            save(tmp_path / name, lambda figure: experiment.draw(figure, runs, experiment.summary(runs)))  # noqa: B023
            drawn.append((tmp_path / name).read_bytes())
        assert drawn[0] == drawn[1]
