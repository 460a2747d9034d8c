"""The recorder: the recipes of derivations/audit.md, what a killed run leaves, and PCGrad's draws."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mtlref.audit import Recorder, judge, read_log, read_run, recording
from mtlref.exact import pcgrad as exact_pcgrad
from mtlref.notation import LogError, MtlrefError, ShapeError

PAGE = (Path(__file__).parents[2] / "derivations/audit.md").read_text(encoding="utf-8")
RECIPES = {
    words.split()[-2]: code for words, code in re.findall(r"```(python [^\n]*recipe)\n(.*?)```", PAGE, re.DOTALL)
}


@pytest.mark.parametrize("framework", ["numpy", "torch", "jax"])
@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_a_recipe_runs_and_its_log_passes(tmp_path, framework, ending):
    if framework != "numpy":
        module = pytest.importorskip(framework, reason=f"this recipe is for {framework}")
    if framework == "jax":
        module.config.update("jax_enable_x64", False)  # JAX's own default, which other tests may have changed
    path = tmp_path / f"run.{ending}"
    exec(RECIPES[framework], {"path": path})
    run = read_run(str(path))
    verdict = judge(run.method, run.log)
    assert verdict.passed
    assert verdict.steps >= 19
    assert not run.assumed or set(run.assumed) <= {"optimiser", "negative", "likelihoods", "dimensions"}
    assert run.log.unit == (2.0**-53 if framework == "numpy" else 2.0**-24)


def test_what_is_recorded_reads_back_bit_for_bit(tmp_path):
    rng = np.random.default_rng(1)
    losses, norms, weights = rng.uniform(0.1, 3, (3, 7, 2))
    for ending in recording.ENDINGS:
        with Recorder(tmp_path / f"run{ending}", ["a", "b,c"]) as log:
            for L, n, w in zip(losses, norms, weights, strict=True):
                log.step(losses=list(L), norms=n, weights=w.tolist(), epoch=4)
        read = read_log(tmp_path / f"run{ending}")
        assert read.tasks == ("a", "b,c")
        for got, expected in ((read.losses, losses), (read.norms, norms), (read.weights, weights)):
            assert got.tobytes() == expected.tobytes()
        assert read.rows.tolist() == list(range(7))
        assert read.epochs.tolist() == [4.0] * 7
        assert not (tmp_path / "run.json").exists()


def test_a_loss_of_nan_is_written_and_read(tmp_path):
    for ending in recording.ENDINGS:
        with Recorder(tmp_path / f"run{ending}", ["a"]) as log:
            for value in (1.0, np.nan, np.inf, 2.0):
                log.step(losses=[value], weights=[1.0])
        np.testing.assert_array_equal(read_log(tmp_path / f"run{ending}").losses[:, 0], [1.0, np.nan, np.inf, 2.0])


KILLED = """
import os, signal, sys
from mtlref.audit import Recorder
log = Recorder(sys.argv[1], ["a", "b"], method="equal")
for step in range(1000):
    log.step(losses=[1.0 + step, 2.0], weights=[1.0, 1.0])
    if step == 700:
        log.file.write(b"701,7")
        log.file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="processes are killed with SIGKILL")
def test_a_run_that_is_killed_leaves_every_row_it_wrote_and_can_be_gone_on_with(tmp_path):
    path = tmp_path / "run.csv"
    killed = subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False)
    assert killed.returncode == -signal.SIGKILL
    run = read_run(str(path))
    assert run.log.losses[:, 0].tolist() == [1.0 + step for step in range(701)]
    assert run.log.notes == (
        "line 703, the last, has no line end: the file may be cut short there, and the line is not read",
    )
    with Recorder(path, ["a", "b"], append=True) as log:
        log.step(losses=[0.5, 0.25], weights=[1.0, 1.0])
    again = read_log(path)
    assert (again.rows[-1], again.notes) == (701, ())
    assert again.losses[-2:].tolist() == [[701.0, 2.0], [0.5, 0.25]]


def test_json_lines_are_gone_on_with_too(tmp_path):
    path = tmp_path / "run.jsonl"
    with Recorder(path, ["a"]) as log:
        log.step(5, losses=[1.0], weights=[1.0])
        log.file.write(b'{"step": 6, "lo')
    with Recorder(path, ["a"], append=True) as log:
        log.step(losses=[2.0], weights=[1.0])
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [5, 6]
    with Recorder(tmp_path / "new.csv", ["a"], append=True) as log:
        log.step(losses=[2.0], weights=[1.0])
    assert read_log(tmp_path / "new.csv").rows.tolist() == [0]


def test_a_file_that_is_there_is_not_overwritten(tmp_path):
    (tmp_path / "run.csv").write_text("precious")
    with pytest.raises(LogError, match="cannot be written: File exists"):
        Recorder(tmp_path / "run.csv", ["a"])
    assert (tmp_path / "run.csv").read_text() == "precious"


@pytest.mark.parametrize(
    ("tasks", "row", "message"),
    [
        ([], {}, "the tasks need distinct, printable names"),
        (["a", "a"], {}, "the tasks need distinct, printable names"),
        (["a", "b\n"], {}, "the tasks need distinct, printable names"),
        (["a", "b"], {"losses": [1.0], "weights": [1.0, 1.0]}, r"losses must have the shape \(2\); it is \(1,\)"),
        (["a", "b"], {"losses": [1, 2], "weights": [1, 1], "gram": [[1, 2]]}, r"gram must have the shape \(2, 2\)"),
        (["a"], {"losses": ["x"], "weights": [1.0]}, "losses is not an array of numbers"),
    ],
)
def test_what_cannot_be_written_is_named(tmp_path, tasks, row, message):
    with pytest.raises(MtlrefError, match=message), Recorder(tmp_path / "run.csv", tasks) as log:
        log.step(**row)


def test_a_row_unlike_the_first_is_named(tmp_path):
    with Recorder(tmp_path / "run.csv", ["a"]) as log:
        log.step(losses=[1.0], weights=[1.0])
        with pytest.raises(LogError, match=r"a row has the columns .*'norm/a'.*, the first row"):
            log.step(losses=[1.0], norms=[1.0], weights=[1.0])
        with pytest.raises(ShapeError):
            log.step(losses=1.0, weights=[1.0])
    with pytest.raises(LogError, match=r"ends in .csv or .jsonl"):
        Recorder(tmp_path / "run.npz", ["a"])


# DRAWS


def surgery(path, steps=12, tasks=("a", "b", "c"), swapped=None):
    """Record PCGrad's weights of random gradients, from the rationals; at step `swapped` another order is logged."""
    rng, K = np.random.default_rng(3), len(tasks)
    with Recorder(path, tasks, method="pcgrad") as log:
        for step in range(steps):
            J = rng.integers(-4, 5, (K, 2)).astype(float)
            others = [[j for j in range(K) if j != i] for i in range(K)]
            draw = [list(rng.permutation(row)) for row in others]
            exact = exact_pcgrad.step(J.tolist(), [[int(j) for j in row] for row in draw])
            weights = [float(value) for value in exact["w"]]
            logged = [row[::-1] for row in draw] if step == swapped else draw
            log.step(losses=np.ones(K), gram=J @ J.T, weights=weights, draw=logged)


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_three_tasks_and_more_are_audited_with_their_draws(tmp_path, ending):
    path = tmp_path / f"run.{ending}"
    surgery(path)
    run = read_run(str(path))
    assert run.log.draws.shape == (12, 3, 2)
    verdict = judge(run.method, run.log)
    assert verdict.passed
    assert verdict.steps == 12
    assert len(read_log(path).gram) == 12


def test_another_order_than_the_run_s_is_a_departure(tmp_path):
    surgery(tmp_path / "run.csv", swapped=7)
    run = read_run(str(tmp_path / "run.csv"))
    verdict = judge(run.method, run.log)
    assert (verdict.departures, verdict.first.row) == (1, 7)


def test_draws_that_lack_a_task_or_a_position_are_named(tmp_path):
    text = "loss/a,loss/b,draw/a/0,draw/b/1\n1,2,1,0\n"
    (tmp_path / "run.csv").write_text(text)
    with pytest.raises(LogError, match=r"draws.*lacks 'draw/b/0' and has 'draw/b/1'"):
        read_log(tmp_path / "run.csv")
    np.savez(tmp_path / "run.npz", losses=np.ones((2, 3)), draws=np.zeros((2, 3, 2)))
    assert read_log(tmp_path / "run.npz").draws.shape == (2, 3, 2)
