"""What trackers let download, series by series or chart by chart, and tables with other separators."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtlref.audit import inspect_log, judge, logs_in, read_log, read_run, write_log
from mtlref.notation import LogError
from tests.audit import loops

# TENSORBOARD'S DOWNLOADS


def download(folder, name, values, steps=None):
    """One series as TensorBoard's button writes it."""
    steps = range(len(values)) if steps is None else steps
    lines = [
        f"{1.7e9 + 0.25 * i},{step},{value!r}" for i, (step, value) in enumerate(zip(steps, values, strict=True))
    ]
    (folder / f"{name}.csv").write_text("\n".join(["Wall time,Step,Value", *lines, ""]), encoding="utf-8")


def test_downloads_in_one_folder_are_one_log(tmp_path):
    losses = np.random.default_rng(7).uniform(0.5, 2.0, (30, 2))
    weights = loops.dwa(losses, 2.0)
    runs = tmp_path / "runs"
    runs.mkdir()
    for i, task in enumerate("ab"):
        download(runs, f"run-fit_1-tag-train_loss_{task}", losses[:, i].tolist())
        download(runs, f"run-fit_1-tag-weight_{task}", weights[:, i].tolist())
    download(runs, "run-fit_1-tag-lr", [0.1] * 30)
    write_log(tmp_path / "runs" / "other.csv", loops.columns(losses, weights))
    assert logs_in(tmp_path) == [str(runs), str(runs / "other.csv")]
    proposed = inspect_log(runs).mapping
    assert (proposed["losses"], proposed["weights"]) == ("train_loss_*", "weight_*")
    run = read_run(str(runs), method="dwa", losses="train_loss_*", weights="weight_*")
    np.testing.assert_array_equal(run.log.losses, losses)
    assert judge(run.method, run.log).passed


def test_downloads_of_several_runs_keep_their_names_and_their_own_steps(tmp_path):
    for name in ("x", "y"):
        for task in "ab":
            download(tmp_path, f"run-{name}-tag-loss_{task}", [1.0, 2.0, 3.0], [0, 10, 20])
            download(tmp_path, f"run-{name}-tag-w_{task}", [1.0, 1.0], [0, 20])
    log = read_run(str(tmp_path), method="equal", losses="run-y-tag-loss_*", weights="run-y-tag-w_*").log
    assert log.rows.tolist() == [0, 10, 20]
    np.testing.assert_array_equal(log.weights[:, 0], [1.0, np.nan, 1.0])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1.0,1,x", "line 3, column 'Value': 'x' is not a number"),
        ("1.0,nan,1", "the step is nan"),
        ("1,2", "2 cells"),
    ],
)
def test_a_broken_download_is_named(tmp_path, line, message):
    for name in ("loss_a", "weight_a"):
        download(tmp_path, f"run-.-tag-{name}", [1.0])
    with open(tmp_path / "run-.-tag-loss_a.csv", "a", encoding="utf-8") as file:
        file.write(f"{line}\n")
    with pytest.raises(LogError, match=f"loss_a.csv.*{message}"):
        read_run(str(tmp_path), method="equal", losses="loss_*", weights="weight_*")


# OTHER SEPARATORS, AND WHAT THE NAMES PROPOSE


@pytest.mark.parametrize("mark", [",", ";", "\t", "|"])
def test_a_csv_is_separated_as_its_header_is(tmp_path, mark):
    """Quoted cells may hold any of the marks, and a last row without an end is left out as ever."""
    rows = [["step", 'loss/"a;,\t|"', "loss/b"], ["0", "1.5", "2"], ["1", '"0.5"', "3"], ["2", "9", "9"]]
    quoted = [[f'"{cell.replace(chr(34), chr(34) * 2)}"' if "loss" in cell else cell for cell in row] for row in rows]
    path = tmp_path / "run.csv"
    path.write_text("\n".join(mark.join(row) for row in quoted), encoding="utf-8", newline="")
    log = read_log(path)
    assert log.tasks == ('"a;,\t|"', "b")
    assert log.losses.tolist() == [[1.5, 2.0], [0.5, 3.0]]
    path.write_text("\n".join(mark.join(row) for row in quoted[:2]), encoding="utf-8")
    assert read_log(path).losses.tolist() == [[1.5, 2.0]]


def test_a_refusal_says_which_patterns_the_names_propose(tmp_path):
    values = {f"train/{kind} {task}": [1.0] * 12 for kind in ("loss", "lambda") for task in "ab"}
    path = tmp_path / "run.csv"
    write_log(path, {"step": range(12), **values})
    with pytest.raises(
        LogError, match=r"the pattern for losses; the columns are .* \(by their names: (.*)\)$"
    ) as caught:
        read_log(path)
    assert str(caught.value).endswith("--losses 'train/loss *' --weights 'train/lambda *')")
    run = read_run(str(path), method="equal", losses="train/loss *", weights="train/lambda *")
    assert judge(run.method, run.log).passed
    write_log(tmp_path / "other.csv", {"step": range(12), "x": [1.0] * 12, "y": [2.0] * 12})
    with pytest.raises(LogError, match=r"`mtlref audit --inspect LOG` lists them all"):
        read_log(tmp_path / "other.csv")


# WEIGHTS & BIASES' CHARTS


def chart(folder, name, columns, step="Step"):
    """The lines of a chart as the page's button writes them: every cell quoted, the smallest and largest beside."""
    rows = [[step, *(f"{column}{end}" for column in columns for end in ("", "__MIN", "__MAX"))]]
    for t, values in enumerate(zip(*columns.values(), strict=True)):
        cells = ("" if value is None else repr(value) for value in values for _ in range(3))
        rows.append([str(10 * t), *cells])
    text = "\n".join(",".join(f'"{cell}"' for cell in row) for row in rows) + "\n"
    (folder / f"wandb_export_{name}.csv").write_text(text, encoding="utf-8")


def test_charts_in_one_folder_are_one_log(tmp_path):
    losses = np.random.default_rng(9).uniform(0.5, 2.0, (30, 2))
    weights = loops.dwa(losses, 2.0)
    runs = tmp_path / "runs"
    runs.mkdir()
    chart(
        runs, "losses", {f"glad - wave-5 - train/loss_{task}": losses[:, i].tolist() for i, task in enumerate("ab")}
    )
    for i, task in enumerate("ab"):
        chart(runs, task, {f"glad - wave-5 - train/w_{task}": weights[:, i].tolist()})
    chart(runs, "lr", {"glad - wave-5 - lr": [0.1] * 30})
    assert logs_in(tmp_path) == [str(runs)]
    assert inspect_log(runs).mapping == {"losses": "train/loss_*", "weights": "train/w_*"}
    run = read_run(str(runs), method="dwa", losses="train/loss_*", weights="train/w_*")
    np.testing.assert_array_equal(run.log.losses, losses)
    assert run.log.rows.tolist() == list(range(0, 300, 10))
    assert judge(run.method, run.log).passed


def test_charts_of_several_runs_keep_their_names_and_their_empty_cells(tmp_path):
    for kind, values in (("loss", [1.0, 2.0, None]), ("w", [1.0, None, 1.0])):
        chart(tmp_path, kind, {f"{run} - {kind}_{task}": values for run in "xy" for task in "ab"})
    log = read_run(str(tmp_path), method="equal", losses="y - loss_*", weights="y - w_*").log
    assert log.rows.tolist() == [0, 10, 20]
    np.testing.assert_array_equal(log.weights[:, 0], [1.0, np.nan, 1.0])
    np.testing.assert_array_equal(log.losses[:, 1], [1.0, 2.0, np.nan])


def test_charts_of_other_runs_each_are_logs_of_their_own(tmp_path):
    for run in "xy":
        chart(tmp_path, run, {f"{run} - loss/{task}": [1.0, 2.0] for task in "ab"})
    assert [Path(log).name for log in logs_in(tmp_path)] == ["wandb_export_x.csv", "wandb_export_y.csv"]
    assert read_log(tmp_path / "wandb_export_x.csv", losses="x - loss/*").tasks == ("a", "b")


def test_a_line_that_two_charts_show_is_read_once(tmp_path):
    both = {f"run - loss_{task}": [1.0, 2.0, 3.0] for task in "ab"}
    chart(tmp_path, "losses", both)
    chart(tmp_path, "losses (1)", both)
    chart(tmp_path, "weights", {f"run - w_{task}": [1.0, 1.0, 1.0] for task in "ab"} | both)
    log = read_log(tmp_path, losses="loss_*", weights="w_*")
    assert (log.rows.tolist(), log.starts) == ([0, 10, 20], (0,))


def test_charts_by_different_steps_are_refused(tmp_path):
    chart(tmp_path, "losses", {f"run - loss_{task}": [1.0, 2.0] for task in "ab"})
    chart(tmp_path, "weights", {f"run - w_{task}": [1.0, 1.0] for task in "ab"}, "epoch")
    with pytest.raises(LogError, match="some charts go by 'Step' and some by 'epoch'"):
        read_log(tmp_path, losses="loss_*")


def test_a_chart_that_is_cut_short_or_broken_says_where(tmp_path):
    chart(tmp_path, "losses", {f"run - loss_{task}": [1.0, 2.0] for task in "ab"})
    chart(tmp_path, "weights", {f"run - w_{task}": [1.0, 1.0] for task in "ab"})
    broken = tmp_path / "wandb_export_weights.csv"
    whole = broken.read_text(encoding="utf-8")
    broken.write_text(whole[:-4], encoding="utf-8")
    log = read_log(tmp_path, losses="loss_*", weights="w_*")
    assert any("wandb_export_weights.csv: line 3" in note for note in log.notes)
    broken.write_text(whole.replace('"10","1.0"', '"10","one"'), encoding="utf-8")
    with pytest.raises(
        LogError, match=r"wandb_export_weights.csv: line 3, column 'run - w_a': 'one' is not a number"
    ):
        read_log(tmp_path, losses="loss_*", weights="w_*")


def test_a_line_of_a_chart_may_begin_after_another(tmp_path):
    chart(tmp_path, "losses", {"run - loss_a": [None, 2.0, 3.0], "run - loss_b": [1.0, 1.5, 2.5]})
    chart(tmp_path, "weights", {f"run - w_{task}": [1.0, 1.0, 1.0] for task in "ab"})
    log = read_log(tmp_path, losses="loss_*", weights="w_*")
    np.testing.assert_array_equal(log.losses, [[np.nan, 1.0], [2.0, 1.5], [3.0, 2.5]])


@given(st.lists(st.tuples(st.integers(0, 200), st.binary(max_size=4), st.integers(0, 5)), max_size=4), st.booleans())
def test_charts_with_bytes_put_in_and_taken_out_are_read_or_refused(changes, of_losses):
    """Only a LogError of one line may come out."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        chart(folder, "losses", {"run - loss_a": [1.0, None, 3.0], "run - loss_b": [1.0, 1.5, 2.5]})
        chart(folder, "weights", {f"run - w_{task}": [1.0, 1.0, 1.0] for task in "ab"})
        path = folder / f"wandb_export_{'losses' if of_losses else 'weights'}.csv"
        content = bytearray(path.read_bytes())
        for at, put_in, taken_out in changes:
            content[at : at + taken_out] = put_in
        path.write_bytes(content)
        for read in (inspect_log, partial(read_log, losses="loss_*", weights="w_*")):
            try:
                read(folder)
            except LogError as error:
                assert str(error).isprintable()
