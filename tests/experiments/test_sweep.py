"""A sweep: the same bits on any executor, every finished run kept, other settings refused, the command line."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from concurrent.futures import BrokenExecutor, Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pytest

from mtlref.audit import judge, read_run
from mtlref.cli import main
from mtlref.experiments.command import NAMES, csv_text, experiment_of, shown, spread
from mtlref.experiments.gradnorm_toy import GradNormToy
from mtlref.experiments.study import Claim, Outcome, Run, Summary, executed
from mtlref.experiments.sweep import OtherSettingsError, stem, sweep, workers
from mtlref.experiments.uw_regression import UWRegression
from mtlref.notation import DomainError, MtlrefError, NonFiniteError

TINY = GradNormToy(tasks=(2,), steps=12, epoch=4, batch=5, test=10)
WORDS = ["--set", "hidden=3", "--set", "epochs=30", "--set", "early=20", "--set", "window=5"]
SMALL = UWRegression(hidden=3, epochs=30, early=20, window=5)


def files(folder):
    return {path.name: path.read_bytes() for path in sorted((folder / "runs").iterdir())}


class Here(Executor):
    """An executor that runs what it is given at once, and after the n-th only raises `error`."""

    def __init__(self, n=None, error=KeyboardInterrupt):
        self.left, self.error = n, error

    def submit(self, function, *arguments):
        future: Future = Future()
        if self.left == 0:
            future.set_exception(self.error())
            return future
        self.left = None if self.left is None else self.left - 1
        future.set_result(function(*arguments))
        return future


def test_the_same_seed_gives_the_same_bits_whatever_the_jobs(tmp_path):
    with workers(1) as executor:
        sweep(TINY, 2, tmp_path / "one", executor)
    with workers(2) as executor:
        two = sweep(TINY, 2, tmp_path / "two", executor)
    with ThreadPoolExecutor(3) as executor:
        sweep(TINY, 2, tmp_path / "threads", executor)
    assert files(tmp_path / "one") == files(tmp_path / "two") == files(tmp_path / "threads")
    assert [(run.arm, run.seed) for run in two] == [(arm, seed) for arm in TINY.arms for seed in (0, 1)]
    assert len(set(files(tmp_path / "one").values())) == 10


def test_another_seed_gives_other_numbers():
    first, second = (executed(TINY, "T=2 equal", seed, False)[0] for seed in (0, 1))
    assert first.metrics["test loss"] != second.metrics["test loss"]


def test_a_sweep_goes_on_where_it_was_and_takes_more_seeds(tmp_path):
    sweep(TINY, 1, tmp_path / "a", Here())
    before = files(tmp_path / "a")
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "a" / "runs").iterdir()}
    more = sweep(TINY, 2, tmp_path / "a", Here())
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in stamps.items())
    assert before.items() <= files(tmp_path / "a").items()
    assert len(more) == 10
    sweep(TINY, 2, tmp_path / "b", Here())
    assert files(tmp_path / "a") == files(tmp_path / "b")


@pytest.mark.parametrize(
    ("error", "what"), [(KeyboardInterrupt, "interrupted"), (BrokenExecutor, "a worker ended before its run did")]
)
def test_an_interruption_keeps_what_is_finished(tmp_path, error, what):
    with pytest.raises(MtlrefError, match=rf"{what}: 3 of 10 runs are kept in .*; the same command goes on"):
        sweep(TINY, 2, tmp_path, Here(3, error))
    kept = files(tmp_path)
    assert len(kept) == 3
    sweep(TINY, 2, tmp_path, Here())
    assert kept.items() <= files(tmp_path).items()


def test_a_killed_command_loses_only_what_was_under_way(tmp_path):
    command = [sys.executable, "-m", "mtlref", "reproduce", "uw-regression", "--jobs", "1", "--seeds", "40"]
    process = subprocess.Popen(
        [*command, "--out", str(tmp_path / "killed"), *WORDS], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    runs = tmp_path / "killed" / "runs"
    deadline = time.monotonic() + 120
    while not (runs.exists() and len(list(runs.glob("*.json"))) >= 3):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.wait()
    kept = {path.name: path.read_bytes() for path in runs.glob("*.json")}
    assert 3 <= len(kept) < 80
    for text in kept.values():
        Run.read(text.decode())
    sweep(SMALL, 2, tmp_path / "whole", Here())
    whole = files(tmp_path / "whole")
    assert all(whole[name] == kept[name] for name in whole.keys() & kept.keys())
    assert whole.keys() & kept.keys()
    stamps = {name: (runs / name).stat().st_mtime_ns for name in kept}
    sweep(SMALL, 2, tmp_path / "killed", Here())
    assert all((runs / name).stat().st_mtime_ns == stamp for name, stamp in stamps.items())


def test_other_settings_and_other_versions_are_refused(tmp_path, monkeypatch):
    sweep(SMALL, 1, tmp_path, Here())
    with pytest.raises(OtherSettingsError, match="holds runs with another hidden; give another --out"):
        sweep(UWRegression(hidden=4, epochs=30, early=20, window=5), 1, tmp_path, Here())
    monkeypatch.setattr("mtlref.__version__", "9.9.9")
    with pytest.raises(OtherSettingsError, match="another mtlref; give another --out"):
        sweep(SMALL, 1, tmp_path, Here())
    (tmp_path / "settings.json").write_text("[]")
    with pytest.raises(OtherSettingsError, match="holds runs with another"):
        sweep(SMALL, 1, tmp_path, Here())
    (tmp_path / "settings.json").write_text("{")
    with pytest.raises(OtherSettingsError, match=r"settings\.json is not a sweep's"):
        sweep(SMALL, 1, tmp_path, Here())


def test_a_part_of_a_file_is_no_run(tmp_path):
    sweep(SMALL, 1, tmp_path, Here())
    (tmp_path / "runs" / f"{stem('rate=0.001', 1)}.json.part").write_text('{"arm": "rate=0.001", "se')
    assert len(sweep(SMALL, 2, tmp_path, Here())) == 6


@dataclass(frozen=True)
class Failing(GradNormToy):
    def run(self, arm, seed):
        if seed == 1:
            raise DomainError("GN-3 divides by initial_losses[0] = 0.0", equation="GN-3")
        return super().run(arm, seed)


def test_a_run_that_fails_is_named_and_the_others_are_kept(tmp_path):
    experiment = Failing(tasks=(2,), steps=12, epoch=4, batch=5, test=10)
    with ThreadPoolExecutor(1) as executor, pytest.raises(MtlrefError, match=r"gradnorm-toy, T=2 \w+, seed 1: GN-3"):
        sweep(experiment, 2, tmp_path, executor)
    assert len(files(tmp_path)) >= 5


@dataclass(frozen=True)
class Dividing(GradNormToy):
    def run(self, arm, seed):
        return Outcome({"share": float("nan")})


def test_a_metric_that_is_no_number_is_an_error():
    with pytest.raises(NonFiniteError, match="gradnorm-toy, T=2 equal, seed 0: share is nan"):
        executed(Dividing(tasks=(2,)), "T=2 equal", 0, False)


def test_the_logs_of_the_first_seed_pass_the_audit(tmp_path):
    experiment = GradNormToy(tasks=(2,), steps=20, epoch=5, batch=5, test=10)
    sweep(experiment, 2, tmp_path, Here())
    logs = sorted((tmp_path / "logs").glob("*.csv"))
    assert [log.name for log in logs] == sorted(f"{stem(arm, 0)}.csv" for arm in experiment.arms)
    for log in logs:
        audited = read_run(str(log))
        assert judge(audited.method, audited.log).passed, log
        assert audited.method.stem in log.name


def test_a_dask_cluster_s_executor_does_as_well(tmp_path):
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(
            n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        sweep(SMALL, 1, tmp_path / "dask", client.get_executor())
    sweep(SMALL, 1, tmp_path / "here", Here())
    assert files(tmp_path / "dask") == files(tmp_path / "here")


# THE COMMAND LINE


def call(capsys, *words):
    status = main(["reproduce", *words])
    out, err = capsys.readouterr()
    return status, out, err


def test_the_command_writes_what_it_says(capsys, tmp_path):
    words = ["uw-regression", "--seeds", "1", "--jobs", "1", "--out", str(tmp_path), *WORDS]
    status, out, err = call(capsys, *words)
    assert status == 0
    assert "Verdict: " in out
    result = json.loads((tmp_path / "result.json").read_text(encoding="utf-8"))
    assert result["settings"]["hidden"] == 3
    assert result["command"] == "mtlref reproduce uw-regression --seeds 1 " + " ".join(WORDS)
    lines = (tmp_path / "table.csv").read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("arm,σ1 early,σ1 early/low,")
    assert len(lines) == 4
    assert json.loads(call(capsys, *words, "--json")[1]) == result
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        assert "pip install 'mtlref[plot]'; the numbers are written" in err
    else:
        assert (tmp_path / "figure.svg").stat().st_size > 1000
        assert err == ""


def test_without_matplotlib_the_numbers_are_written_all_the_same(capsys, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    words = ["uw-regression", "--seeds", "1", "--jobs", "1", "--out", str(tmp_path), *WORDS]
    status, out, err = call(capsys, *words)
    assert status == 0
    assert "Verdict: " in out
    assert err == "mtlref: the figure needs matplotlib: pip install 'mtlref[plot]'; the numbers are written\n"
    assert (tmp_path / "result.json").exists()


def test_without_scikit_learn_the_digits_say_which_extra(capsys, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    status, out, err = call(capsys, "multi-digits", "--out", str(tmp_path))
    assert (status, out) == (2, "")
    assert err == "mtlref: multi-digits needs scikit-learn: pip install 'mtlref[experiments]'\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["uw-regression", "--set", "depth=3"], "uw-regression has no setting 'depth'; it has: epochs, early"),
        (["uw-regression", "--set", "epochs=x"], "epochs = 'x' must be like 3200"),
        (["uw-regression", "--set", "epochs=0"], "epochs must be a whole number of at least 1"),
        (["uw-regression", "--set", "epochs=10"], "must be in this order"),
        (["uw-regression", "--set", "rates=1"], "rates = 1 must be a list of numbers or words"),
        (["gradnorm-toy", "--set", "inputs=odd"], "inputs = 'odd' must be one of positive, unit"),
        (["gradnorm-toy", "--set", "tasks=[3]"], "tasks = '3' must be one of 2, 10"),
        (["gradnorm-toy", "--set", "steps=3"], "steps = 3 must be a multiple of epoch"),
        (["gradnorm-toy", "--seeds", "0"], "seeds = 0 must be at least 1"),
        (["gradnorm-toy", "--jobs", "0"], "jobs = 0 must be at least 1"),
    ],
)
def test_what_is_wrong_is_one_line_and_status_2(capsys, tmp_path, words, message):
    status, out, err = call(capsys, *words, "--out", str(tmp_path / "new"))
    assert (status, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1
    assert not (tmp_path / "new").exists()


def test_a_folder_that_cannot_be_is_status_2(capsys, tmp_path):
    (tmp_path / "file").write_text("")
    status, _, err = call(capsys, "uw-regression", "--jobs", "1", "--out", str(tmp_path / "file"), *WORDS)
    assert status == 2
    assert "cannot be used" in err


def test_without_a_name_the_experiments_are_listed(capsys):
    assert json.loads(call(capsys, "--json")[1]) == NAMES
    assert [line.split()[0] for line in call(capsys)[1].splitlines()] == list(NAMES)


@pytest.mark.parametrize("name", list(NAMES))
def test_every_experiment_has_the_name_it_is_called_by(name):
    cls = experiment_of(name)
    assert cls.name == name
    assert cls.built(cls().plain()) == cls()
    assert len({stem(arm, 0) for arm in cls().arms}) == len(cls().arms)


def test_help_is_there_and_an_unknown_name_is_status_2(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["reproduce", "--help"])
    assert stopped.value.code == 0
    assert "landscape-2d" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stopped:
        main(["reproduce", "nothing"])
    assert stopped.value.code == 2
    with pytest.raises(DomainError, match="experiment = 'nothing' is not known"):
        experiment_of("nothing")


# WORDS


def test_the_verdict_counts_what_the_source_claims():
    yes, no = Claim("a", True, ""), Claim("b", False, "")
    finding = Claim("c", False, "", published=False)
    assert Summary([], [yes, yes, finding]).verdict == "reproduced"
    assert Summary([], [yes, no]).verdict == "partly reproduced"
    assert Summary([], [no, no]).verdict == "not reproduced"


def test_cells_in_words_and_in_columns():
    cell = {"mean": 0.123456, "low": 0.1, "high": 0.146912, "n": 3}
    assert [shown(c) for c in (None, "x", 2.0, cell, {**cell, "low": None})] == [
        "",
        "x",
        "2",
        "0.1235 ± 0.023",
        "0.1235",
    ]
    text = csv_text([spread({"arm": "a", "m": cell}), {"arm": "b", "k": 1.5}])
    assert text == "arm,m,m/low,m/high,m/n,k\na,0.123456,0.1,0.146912,3,\nb,,,,,1.5\n"
    assert np.float64(text.splitlines()[1].split(",")[1]) == 0.123456
