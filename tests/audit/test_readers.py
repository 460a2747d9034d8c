"""Training logs: how columns of files become a log, and which patterns find them."""

from __future__ import annotations

import io

import numpy as np
import pytest

from mtlref.audit.readers import read_log
from mtlref.audit.side import read_settings
from mtlref.audit.writers import write_log
from mtlref.notation import LogError

CSV = b"step,loss/a,loss/b,note\n0,1.5,2.5,x\n1,1.25,.5e0,\n"


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


# WHAT IS READ


def test_a_csv_with_other_columns_quotes_a_byte_order_mark_and_crlf(tmp_path):
    plain = read_log(save(tmp_path, "run.csv", CSV))
    assert plain.source == str(tmp_path / "run.csv")
    assert plain.tasks == ("a", "b")
    assert plain.rows.tolist() == [0, 1]
    assert plain.lines.tolist() == [2, 3]
    assert plain.losses.tolist() == [[1.5, 2.5], [1.25, 0.5]]
    assert (plain.norms, plain.gram, plain.weights) == (None, None, None)
    windows = b"\xef\xbb\xbf" + CSV.replace(b"\n", b"\r\n").replace(b"1.5", b'" 1.5 "') + b"\r\n"
    other = read_log(save(tmp_path, "Run.CSV", windows))
    assert other.losses.tolist() == plain.losses.tolist()


def test_norms_and_weights_are_put_in_the_losses_order(tmp_path):
    text = b"epoch,norm/b,loss/b,weight/a,norm/a,loss/a,weight/b\n5,1,2,3,4,5,6\n\n6,7,8,9,10,11,12\n"
    log = read_log(save(tmp_path, "run.csv", text))
    assert log.tasks == ("b", "a")
    assert log.rows.tolist() == [5, 6]
    assert log.lines.tolist() == [2, 4]
    assert log.losses.tolist() == [[2, 5], [8, 11]]
    assert log.norms.tolist() == [[1, 4], [7, 10]]
    assert log.weights.tolist() == [[6, 3], [12, 9]]


def test_a_log_may_number_its_rows_by_step_and_by_epoch(tmp_path):
    log = read_log(save(tmp_path, "run.csv", b"epoch,step,loss/a\n0,10,1\n0,20,1\n1,30,1\n"))
    assert log.rows.tolist() == [10, 20, 30]
    assert log.epochs.tolist() == [0, 0, 1]
    assert read_log(save(tmp_path, "run.csv", b"epoch,loss/a\n4,1\n")).rows.tolist() == [4]
    assert read_log(save(tmp_path, "run.csv", CSV)).epochs is None
    fractions = read_log(save(tmp_path, "run.csv", b"epoch,step,loss/a\n0.25,10,1\n0.5,20,1\n"))
    assert fractions.epochs.tolist() == [0.25, 0.5]


def test_somebody_else_s_json_beside_a_log_is_left_alone(tmp_path):
    path = save(tmp_path, "run.csv", CSV)
    save(tmp_path, "run.json", b'{"loss": [1, 2]}')
    assert read_settings(path) == {}


def test_patterns_take_the_users_names(tmp_path):
    text = b"train.seg.loss,train.depth.loss,|g| seg,|g| depth\n1,2,3,4\n"
    log = read_log(save(tmp_path, "run.csv", text), losses="train.*.loss", norms="|g| *")
    assert log.tasks == ("seg", "depth")
    assert log.norms.tolist() == [[3, 4]]
    assert log.rows.tolist() == [0]


@pytest.mark.parametrize(
    ("names", "row"),
    [
        ("gram/a/a,gram/a/b,gram/b/b", "1,2,3"),
        ("gram/b/b,gram/b/a,gram/a/a", "3,2,1"),
        ("gram/a/a,gram/a/b,gram/b/a,gram/b/b", "1,2,2,3"),
    ],
)
def test_a_gram_matrix_may_be_given_by_half_or_whole(tmp_path, names, row):
    text = f"loss/a,loss/b,{names}\n5,6,{row}\n5,6,{row}\n".encode()
    log = read_log(save(tmp_path, "run.csv", text))
    assert log.gram.tolist() == [[[1, 2], [2, 3]]] * 2


def test_task_names_may_hold_slashes_in_a_gram_pattern(tmp_path):
    text = b"loss/x/a,loss/b,gram/x/a/x/a,gram/x/a/b,gram/b/b\n5,6,1,2,3\n"
    log = read_log(save(tmp_path, "run.csv", text))
    assert log.tasks == ("x/a", "b")
    assert log.gram.tolist() == [[[1, 2], [2, 3]]]


def test_json_lines_are_flattened_and_may_change_the_order_of_keys(tmp_path):
    lines = b"""\xef\xbb\xbf{"step": 3, "loss": {"a": 1, "b": 2.5}, "norm": {"a": 1e-3, "b": 4}, "note": null}

{"norm": {"b": 1, "a": 2}, "note": "text", "extra": [1, {"x": true}], "loss": {"b": 8, "a": 9}, "step": 4}"""
    for name in ("run.jsonl", "run.ndjson"):
        log = read_log(save(tmp_path, name, lines))
        assert log.tasks == ("a", "b")
        assert log.rows.tolist() == [3, 4]
        assert log.lines.tolist() == [1, 3]
        assert log.losses.tolist() == [[1, 2.5], [9, 8]]
        assert log.norms.tolist() == [[1e-3, 4], [2, 1]]
    log = read_log(save(tmp_path, "list.jsonl", b'{"loss": [1, 2]}\n{"loss": [3, 4]}\n'))
    assert log.tasks == ("0", "1")
    assert log.losses.tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize("compressed", [False, True])
def test_an_npz_may_hold_columns_or_stacked_arrays(tmp_path, compressed):
    gram = np.array([[[1.0, 2], [2, 5]]] * 3)
    losses = np.asfortranarray(np.arange(6).reshape(3, 2))
    content = npz(compressed, losses=losses, gram=gram, weights=losses.astype(np.float32), step=[4, 5, 6])
    log = read_log(save(tmp_path, "run.npz", content))
    assert log.tasks == ("0", "1")
    assert log.rows.tolist() == [4, 5, 6]
    assert log.lines.tolist() == [1, 2, 3]
    assert log.losses.tolist() == losses.tolist()
    assert log.gram.tolist() == gram.tolist()
    assert log.norms is None
    content = npz(compressed, **{"loss/a": [1, 2], "loss/b": [3.5, 4], "norms": [[1, 2], [3, 4]]})
    log = read_log(save(tmp_path, "run.npz", content))
    assert log.tasks == ("a", "b")
    assert log.losses.tolist() == [[1, 3.5], [2, 4]]
    assert log.norms.tolist() == [[1, 2], [3, 4]]


def test_the_unit_is_that_of_the_narrowest_type_that_holds_everything(tmp_path):
    single, double = float(np.float32(0.1)), 0.1
    cases = [((single, single), 2.0**-24), ((single, double), 2.0**-53), ((1e300, 1), 2.0**-53)]
    for (loss, norm), unit in cases:
        write_log(tmp_path / "run.csv", {"loss/a": [loss], "norm/a": [norm]})
        assert read_log(tmp_path / "run.csv").unit == unit


def test_a_csv_column_that_merely_has_the_name_of_a_stack_is_not_read(tmp_path):
    log = read_log(save(tmp_path, "run.csv", b"loss/a,losses,gram\n1,text,\n"))
    assert log.losses.tolist() == [[1]]


# PATTERNS


@pytest.mark.parametrize(
    ("patterns", "fragments"),
    [
        ({"losses": "cost/*"}, ["no column matches 'cost/*', the pattern for losses", "'step', 'loss/a'"]),
        ({"norms": "norm/*"}, ["no column matches 'norm/*', the pattern for norms", "'loss/b', 'note'"]),
        ({"gram": "gram/*/*"}, ["the pattern for gram"]),
        ({"weights": "w*"}, ["the pattern for weights"]),
        ({"losses": "loss"}, ["the pattern for losses needs 1 '*'", "'loss'"]),
        ({"norms": "*/*"}, ["the pattern for norms needs 1 '*'"]),
        ({"gram": "gram/*"}, ["the pattern for gram needs 2 '*'"]),
    ],
)
def test_a_pattern_that_was_given_must_be_good_and_find_something(tmp_path, patterns, fragments):
    with pytest.raises(LogError) as caught:
        read_log(save(tmp_path, "run.csv", CSV), **patterns)
    message = str(caught.value)
    for fragment in fragments:
        assert fragment in message
