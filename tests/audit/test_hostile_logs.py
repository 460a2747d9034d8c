"""Broken, truncated and hostile logs: each is one clear line, and nothing in a file is executed."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import tempfile
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mtlref.audit import archives, inspect_log, judge, objects, read_map, read_run
from mtlref.audit.inspection import plain, text
from mtlref.audit.readers import read_log
from mtlref.notation import LogError, MtlrefError

CSV = b"step,loss/a,loss/b,note\n0,1.5,2.5,x\n1,1.25,.5e0,\n"


def npz(compressed=False, **arrays):
    """Return the bytes of an NPZ that NumPy writes."""
    file = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(file, **arrays)
    return file.getvalue()


def archive(method=zipfile.ZIP_DEFLATED, **members):
    """Return the bytes of a zip archive with these members, `.npy` added to their names."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as zipped:
        for name, content in members.items():
            zipped.writestr(f"{name}.npy", content)
    return file.getvalue()


def npy(header, content=b"", version=b"\x01\x00"):
    """Return the bytes of an NPY member with the header as given."""
    text = header.encode() + b"\n"
    return b"\x93NUMPY" + version + len(text).to_bytes(2, "little") + text + content


def head(shape, descr="'<f8'"):
    """Return an NPY header's text."""
    return f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}"


def flipped(content, at):
    """Return `content` with the bits of one byte turned."""
    return content[:at] + bytes([content[at] ^ 0xFF]) + content[at + 1 :]


def save(folder, name, content):
    """Write a file and return its path."""
    path = folder / name
    path.write_bytes(content)
    return path


# WHAT IS REFUSED

NUL = CSV.replace(b"1.25", b"1.\x0025")
LONG = b"loss/a,loss/b\n1,2\n" + b"9" * 10_000_000 + b",1\n"
ONE = b'{"loss/a": 1}\n'
GOOD = npz(losses=[[1.0, 2.0], [3.0, 4.0]])
PICKLED = npz(losses=np.array([[1, None]], dtype=object))

BAD = {
    "empty csv": ("a.csv", b"", ["is empty"]),
    "empty json lines": ("a.jsonl", b"", ["is empty"]),
    "empty npz": ("a.npz", b"", ["is empty"]),
    "unknown ending": ("a.txt", CSV, ["ends in '.txt'", ".csv, .jsonl, .ndjson, .npz"]),
    "no ending": ("a", CSV, ["ends in ''"]),
    "blank header": ("a.csv", b"\n1,2\n", ["line 1 is blank"]),
    "only a byte order mark": ("a.csv", b"\xef\xbb\xbf", ["line 1 is blank"]),
    "header only": ("a.csv", b"loss/a,loss/b\n", ["a header and no rows"]),
    "too few cells": ("a.csv", b"loss/a,loss/b\n1\n1,2\n", ["line 2 has 1 cells, the header has 2"]),
    "too many cells": ("a.csv", b"loss/a,loss/b\n1,2\n1,2,3\n", ["line 3 has 3 cells, the header has 2"]),
    "text": ("a.csv", b"loss/a,loss/b\n1,2\nabc,3\n", ["line 3, column 'loss/a'", "'abc' is not a number"]),
    "signs": ("a.csv", b"loss/a\n--nan\n", ["line 2, column 'loss/a'", "'--nan' is not a number"]),
    "a sign alone": ("a.csv", b"loss/a\n-\n", ["line 2, column 'loss/a'", "'-' is not a number"]),
    "a cut header": ("a.csv", b"loss/a,lo", ["a header and no rows"]),
    "a cut only row": ("a.csv", b"loss/a,loss/b\n1", ["line 2 has 1 cells, the header has 2"]),
    "a cut only object": ("a.jsonl", b'{"loss/a": 1', ["line 1 is not valid JSON"]),
    "two points": ("a.csv", b"loss/a\n1.2.3\n", ["line 2, column 'loss/a'", "'1.2.3' is not a number"]),
    "underscore": ("a.csv", b"loss/a\n1_000\n", ["'1_000' is not a number"]),
    "hexadecimal": ("a.csv", b"loss/a\n0x10\n", ["'0x10' is not a number"]),
    "other digits": ("a.csv", "loss/a\n١\n".encode(), ["'\\u0661' is not a number"]),
    "comma in a cell": ("a.csv", b'loss/a,loss/b\n"1,5",2\n', ["'1,5' is not a number"]),
    "too large": ("a.csv", b"loss/a\n1e999\n", ["line 2", "'1e999' is too large"]),
    "duplicate columns": ("a.csv", b"loss/a,loss/a\n1,2\n", ["line 1", "'loss/a' twice"]),
    "not utf-8": ("a.csv", CSV.replace(b"x", b"\xff"), ["line 2 is not UTF-8", "0xff at byte 11"]),
    "utf-16": ("a.csv", CSV.decode().encode("utf-16"), ["line 1"]),
    "nul byte": ("a.csv", NUL, ["line 3 holds a NUL byte"]),
    "long line": ("a.csv", LONG, ["line 3 is longer than 4194304 bytes"]),
    "long field": ("a.csv", b"loss/a\n" + b"9" * 200_000 + b"\n", ["line 2 is not valid CSV", "131072"]),
    "open quote": ("a.csv", b'loss/a,loss/b\n1,"2\n3,4\n', ["is not valid CSV: unexpected end of data"]),
    "text after a quote": ("a.csv", b'loss/a,loss/b\n1,"2"3\n', ["line 2 is not valid CSV"]),
    "no such losses": ("a.csv", b"x,y\n1,2\n", ["no column matches 'loss/*'", "'x', 'y'"]),
    "fractional step": (
        "a.csv",
        b"step,loss/a\n0,1\n0.5,1\n",
        ["line 3, column 'step'", "0.5 is not a whole"],
    ),
    "huge step": ("a.csv", b"step,loss/a\n1e300,1\n", ["line 2, column 'step'", "1e+300"]),
    "missing norm": ("a.csv", b"loss/a,loss/b,norm/a\n1,2,3\n", ["norms", "lacks 'b'"]),
    "extra norm": ("a.csv", b"loss/a,norm/a,norm/c\n1,2,3\n", ["norms", "has 'norm/c' of no task"]),
    "missing weight": ("a.csv", b"loss/a,weight/c\n1,2\n", ["weights", "lacks 'a' and has 'weight/c'"]),
    "missing gram": ("a.csv", b"loss/a,loss/b,gram/a/a\n1,2,3\n", ["gram", "lacks 'a, b', 'b, b'"]),
    "extra gram": ("a.csv", b"loss/a,gram/a/a,gram/a/c\n1,2,3\n", ["gram", "'gram/a/c' of no task"]),
    "asymmetric gram": (
        "a.csv",
        b"loss/a,loss/b,gram/a/a,gram/a/b,gram/b/a,gram/b/b\n1,1,1,2,2,3\n1,1,1,2,2.5,3\n",
        ["line 3", "'gram/a/b' and 'gram/b/a'", "symmetric", "2.0 and 2.5"],
    ),
    "ambiguous gram": ("a.csv", b"loss/x,loss/x/x,gram/x/x\n1,2,3\n", ["two pairs of tasks the same name"]),
    "only blank lines": ("a.jsonl", b"\n \n", ["has no rows"]),
    "not json": ("a.jsonl", ONE + b'{"loss/a": \n', ["line 2 is not valid JSON", "at character"]),
    "two objects": ("a.jsonl", b'{"loss/a": 1} {"loss/a": 1}\n', ["line 1 is not valid JSON", "Extra data"]),
    "not an object": ("a.jsonl", ONE + b"[1]\n", ["line 2 is not a JSON object"]),
    "boolean": ("a.jsonl", b'{"loss/a": true}\n', ["line 1, column 'loss/a'", "True is not a number"]),
    "json text": ("a.jsonl", b'{"loss/a": "1"}\n', ["line 1, column 'loss/a'", "'1' is not a number"]),
    "large integer": (
        "a.jsonl",
        b'{"loss/a": 1%s}\n' % (b"0" * 400),
        ["line 1", "is too large for a float64"],
    ),
    "huge integer": ("a.jsonl", b'{"loss/a": 1%s}\n' % (b"0" * 5000), ["line 1"]),
    "json twice": ("a.jsonl", b'{"loss/a": 1, "loss/a": 2}\n', ["line 1", "'loss/a' occurs twice"]),
    "flattened twice": ("a.jsonl", b'{"loss": {"a": 1}, "loss/a": 2}\n', ["line 1", "'loss/a' twice"]),
    "nested": ("a.jsonl", b'{"loss": ' + b"[" * 50 + b"]" * 50 + b"}\n", ["line 1 is nested more than 16"]),
    "very nested": ("a.jsonl", b'{"loss": ' + b"[" * 200_000 + b"\n", ["line 1 is nested too deeply"]),
    "json not utf-8": ("a.jsonl", ONE + b'{"loss/a\xe9": 1}\n', ["line 2 is not UTF-8", "0xe9"]),
    "json nul byte": ("a.jsonl", ONE + b"\0\n", ["line 2 holds a NUL byte"]),
    "not a zip": ("a.npz", CSV, ["is not a zip archive"]),
    "a bare array": ("a.npz", npy(head("(1,)"), b"\0" * 8), ["is not a zip archive"]),
    "a pickle": ("a.npz", pickle.dumps({"losses": [[1.0]]}), ["is not a zip archive"]),
    "cut zip": ("a.npz", GOOD[:-30], ["is not a zip archive"]),
    "damaged zip": ("a.npz", flipped(GOOD, 180), ["array 'losses'", "damaged"]),
    "objects": ("a.npz", PICKLED, ["array 'losses' holds pickled objects, which are never loaded"]),
    "complex": ("a.npz", npz(losses=[[1j]]), ["array 'losses' holds complex128"]),
    "strings": ("a.npz", npz(losses=[["1"]]), ["array 'losses' holds <U1"]),
    "booleans": ("a.npz", npz(losses=[[True]]), ["array 'losses' holds bool"]),
    "records": ("a.npz", npz(losses=np.zeros(2, "f8,f8")), ["array 'losses' holds", "not real numbers"]),
    "lengths": (
        "a.npz",
        npz(**{"loss/a": [1, 2], "loss/b": [1]}),
        ["'loss/b' has 1 entries, 'loss/a' has 2"],
    ),
    "no arrays": ("a.npz", npz(x=[1]), ["no column matches 'loss/*'", "'x'"]),
    "no rows": ("a.npz", npz(losses=np.zeros((0, 2))), ["no rows"]),
    "no tasks": ("a.npz", npz(losses=np.zeros((2, 0))), ["the shape (N, K)", "(2, 0)"]),
    "flat stack": ("a.npz", npz(losses=[1, 2]), ["array 'losses' must have the shape (N, K)", "(2,)"]),
    "scalar": ("a.npz", npz(losses=1.0), ["array 'losses' has the shape ()"]),
    "matrix column": ("a.npz", npz(**{"loss/a": [[1, 2]]}), ["array 'loss/a' must have one axis"]),
    "both": ("a.npz", npz(**{"loss/a": [1], "losses": [[1]]}), ["'losses' and the columns 'loss/a'"]),
    "other tasks": ("a.npz", npz(losses=[[1, 2]], norms=[[1]]), ["'norms' has 1 tasks, the losses 2"]),
    "gram shape": ("a.npz", npz(losses=[[1, 2]], gram=[[[1]]]), ["(N, 2, 2)", "(1, 1, 1)"]),
    "gram halves": (
        "a.npz",
        npz(losses=[[1, 2]], gram=[[[1, 2], [3, 4]]]),
        ["entry 1", "2.0 and 3.0 differ"],
    ),
    "steps in 2-D": ("a.npz", npz(losses=[[1]], step=[[1]]), ["array 'step' must have one axis"]),
    "false size": ("a.npz", archive(losses=npy(head("(1000000000000, 8)"))), ["needs 64000000000000 bytes"]),
    "negative size": ("a.npz", archive(losses=npy(head("(-1, 8)"))), ["array 'losses'"]),
    "short member": ("a.npz", archive(losses=npy(head("(1, 2)"), b"\0" * 9)), ["needs 16 bytes", "has 9"]),
    "packed": ("a.npz", archive(zipfile.ZIP_BZIP2, losses=npy(head("(1, 1)"))), ["packed by method 12"]),
    "no member": ("a.npz", archive(losses=b""), ["array 'losses' is damaged"]),
    "bad header": (
        "a.npz",
        archive(losses=npy("{'descr': __import__('os')}")),
        ["array 'losses' is damaged"],
    ),
    "deep header": ("a.npz", archive(losses=npy("(" * 9000)), ["array 'losses' is damaged"]),
    "npy version": ("a.npz", archive(losses=npy("", version=b"\x09\x00")), ["unknown NPY version (9, 0)"]),
}


READ = {
    "cut in a cell": (
        "a.csv",
        b"loss/a,loss/b\n1,2\n3,4\n5,6.2",
        [[1, 2], [3, 4]],
        "line 4, the last, has no line end",
    ),
    "cut in a row": ("a.csv", b"loss/a,loss/b\n1,2\n1", [[1, 2]], "line 3, the last, has no line end"),
    "cut in a quote": ("a.csv", b'loss/a,loss/b\n1,2\n1,"', [[1, 2]], "line 3, the last, has no line end"),
    "cut in a letter": ("a.csv", b"loss/a,note\n1,x\n2,\xc3", [[1]], "line 3, the last, has no line end"),
    "cut json": ("a.jsonl", ONE + b'{"loss/a": 1', [[1]], "line 2, the last, is not a whole object"),
    "whole json": ("a.jsonl", ONE + b'{"loss/a": 2}', [[1], [2]], None),
    "an only row": ("a.csv", b"loss/a,loss/b\n1,2", [[1, 2]], None),
    "not logged": ("a.csv", b"loss/a,loss/b\n1,\n , 3\n", [[1, np.nan], [np.nan, 3]], None),
    "not finite": ("a.csv", b"loss/a\n1\nNaN\n-inf\n+Infinity\n", [[1], [np.nan], [-np.inf], [np.inf]], None),
    "not logged in json": ("a.jsonl", ONE + b'{"loss/a": null}\n', [[1], [np.nan]], None),
    "not finite in json": ("a.jsonl", ONE + b'{"loss/a": NaN}\n{"loss/a": 1e999}\n', [[1], [np.nan], [np.inf]], None),
    "new key": ("a.jsonl", ONE + b'{"loss/a": 1, "loss/b": 2}\n', [[1, np.nan], [1, 2]], None),
    "lost key": ("a.jsonl", ONE + b'{"x": 1}\n', [[1], [np.nan]], None),
    "not finite in npz": ("a.npz", npz(**{"loss/a": [1, -np.inf, np.nan]}), [[1], [-np.inf], [np.nan]], None),
}


@pytest.mark.parametrize("case", READ)
def test_what_is_cut_short_or_was_not_logged_is_left_out_and_said(tmp_path, case):
    name, content, losses, note = READ[case]
    log = read_log(save(tmp_path, name, content))
    np.testing.assert_array_equal(log.losses, losses)
    assert len(log.notes) == (note is not None)
    assert all(text.startswith(str(note)) for text in log.notes)


def test_lines_that_each_name_other_columns_are_refused_before_their_table_is_made(tmp_path, monkeypatch):
    monkeypatch.setattr(objects, "TABLE_LIMIT", 1_000_000)
    lines = "".join(f'{{"loss/{i}": {i}}}\n' for i in range(2000))
    message = refusal(save(tmp_path, "a.jsonl", lines.encode()))
    assert "so many different columns" in message
    few = "".join(f'{{"loss/{i}": {i}}}\n' for i in range(300))
    log = read_log(save(tmp_path, "b.jsonl", few.encode()))
    np.testing.assert_array_equal(np.isnan(log.losses), ~np.eye(300, dtype=bool))
    assert np.diag(log.losses).tolist() == list(range(300))


def refusal(path):
    """Return the one-line message with which the log at `path` is refused; no warning may come with it."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(LogError) as caught:
            read_log(path)
    message = str(caught.value)
    assert message.isprintable()
    assert len(message) < 600 + len(str(path))
    return message


@pytest.mark.parametrize("case", BAD)
def test_a_broken_or_hostile_file_is_one_clear_line(tmp_path, case):
    name, content, fragments = BAD[case]
    path = save(tmp_path, name, content)
    message = refusal(path)
    assert message.startswith(f"{path}: ")
    for fragment in fragments:
        assert fragment in message


def test_what_is_no_file_is_refused(tmp_path):
    assert "there is no such file" in refusal(tmp_path / "none.csv")
    assert "there is no such file" in refusal("nul\0byte.csv")
    (tmp_path / "folder.csv").mkdir()
    assert "is a directory" in refusal(tmp_path / "folder.csv")
    assert "'none\\n.csv': there is no such file" in refusal("none\n.csv")
    assert refusal("x" * 5000 + ".csv").split(": ", 1)[1] in (
        "cannot be read: File name too long",
        "there is no such file",
    )


def test_a_zip_bomb_is_refused_from_its_directory(tmp_path, monkeypatch):
    content = npz(True, losses=np.zeros((100_000, 2)))
    assert len(content) < 10_000
    path = save(tmp_path, "bomb.npz", content)
    assert read_log(path).losses.shape == (100_000, 2)
    monkeypatch.setattr(archives, "ARCHIVE_LIMIT", 1_000_000)
    monkeypatch.setattr(archives, "member_array", None)
    assert "unpacks to 1600128 bytes; the limit is 1000000" in refusal(path)


class Payload:
    """An object whose unpickling creates a file."""

    def __init__(self, target):
        self.target = str(target)

    def __reduce__(self):
        return open, (self.target, "w")


def test_nothing_in_a_file_is_executed(tmp_path):
    trace = tmp_path / "trace"
    payload = pickle.dumps(Payload(trace))
    array = np.array([[Payload(trace)]], dtype=object)
    with open(tmp_path / "objects.npz", "wb") as file:
        np.savez(file, losses=array)
    refusal(tmp_path / "objects.npz")
    refusal(save(tmp_path, "pickle.npz", payload))
    refusal(save(tmp_path, "member.npz", archive(losses=payload)))
    refusal(save(tmp_path, "pickle.csv", payload))
    refusal(save(tmp_path, "pickle.jsonl", payload))
    code = f"open({str(trace)!r}, 'w').close()"
    refusal(save(tmp_path, "code.csv", f'loss/a\n"{code}"\n'.encode()))
    refusal(save(tmp_path, "header.npz", archive(losses=npy(f"{{'descr': {code}}}"))))
    assert not trace.exists()
    pickle.loads(payload).close()
    assert trace.exists()


names = st.sampled_from(["loss/a", "loss/b", "weight/a", "acc", "", "\u2028"])
cells = st.one_of(st.integers(-3, 4).map(str), st.floats(width=16).map(str), st.sampled_from(["", "1e400", "x", '"']))


@given(st.lists(st.tuples(names, cells, cells), max_size=30), st.sampled_from([".csv", ".csv.gz"]))
def test_long_tables_in_any_order_are_read_or_refused(rows, suffix):
    text = "name,step,value\n" + "".join(f"{','.join(row)}\n" for row in rows)
    read_or_refused(gzip.compress(text.encode()) if suffix == ".csv.gz" else text.encode(), suffix)


@given(st.lists(st.tuples(cells, cells, cells, cells, cells), max_size=30))
def test_steps_in_any_order_are_read_or_refused(rows):
    text = "step,epoch,loss/a,weight/a,norm/a\n" + "".join(f"{','.join(row)}\n" for row in rows)
    read_or_refused(text.encode(), ".csv")


@settings(max_examples=8)
@given(st.lists(st.integers(0, 12), min_size=20, max_size=60), st.data())
def test_runs_with_steps_in_any_order_are_judged_or_refused(steps, data):
    """No traceback, and no more rows judged than there are."""
    N = len(steps)
    rng = np.random.default_rng(data.draw(st.integers(0, 9)))
    values = rng.choice([np.nan, 0.5, 1.0, 2.0], (N, 4), p=[0.1, 0.3, 0.3, 0.3])
    with tempfile.TemporaryDirectory() as folder:
        columns = dict(zip(("loss/a", "loss/b", "weight/a", "weight/b"), values.T, strict=True))
        np.savez(Path(folder) / "run.npz", step=np.array(steps), **columns)
        try:
            run = read_run(str(Path(folder) / "run.npz"), method="dwa")
            verdict = judge(run.method, run.log)
        except MtlrefError as error:
            assert "\n" not in str(error)
        else:
            assert verdict.steps + verdict.unjudged <= 2 * N


@given(
    st.binary(max_size=200).map(lambda body: gzip.compress(b"step,loss/a\n1,2\n" + body)),
    st.integers(0, 240),
    st.data(),
)
def test_damaged_gzip_is_read_or_refused(content, at, data):
    cut = content[: data.draw(st.integers(1, len(content)))]
    read_or_refused(cut, ".csv.gz")
    read_or_refused(content[:at] + data.draw(st.binary(max_size=3)) + content[at + 1 :], ".csv.gz")


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["loss", "step", "a"]), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(["losses", "gram", "step", "name", "value", "consecutive", "x"]), json_values))
def test_any_mapping_is_taken_or_refused(document):
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "run.csv").write_bytes(CSV)
        (Path(folder) / "map.json").write_text(json.dumps(document), encoding="utf-8")
        try:
            read_run(str(Path(folder) / "run.csv"), method="dwa", **read_map(Path(folder) / "map.json"))
        except MtlrefError as error:
            assert "\n" not in str(error)


@given(st.lists(st.text(max_size=12), min_size=1, max_size=12, unique=True))
def test_any_names_are_inspected_or_refused(names):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.jsonl"
        path.write_text(json.dumps(dict.fromkeys(names, 1.0)) + "\n", encoding="utf-8")
        try:
            found = inspect_log(path)
            assert json.loads(json.dumps(plain(found)))["rows"] == 1
            assert text(found)
        except LogError as error:
            assert "\n" not in str(error)


@given(st.binary(max_size=200), st.sampled_from([".csv", ".jsonl", ".npz"]))
def test_random_bytes_are_read_or_refused(content, suffix):
    read_or_refused(content, suffix)


@given(
    st.sampled_from([(CSV, ".csv"), (ONE * 3, ".jsonl"), (GOOD, ".npz"), (npz(True, **{"loss/a": [1, 2]}), ".npz")]),
    st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=4),
    st.integers(0, 2000),
)
def test_damaged_logs_are_read_or_refused(log, changes, length):
    content, suffix = bytearray(log[0]), log[1]
    for at, byte in changes:
        content[at % len(content)] = byte
    read_or_refused(bytes(content[: length or None]), suffix)


@given(st.text(alphabet='0123456789.,eE+-_"\n\r xN{}[]:/loss', max_size=40), st.sampled_from([".csv", ".jsonl"]))
def test_scrambled_rows_are_read_or_refused(text, suffix):
    first = "loss/a,loss/b\n1,2\n" if suffix == ".csv" else '{"loss/a": 1, "loss/b": 2}\n'
    read_or_refused((first + text).encode(), suffix)


def read_or_refused(content, suffix):
    """Read `content` as a log of this kind; only a LogError of one line may come out, and no warning."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("error")
        path = save(Path(folder), f"log{suffix}", content)
        try:
            log = read_log(path)
        except LogError as error:
            message = str(error)
        else:
            message = "read"
            assert log.losses.shape == (len(log.rows), len(log.tasks))
            assert len(log.lines) == len(log.rows)
    assert message.isprintable()


@pytest.mark.parametrize("mark", [";", "\t", "|"])
def test_a_decimal_comma_is_no_number(tmp_path, mark):
    text = mark.join(("step", "loss/a")) + "\n" + mark.join(("0", "1,5")) + "\n"
    assert refusal(save(tmp_path, "run.csv", text.encode())).endswith(
        "line 2, column 'loss/a': '1,5' is not a number"
    )
