"""The training loop against loops written out by hand, and its log through the audit."""

from __future__ import annotations

import re

import numpy as np
import pytest

import mtlref
from mtlref.audit import judge, read_run
from mtlref.audit.writers import write_log
from mtlref.defects import DEFECTS, variant
from mtlref.exact import dwa as exact_dwa
from mtlref.networks import SharedTrunk, mse
from mtlref.progress import track
from mtlref.settings import build
from mtlref.training import train

NETWORK = SharedTrunk(n_inputs=5, trunk=(4,), heads=(2, 1, 3), activation="tanh")
TASKS = ("first", "second", "third")
PRIORITIES, PLAIN = mtlref.FixedWeights((1.5, 1.0, 0.5)), {"method": "fixed", "weights": [1.5, 1.0, 0.5]}


def data(seed=1):
    """Twelve rows of inputs, and targets of unequal scale for the three heads."""
    rng = np.random.default_rng(seed)
    return rng.standard_normal((12, 5)), [s * rng.standard_normal((12, m)) for s, m in ((1, 2), (10, 1), (0.1, 3))]


def batches(epoch):
    """Three batches of unequal content, in an order that depends on the epoch."""
    x, targets = data()
    for rows in np.array_split(np.random.default_rng(epoch).permutation(12), 3):
        yield x[rows], [y[rows] for y in targets]


def losses(parameters, batch):
    x, targets = batch
    return [mse(output, y) for output, y in zip(NETWORK.forward(parameters, x), targets, strict=True)]


def run(method, optimiser=None, epochs=5, **options):
    parameters = NETWORK.init(np.random.default_rng(7))
    return train(losses, parameters, batches, method, optimiser or mtlref.SGD(0.05), epochs=epochs, **options)


def by_hand(epochs, weigh):
    """The same training in NumPy, with the backward pass written out; `weigh(losses, norms, epoch)` gives w."""
    parameters = NETWORK.init(np.random.default_rng(7))
    W, b = (array.copy() for array in parameters.shared)
    heads = [[array.copy() for array in head] for head in parameters.heads]
    rows = []
    for epoch in range(epochs):
        for x, targets in batches(epoch):
            h = np.tanh(x @ W + b)
            values, shared, own = [], [], []
            for (A, a), y in zip(heads, targets, strict=True):
                error = h @ A + a - y
                d = 2 * error / error.size
                back = (d @ A.T) * (1 - h**2)
                values.append(np.mean(error**2))
                own.append((h.T @ d, d.sum(axis=0)))
                shared.append(np.concatenate([(x.T @ back).ravel(), back.sum(axis=0)]))
            w = weigh(np.array(values), np.linalg.norm(shared, axis=1), epoch)
            rows.append((values, w))
            step = 0.05 * (w @ np.array(shared))
            W, b = W - step[: W.size].reshape(W.shape), b - step[W.size :]
            for i, (dA, da) in enumerate(own):
                heads[i] = [heads[i][0] - 0.05 * w[i] * dA, heads[i][1] - 0.05 * w[i] * da]
    return np.array([row[0] for row in rows]), np.array([row[1] for row in rows]), (W, b, heads)


def agree(history, expected):
    values, weights, (W, b, heads) = expected
    np.testing.assert_allclose(history.losses, values, rtol=1e-11)
    np.testing.assert_allclose(history.weights, weights, rtol=1e-11)
    np.testing.assert_allclose(history.parameters.shared[0], W, rtol=1e-10)
    np.testing.assert_allclose(history.parameters.shared[1], b, rtol=1e-10)
    for head, (A, a) in zip(history.parameters.heads, heads, strict=True):
        np.testing.assert_allclose(head[0], A, rtol=1e-9)
        np.testing.assert_allclose(head[1], a, rtol=1e-9)


def test_equal_weights_train_as_by_hand():
    agree(run(mtlref.EqualWeights()), by_hand(5, lambda L, n, epoch: np.ones(3)))


def test_gradnorm_trains_as_by_hand_and_weights_the_heads():
    memory = {"w": np.ones(3), "L_0": None}

    def weigh(L, n, epoch):
        w = memory["w"]
        memory["L_0"] = L if memory["L_0"] is None else memory["L_0"]
        progress = L / memory["L_0"]
        G = w * n
        u = w - 1e-3 * np.sign(G - G.mean() * (progress / progress.mean()) ** 0.5) * n
        memory["w"] = 3 * u / u.sum()
        return w

    history = run(mtlref.GradNorm(alpha=0.5, lr=1e-3))
    assert 0.05 < history.weights.min() < 0.9 < 1.05 < history.weights.max()
    agree(history, by_hand(5, weigh))


def test_dwa_keeps_its_weights_through_an_epoch_and_steps_on_the_batches_mean():
    history = run(mtlref.DWA(), epochs=6)
    means = history.losses.reshape(6, 3, 3).mean(axis=1)
    expected = np.array(exact_dwa.run(means.tolist(), temperature=2.0), dtype=float)
    np.testing.assert_allclose(history.weights.reshape(6, 3, 3), np.repeat(expected[:, None], 3, axis=1), rtol=1e-14)
    assert np.ptp(expected[2:]) > 0.01
    agree(run(mtlref.DWA(), epochs=6), by_hand(6, lambda L, n, epoch: expected[epoch]))


def test_the_norms_are_those_of_the_measured_arrays():
    whole, bias = run(mtlref.EqualWeights()), run(mtlref.EqualWeights(), measured=slice(1, 2))
    np.testing.assert_array_equal(whole.losses, bias.losses)
    assert np.all(bias.norms < whole.norms)


@pytest.mark.parametrize("optimiser", [mtlref.Momentum(0.01), mtlref.Adam(0.01)])
def test_other_optimisers_bring_the_loss_down(optimiser):
    history = run(mtlref.EqualWeights(), optimiser, epochs=40)
    assert history.losses[-3:].sum() < 0.7 * history.losses[:3].sum()


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        (mtlref.GradNorm(alpha=0.5, lr=0.01), {"alpha": 0.5, "lr": 0.01}),
        (mtlref.GradNorm(alpha=0.5, optimiser=mtlref.Adam(0.01)), {"alpha": 0.5, "optimiser": "adam", "lr": 0.01}),
        (mtlref.DWA(temperature=0.5), {"temperature": 0.5}),
        (mtlref.EqualWeights(), {}),
        (mtlref.FixedWeights((0.5, 2.0, 1.0)), {"weights": [0.5, 2.0, 1.0]}),
        (mtlref.PELTR(bounds=(0.1, 0.0, 0.2)), {"bounds": [0.1, 0.0, 0.2]}),
        (mtlref.PELTR(solver="exact", timing="same"), {"solver": "exact", "timing": "same"}),
        (mtlref.UncertaintyWeighting(lr=0.01), {"lr": 0.01}),
        (mtlref.CoVWeighting(), {}),
        (mtlref.CoVWeighting(statistics="previous", decay=0.9), {"statistics": "previous", "decay": 0.9}),
        (mtlref.Combination(mtlref.DWA(), PRIORITIES), {"stages": ["dwa", PLAIN]}),
        (mtlref.Combination(mtlref.CoVWeighting(), PRIORITIES), {"stages": ["cov", PLAIN]}),
        (
            mtlref.Combination(mtlref.DWA(), mtlref.Stage(mtlref.GradNorm(lr=1e-3), 0.5), epoch_steps=3),
            {"stages": ["dwa", {"method": "gradnorm", "lr": 1e-3, "strength": 0.5}], "epoch_steps": 3},
        ),
        (
            mtlref.Combination(PRIORITIES, mtlref.GradNorm(lr=1e-3), mtlref.PELTR(bounds=(0.1, 0.1, 0.1))),
            {"stages": [PLAIN, {"method": "gradnorm", "lr": 1e-3}, {"method": "pe_ltr", "bounds": [0.1, 0.1, 0.1]}]},
        ),
    ],
    ids=lambda x: type(x).__name__ if isinstance(x, mtlref.Method) else ",".join(x) or "defaults",
)
def test_the_log_that_training_writes_passes_the_audit(tmp_path, method, settings):
    path = tmp_path / "run.csv"
    run(method, epochs=6).write_log(path, method, settings, TASKS)
    audited = read_run(str(path))
    assert audited.log.tasks == TASKS
    verdict = judge(audited.method, audited.log)
    assert verdict.passed
    assert verdict.steps == (6 if method.cadence == "epoch" else 18) - method.lagged


def test_pcgrad_trains_on_its_draws_and_leaves_the_heads_alone(tmp_path):
    """Three tasks: the weights are those of the generator's draws, and a log without draws is refused."""
    history = run(mtlref.PCGrad(), rng=np.random.default_rng(5))
    rng, method = np.random.default_rng(5), mtlref.PCGrad()
    for gram, w in zip(history.gram, history.weights, strict=True):
        out = method.step(method.init(3), np.ones(3), mtlref.from_gram(gram), draw=method.sample(rng, 3))
        np.testing.assert_allclose(w, out.weights, rtol=1e-6)
    np.testing.assert_array_equal(history.head_weights, 1.0)
    only, start = [next(batches(0))], NETWORK.init(np.random.default_rng(7))
    moved = train(losses, start, lambda _: only, mtlref.PCGrad(), mtlref.SGD(0.05), epochs=1)
    plain = train(losses, start, lambda _: only, mtlref.EqualWeights(), mtlref.SGD(0.05), epochs=1)
    assert not np.array_equal(moved.parameters.shared[0], plain.parameters.shared[0])
    for head, expected in zip(moved.parameters.heads, plain.parameters.heads, strict=True):
        np.testing.assert_array_equal(head[0], expected[0])
        np.testing.assert_array_equal(head[1], expected[1])
    history.write_log(tmp_path / "run.csv", method, {}, TASKS)
    with pytest.raises(mtlref.LogError, match="PCGrad draws at random, and the log does not hold its draws"):
        read_run(str(tmp_path / "run.csv"))


def test_a_combination_trains_its_trunk_by_the_aggregator_and_its_heads_by_the_loss_level(tmp_path):
    """Heads: DWA times priorities, by the exact DWA; trunk: λ times PCGrad's own coefficients. No draws, no audit."""
    method = mtlref.Combination(mtlref.DWA(), PRIORITIES, mtlref.PCGrad(), epoch_steps=3)
    history = run(method, rng=np.random.default_rng(5))
    np.testing.assert_allclose(history.head_weights[:6], np.tile(PRIORITIES.weights, (6, 1)), rtol=1e-14)
    means = history.losses.reshape(5, 3, 3).mean(axis=1)
    dwa = np.array(exact_dwa.run(means.tolist(), temperature=2.0), dtype=float)
    heads = dwa * PRIORITIES.weights
    heads *= 3 / heads.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(history.head_weights, np.repeat(heads, 3, axis=0), rtol=1e-13)
    rng = np.random.default_rng(5)
    for gram, h, w in zip(history.gram, history.head_weights, history.weights, strict=True):
        surgery = mtlref.PCGrad()
        draw = surgery.sample(rng, 3)
        coefficients = surgery.step(surgery.init(3), np.ones(3), mtlref.from_gram(gram), draw=draw).terms[
            "coefficients"
        ]
        np.testing.assert_allclose(w, h @ coefficients, rtol=1e-6)
    only, start = [next(batches(0))], NETWORK.init(np.random.default_rng(7))
    moved = train(losses, start, lambda _: only, method, mtlref.SGD(0.05), epochs=1)
    plain = train(losses, start, lambda _: only, PRIORITIES, mtlref.SGD(0.05), epochs=1)
    for head, expected in zip(moved.parameters.heads, plain.parameters.heads, strict=True):
        np.testing.assert_allclose(head[0], expected[0], rtol=1e-13)
    assert not np.allclose(moved.parameters.shared[0], plain.parameters.shared[0])
    history.write_log(tmp_path / "run.csv", method, {"stages": ["dwa", PLAIN, "pcgrad"], "epoch_steps": 3}, TASKS)
    with pytest.raises(mtlref.LogError, match="Combination draws at random, and the log does not hold its draws"):
        read_run(str(tmp_path / "run.csv"))


def test_a_combination_s_log_in_float32_passes_the_audit(tmp_path):
    """GradNorm's weights are brought back to the log's at every step, so what float32 has rounded does not add up."""
    settings = {
        "stages": ["dwa", {"method": "gradnorm", "alpha": 0.5, "lr": 1e-3, "strength": 0.5}],
        "epoch_steps": 3,
    }
    history = run(build("combination", settings), epochs=24)
    columns = {name: np.float32(values).astype(float) for name, values in history.columns(TASKS).items()}
    write_log(tmp_path / "run.csv", columns, {"method": "combination", "settings": settings})
    audited = read_run(str(tmp_path / "run.csv"))
    verdict = judge(audited.method, audited.log)
    assert verdict.passed
    assert verdict.steps == 71
    assert np.ptp(history.weights, axis=0).max() > 0.05


@pytest.mark.parametrize("name", ["GeometricMean", "StrengthsIgnored", "SumForProduct"])
def test_the_audit_of_a_combination_names_its_defect(tmp_path, name):
    settings = {"stages": [{"method": "cov", "strength": 0.5}, PLAIN]}
    (defect,) = (defect for defect in DEFECTS["combination"] if defect.name == name)
    method, path = build("combination", settings), tmp_path / "run.csv"
    run(variant(method, defect), epochs=6).write_log(path, method, settings, TASKS)
    audited = read_run(str(path))
    verdict = judge(audited.method, audited.log)
    assert not verdict.passed
    assert [d.name for d in verdict.diagnosis.explanations[0].defects] == [name]
    assert verdict.diagnosis.kind == "identical"


def test_the_same_seed_trains_to_the_same_bits():
    first, second = run(mtlref.GradNorm(alpha=0.5, lr=0.01)), run(mtlref.GradNorm(alpha=0.5, lr=0.01))
    assert first.losses.tobytes() == second.losses.tobytes()
    assert first.state.to_json() == second.state.to_json()


def test_an_epoch_without_batches_is_refused():
    with pytest.raises(mtlref.DomainError, match=r"batches\(0\) holds no batch"):
        train(losses, NETWORK.init(np.random.default_rng(0)), lambda _: [], mtlref.DWA(), mtlref.SGD(1.0), epochs=1)


def test_progress_is_shown_where_it_is_asked_for_and_nowhere_else(capsys):
    assert list(track(range(3), 3, "epoch", shown=False)) == [0, 1, 2]
    assert capsys.readouterr() == ("", "")
    assert list(track(range(3), 3, "epoch", shown=True)) == [0, 1, 2]
    out, err = capsys.readouterr()
    assert out == ""
    assert re.search(r"3/3|100%", err)
