"""Round trips: what is written reads back bit for bit; and the side file with the settings."""

from __future__ import annotations

import io
import json
import math
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtlref.audit import spool
from mtlref.audit.readers import read_log
from mtlref.audit.side import read_settings
from mtlref.audit.writers import write_log
from mtlref.notation import DomainError, LogError, ShapeError


def npz(compressed=False, **arrays):
    """Return the bytes of an NPZ that NumPy writes."""
    file = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(file, **arrays)
    return file.getvalue()


def save(folder, name, content):
    """Write a file and return its path."""
    path = folder / name
    path.write_bytes(content)
    return path


# ROUND TRIPS

finite = st.floats(allow_nan=False, allow_infinity=False)
singles = st.floats(allow_nan=False, allow_infinity=False, width=32)
task_names = st.text(st.characters(categories=("L", "N", "P", "S", "Zs")), min_size=1, max_size=8).filter(
    str.isprintable
)


def same_bits(one, other):
    """Say whether two float64 arrays agree bit for bit, the sign of zero included."""
    one, other = np.asarray(one, dtype=np.float64), np.asarray(other, dtype=np.float64)
    return one.shape == other.shape and one.tobytes() == other.tobytes()


@given(st.data(), st.lists(task_names, min_size=1, max_size=3, unique=True), st.integers(1, 4))
def test_a_written_log_reads_back_bit_for_bit(data, tasks, rows):
    column = st.lists(finite, min_size=rows, max_size=rows)
    columns = {f"{kind}/{task}": data.draw(column) for kind in ("loss", "norm", "weight") for task in tasks}
    first, move = data.draw(st.integers(-(2**53), 2**53 - 9)), data.draw(st.integers(1, 3))
    steps = [first + move * row for row in range(rows)]
    with tempfile.TemporaryDirectory() as folder:
        write_log(Path(folder) / "run.csv", {"step": steps} | columns)
        log = read_log(Path(folder) / "run.csv")
        (Path(folder) / "run.jsonl").write_text(
            "".join(json.dumps({name: values[row] for name, values in columns.items()}) + "\n" for row in range(rows))
        )
        again = read_log(Path(folder) / "run.jsonl")
    assert log.tasks == again.tasks == tuple(tasks)
    assert log.rows.tolist() == steps
    for kind, values, others in (
        ("loss", log.losses, again.losses),
        ("norm", log.norms, again.norms),
        ("weight", log.weights, again.weights),
    ):
        expected = np.array([columns[f"{kind}/{task}"] for task in tasks]).T
        assert same_bits(values, expected)
        assert same_bits(others, expected)


@given(st.lists(singles, min_size=1, max_size=5))
def test_float32_values_read_back_as_float32_values(values):
    with tempfile.TemporaryDirectory() as folder:
        write_log(Path(folder) / "run.csv", {"loss/a": np.array(values, dtype=np.float32)})
        log = read_log(Path(folder) / "run.csv")
    assert same_bits(log.losses[:, 0], values)
    assert log.unit == 2.0**-24
    assert log.rows.tolist() == list(range(len(values)))


@given(st.lists(finite, min_size=4, max_size=4))
def test_an_npz_reads_back_bit_for_bit(values):
    with tempfile.TemporaryDirectory() as folder:
        path = save(Path(folder), "run.npz", npz(losses=np.array(values).reshape(2, 2)))
        assert same_bits(read_log(path).losses, np.array(values).reshape(2, 2))


def test_more_rows_than_a_block_keep_their_lines(tmp_path):
    count = 2 * spool.BLOCK + 3
    write_log(tmp_path / "run.csv", {"loss/a": np.arange(count) / 7})
    log = read_log(tmp_path / "run.csv")
    assert log.lines.tolist() == list(range(2, count + 2))
    assert same_bits(log.losses[:, 0], np.arange(count) / 7)
    text = (tmp_path / "run.csv").read_text().splitlines()
    text[count - 1] = "8,x"
    (tmp_path / "run.csv").write_text("\n".join(text))
    with pytest.raises(LogError, match=f"line {count}, column 'loss/a': 'x'"):
        read_log(tmp_path / "run.csv")


# SETTINGS AND WRITING


def test_settings_are_written_beside_the_log_and_read_back(tmp_path):
    settings = {"method": "gradnorm", "settings": {"alpha": 0.1, "lr": 5e-324}, "run": {"seed": 3, "by": "é"}}
    write_log(tmp_path / "a.run.csv", {"loss/a": [1.0]}, settings)
    assert (tmp_path / "a.run.json").is_file()
    assert read_settings(tmp_path / "a.run.csv") == settings
    write_log(tmp_path / "bare.csv", {"loss/a": [1.0]})
    assert read_settings(tmp_path / "bare.csv") == {}


@pytest.mark.parametrize(
    ("content", "fragment"),
    [
        (b"", "is empty"),
        (b"[]", "is not a JSON object"),
        (b"{", "is not valid JSON"),
        (b"\xff", "is not UTF-8 at byte 1"),
        (b"[" * 200_000, "nested too deeply"),
        (b'{"method": "a", "method": "b"}', "'method' occurs twice"),
        (b'{"method": 1}', "key 'method' must be text"),
        (b'{"settings": []}', "key 'settings' must be an object"),
        (b'{"method": "dwa", "setting": {}}', "unknown key 'setting'"),
        (b'{"settings": {"alpha": NaN}}', "holds nan"),
        (b'{"run": {"x": [1e999]}}', "holds inf"),
    ],
)
def test_a_malformed_side_file_is_refused(tmp_path, content, fragment):
    path = save(tmp_path, "run.json", content)
    with pytest.raises(LogError) as caught:
        read_settings(tmp_path / "run.csv")
    assert str(caught.value).startswith(f"{path}: ")
    assert fragment in str(caught.value)


def test_a_side_file_that_is_a_directory_is_refused(tmp_path):
    (tmp_path / "run.json").mkdir()
    with pytest.raises(LogError, match="is a directory"):
        read_settings(tmp_path / "run.csv")


@pytest.mark.parametrize(
    ("columns", "settings", "error", "message"),
    [
        ({"loss/a": [math.nan]}, None, DomainError, r"loss/a\[0\] = nan"),
        ({"loss/a": ["x"]}, None, ShapeError, "loss/a must hold real numbers"),
        ({"loss/a": [1], "loss/b": [1, 2]}, None, LogError, "'loss/b' has 2 rows, another 1"),
        ({}, None, LogError, "at least one column"),
        ({"loss/a": []}, None, LogError, "at least one row"),
        ({"loss\n": [1]}, None, LogError, "cannot be written"),
        ({"": [1]}, None, LogError, "cannot be written"),
        ({"step": [0.5], "loss/a": [1]}, None, LogError, "whole numbers"),
        ({"loss/a": [1]}, {"settings": {"alpha": math.inf}}, LogError, "holds inf"),
        ({"loss/a": [1]}, {"settings": {"alpha": object()}}, LogError, "not plain JSON"),
        ({"loss/a": [1]}, {"alpha": 1}, LogError, "unknown key 'alpha'"),
    ],
)
def test_what_could_not_be_read_back_is_not_written(tmp_path, columns, settings, error, message):
    with pytest.raises(error, match=message):
        write_log(tmp_path / "run.csv", columns, settings)
    assert list(tmp_path.iterdir()) == []


def test_a_log_is_written_as_csv_into_a_folder_that_exists(tmp_path):
    with pytest.raises(LogError, match=r"is written as \.csv"):
        write_log(tmp_path / "run.jsonl", {"loss/a": [1]})
    with pytest.raises(LogError, match="cannot be written"):
        write_log(tmp_path / "none" / "run.csv", {"loss/a": [1]})
