"""Logs as trackers write them, all of one run: each gives the same log, and the same verdict."""

from __future__ import annotations

import gzip
import json
import struct
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from mtlref.audit import audit_many, inspect_log, judge, logs_in, read_log, read_map, read_run
from mtlref.audit.tables import Layout
from mtlref.cli import main
from mtlref.notation import LogError, MissingExtraError
from tests.audit.test_steps import GRADNORM, N, run, save

COLUMNS = run()
NAMES = tuple(COLUMNS)
SIDE = json.dumps(GRADNORM)


def wide():
    """The run as a CSV's text."""
    lines = ["step," + ",".join(NAMES)]
    lines += [f"{t}," + ",".join(repr(float(COLUMNS[name][t])) for name in NAMES) for t in range(N)]
    return "\n".join(lines) + "\n"


def long(header="name,step,value", by_series=False, end="\n", word="{name},{step},{value}"):
    """The run as a long table's text: step by step, or series by series."""
    order = [(name, t) for name in NAMES for t in range(N)]
    order = order if by_series else sorted(order, key=lambda pair: pair[1])
    rows = [word.format(name=name, step=t, value=repr(float(COLUMNS[name][t]))) for name, t in order]
    return end.join(([header] if header else []) + rows) + end


JSON_WORD = '{{"metric": "{name}", "_step": {step}, "value": {value}}}'
FILES = {
    "wide.csv": wide().encode(),
    "wide.csv.gz": gzip.compress(wide().encode()),
    "two members.csv.gz": gzip.compress(wide()[:999].encode()) + gzip.compress(wide()[999:].encode()) + b"\0" * 9,
    "long.csv": long().encode(),
    "mlflow.csv": long("key,timestamp,step,value", word="{name},17,{step},{value}").encode(),
    "by series.csv": long(by_series=True).encode(),
    "line ends.csv": long(end="\r\n").encode(),
    "long.jsonl": long("", word=JSON_WORD).encode(),
    "long.jsonl.gz": gzip.compress(long("", word=JSON_WORD).encode()),
}


def put(folder, name, content):
    (folder / name).write_bytes(content)
    (folder / name).with_suffix(".json").write_text(SIDE, encoding="utf-8")
    return str(folder / name)


def same(log):
    for kind, values in (("loss", log.losses), ("norm", log.norms), ("weight", log.weights)):
        np.testing.assert_array_equal(values, np.stack([COLUMNS[f"{kind}/{task}"] for task in log.tasks], axis=1))
    np.testing.assert_array_equal(log.rows, np.arange(N))
    assert log.tasks == ("0", "1")


@pytest.mark.parametrize("name", FILES)
def test_every_file_gives_the_same_log(tmp_path, name):
    same(read_log(put(tmp_path, name, FILES[name])))


def test_names_that_trackers_make_are_a_mapping_away(tmp_path):
    """Lightning's counter, Weights & Biases' ranges, a total that is no task."""
    header = (
        "Step,trainer/global_step," + ",".join(f"run - train/{n},run - train/{n}__MIN" for n in NAMES) + ",loss/sum"
    )
    rows = [",".join([str(t), str(9 * t), *(f"{COLUMNS[n][t].item()!r},0" for n in NAMES), "1"]) for t in range(N)]
    path = put(tmp_path, "wandb.csv", "\n".join([header, *rows, ""]).encode())
    (tmp_path / "map.json").write_text(
        json.dumps(
            {
                "losses": "run - train/loss/*",
                "norms": {"0": "run - train/norm/0", "1": "run - train/norm/1"},
                "weights": {"1": "run - train/weight/1", "0": "run - train/weight/0"},
                "step": "trainer/global_step",
                "consecutive": True,
            }
        )
    )
    found = read_run(path, method="gradnorm", settings=GRADNORM["settings"], **read_map(tmp_path / "map.json"))
    np.testing.assert_array_equal(found.log.rows, 9 * np.arange(N))
    assert judge(found.method, found.log).passed


BAD_MAPS = {
    "[]": "is not a JSON object",
    '{"loss": "a*"}': "unknown key 'loss'",
    '{"losses": 3}': "must be a pattern or an object",
    '{"step": ["a"]}': "must be a column's name",
    '{"consecutive": 1}': "must be true or false",
    '{"losses": {"a": 1}}': "must map tasks to columns",
    '{"losses": {"a": "loss/0", "b": "loss/0"}}': "none of them twice",
    '{"losses": {}}': "must name columns",
    '{"losses": {"a": "loss/0", "b": "loss/7"}}': "lacks 'b'",
    '{"gram": {"a": "x"}}': "must map tasks to tasks",
    '{"step": "steps"}': "has no column 'steps'",
    '{"name": "step"}': "only one of them is given",
    '{"name": "who", "value": "step"}': "has no column 'who'",
    '{"losses": "a*", "losses": "b*"}': "occurs twice",
}


@pytest.mark.parametrize("text", BAD_MAPS)
def test_a_mapping_that_means_nothing_is_one_clear_line(tmp_path, text):
    (tmp_path / "map.json").write_text(text, encoding="utf-8")
    with pytest.raises(LogError) as caught:
        read_run(put(tmp_path, "wide.csv", FILES["wide.csv"]), **read_map(tmp_path / "map.json"))
    assert BAD_MAPS[text] in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_gram_matrix_and_draws_by_a_mapping(tmp_path):
    put(tmp_path, "run.csv", b"la,lb,aa,ab,bb,wa,wb,oa,ob\n1,2,3,.5,4,1,1,1,0\n2,3,4,.25,5,1,1,1,0\n")
    log = read_log(
        tmp_path / "run.csv",
        losses={"a": "la", "b": "lb"},
        gram={"a": {"a": "aa", "b": "ab"}, "b": {"b": "bb"}},
        weights={"a": "wa", "b": "wb"},
        draws={"a": {"0": "oa"}, "b": {"0": "ob"}},
    )
    np.testing.assert_array_equal(log.gram, [[[3, 0.5], [0.5, 4]], [[4, 0.25], [0.25, 5]]])
    np.testing.assert_array_equal(log.draws, [[[1], [0]], [[1], [0]]])


def test_a_packed_file_that_breaks_off_is_read_as_far_as_it_goes(tmp_path):
    log = read_log(put(tmp_path, "cut.csv.gz", FILES["wide.csv.gz"][:-400]))
    assert 10 < len(log.rows) < N
    assert any("breaks off" in note for note in log.notes)


BROKEN = {
    "not packed.csv.gz": (b"step,loss/a\n", "is not a gzip file"),
    "half.csv.gz": (FILES["wide.csv.gz"][:900] + b"\xff" * 900, "is damaged"),
    "bomb.csv.gz": (gzip.compress(b"0" * 50_000_000), "line 1 is longer than"),
    "packed.npz.gz": (b"\x1f\x8b", "a log ends in"),
    "no steps.csv": (b"name,value\nloss/a,1\n", "a long table needs a column of steps"),
    "step.csv": (b"name,step,value\nloss/a,,1\n", "the step is nan"),
    "text.csv": (b"name,step,value\nloss/a,0,high\n", "'high' is not a number"),
    "other.csv": (b"name,step,value\nacc,0,1\n", "holds no series that the patterns find; the series are 'acc'"),
    "name.jsonl": (b'{"name": "loss/a", "step": 0, "value": 1}\n{"name": 3, "step": 0, "value": 1}\n', "name is 3"),
    "lacks.jsonl": (b'{"name": "loss/a", "step": 0, "value": 1}\n{"name": "loss/a"}\n', "lacks 'value', 'step'"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_broken_is_one_clear_line(tmp_path, name):
    content, fragment = BROKEN[name]
    with pytest.raises(LogError) as caught:
        read_log(put(tmp_path, name, content))
    assert fragment in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_long_table_that_was_cut_short_lacks_its_last_number(tmp_path):
    log = read_log(put(tmp_path, "long.csv", FILES["long.csv"][:-4]))
    assert np.isnan(log.weights[-1, 1])
    assert "has no line end" in log.notes[0]


def test_a_hundred_thousand_columns_are_read(tmp_path):
    names = [f"layer{i}/grad" for i in range(100_000)]
    rows = [[repr(float(COLUMNS[n][t])) for n in NAMES] + ["0"] * len(names) for t in range(9)]
    lines = [",".join(cells) for cells in [[*NAMES, *names], *rows]]
    log = read_log(put(tmp_path, "wide.csv", "\n".join([*lines, ""]).encode()))
    np.testing.assert_array_equal(log.losses[:, 0], COLUMNS["loss/0"][:9])


# EVENT FILES


def test_without_tensorboard_the_extra_is_named(tmp_path):
    try:
        import tensorboard  # noqa: F401
    except ImportError:
        with pytest.raises(MissingExtraError, match=r"mtlref\[tensorboard\]"):
            read_log(put(tmp_path, "events.out.tfevents.1", b"x" * 40))
    else:
        pytest.skip("tensorboard is here")


def event_file(path, steps, tensors=False):
    """Write the run as TensorBoard's own writer does; float32, as it stores."""
    pytest.importorskip("tensorboard", reason="event files need the extra 'tensorboard'")
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.record_writer import RecordWriter

    with open(path, "wb") as file:
        writer = RecordWriter(file)
        writer.write(Event(wall_time=1.0, file_version="brain.Event:2").SerializeToString())
        for t in steps:
            for name in NAMES:
                value = Summary.Value(tag=name, simple_value=float(COLUMNS[name][t]))
                if tensors:
                    value = Summary.Value(tag=name)
                    value.tensor.dtype = 1
                    value.tensor.tensor_content = struct.pack("<f", float(COLUMNS[name][t]))
                    value.metadata.plugin_data.plugin_name = "scalars"
                image = Summary.Value(tag="image")
                image.metadata.plugin_data.plugin_name = "images"
                event = Event(wall_time=1.0, step=t, summary=Summary(value=[value, image]))
                writer.write(event.SerializeToString())
        writer.flush()


@pytest.mark.parametrize("tensors", [False, True])
def test_event_files_of_a_run_that_went_on_are_one_log(tmp_path, tensors):
    event_file(tmp_path / "events.out.tfevents.1", range(40), tensors)
    event_file(tmp_path / "events.out.tfevents.2", range(30, N), tensors)
    log = read_log(tmp_path)
    np.testing.assert_array_equal(log.rows, np.arange(N))
    np.testing.assert_array_equal(log.losses[:, 0], COLUMNS["loss/0"].astype(np.float32))
    assert logs_in(tmp_path) == [str(tmp_path)]
    found = read_run(str(tmp_path), **GRADNORM)
    verdict = judge(found.method, found.log)
    assert (verdict.passed, verdict.steps) == (True, N - 1)


def test_an_event_file_that_is_damaged_or_cut_short_is_read_or_refused(tmp_path):
    path = tmp_path / "events.out.tfevents.1"
    event_file(path, range(40))
    content = path.read_bytes()
    for at in range(0, len(content), 997):
        path.write_bytes(content[:at] + b"\xff\xff\xff" + content[at + 3 :])
        read_or_refused(path)
        path.write_bytes(content[: at + 1])
        read_or_refused(path)


def read_or_refused(path):
    try:
        read_log(path)
    except LogError as error:
        assert "\n" not in str(error)


# MANY LOGS


def folder_of_runs(folder):
    """Three runs: one that follows, one that departs, one that holds no weights; and somebody's notes."""
    wrong = {**run(), "weight/0": run()["weight/0"] + 1e-3}
    for name, columns in (
        ("good", run()),
        ("sub/wrong", wrong),
        ("bare", {"loss/0": np.ones(3), "loss/1": np.ones(3)}),
    ):
        (folder / name).mkdir(parents=True)
        save(folder / name, columns)
    (folder / "notes.txt").write_text("x", encoding="utf-8")
    return folder


def test_a_directory_of_runs_side_by_side(tmp_path):
    logs = logs_in(folder_of_runs(tmp_path))
    assert logs == [str(tmp_path / name / "run.csv") for name in ("bare", "good", "sub/wrong")]
    alone = list(audit_many(logs))
    with ThreadPoolExecutor(2) as executor:
        together = list(audit_many(logs, executor=executor))
    assert alone == together
    assert [outcome.status for outcome in alone] == [2, 0, 1]
    assert "the log holds no weights" in alone[0].text


def test_the_command_audits_many_logs_in_processes(tmp_path, capsys):
    assert main(["audit", str(folder_of_runs(tmp_path)), "--jobs", "2", "--defaults"]) == 2
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[-4:-1]] == ["not", "follows", "departs"]
    assert lines[-1] == "1 follows, 1 departs, 1 not judged"


def test_the_command_gives_many_verdicts_as_json(tmp_path, capsys):
    folder = folder_of_runs(tmp_path)
    assert main(["audit", str(folder / "good/run.csv"), str(folder / "bare"), "--json", "--defaults"]) == 2
    good, bare = json.loads(capsys.readouterr().out)
    assert good["passed"]
    assert "holds no weights" in bare["error"]


def test_a_directory_without_logs_is_said(tmp_path, capsys):
    assert main(["audit", str(tmp_path)]) == 2
    assert "is a directory without logs" in capsys.readouterr().err


# WHAT A LOG HOLDS

PROPOSALS = {
    "usual": (NAMES, {"losses": "loss/*", "norms": "norm/*", "weights": "weight/*"}),
    "suffixes": (
        ("seg_loss", "dep_loss", "seg_grad_norm", "dep_grad_norm", "seg_weight", "dep_weight"),
        {"losses": "*_loss", "norms": "*_grad_norm", "weights": "*_weight"},
    ),
    "numbers": (("train/loss0", "train/loss1", "w0", "w1"), {"losses": "train/loss*", "weights": "w*"}),
    "a total": (
        ("loss/a", "loss/b", "loss/total", "weight/a", "weight/b", "lr", "acc/a", "acc/b"),
        {"losses": {"a": "loss/a", "b": "loss/b"}, "weights": "weight/*"},
    ),
    "gram": (
        ("loss/a", "loss/b", "weight/a", "weight/b", "dot_a_a", "dot_a_b", "dot_b_b"),
        {"losses": "loss/*", "weights": "weight/*", "gram": "dot_*_*"},
    ),
}


@pytest.mark.parametrize("name", PROPOSALS)
def test_the_mapping_that_is_proposed_is_read(tmp_path, name):
    names, expected = PROPOSALS[name]
    path = put(tmp_path, "run.csv", (",".join(names) + "\n" + ",".join("1" * len(names)) + "\n").encode())
    found = inspect_log(path)
    assert found.mapping == expected
    assert found.open == ()
    assert read_log(path, **found.mapping).weights.shape == (1, 2)


def test_what_the_names_leave_open_is_said(tmp_path):
    path = put(tmp_path, "run.csv", b"train/loss/a,train/loss/b,val/loss/a,val/loss/b,note\n1,2,3,4,x\n")
    found = inspect_log(path)
    assert "losses" not in found.mapping
    assert found.unread == ("note",)
    assert found.open[0].startswith("losses: more than one family of columns fits")
    assert any(question.startswith("weights: no columns") for question in found.open)


@pytest.mark.parametrize("name", ["long.csv", "long.jsonl.gz", "wide.csv"])
def test_the_command_shows_what_a_log_holds(tmp_path, capsys, name):
    path = put(tmp_path, name, FILES[name])
    assert main(["audit", "--inspect", path]) == 0
    out = capsys.readouterr().out
    assert f"{N} rows, 7 columns" in out
    assert json.loads(out[out.index("{") :]) == PROPOSALS["usual"][1]
    assert main(["audit", "--inspect", path, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["mapping"] == PROPOSALS["usual"][1]


def test_a_layout_may_be_given_where_names_are_unusual(tmp_path):
    path = put(tmp_path, "odd.csv", long("who,t,how much").encode())
    same(read_log(path, layout=Layout(step="t", name="who", value="how much")))


def test_a_series_that_differs_at_a_step_is_another_row_of_it(tmp_path):
    more = "".join(f"{name},{N - 1},{float(COLUMNS[name][-1]) + 1!r}\n" for name in NAMES)
    text = long() + more
    log = read_log(put(tmp_path, "long.csv", text.encode()))
    assert len(log.rows) == N + 1
    np.testing.assert_array_equal(log.rows[-2:], [N - 1, N - 1])
