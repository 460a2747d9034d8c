"""The score: counted by hand from a small session."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing

import pytest

from tests.mutation.overlay import TREE
from tests.mutation.score import counted, equivalents, interval, mutants, row, stale

RESULTS = [
    {"annotation": True},
    {"kit": "vector step-k3"},
    {"kit": "check_x"},
    {"kit": "check_y"},
    {"kit": None},
    {"kit": None, "tests": "tests/test_x.py::test_y"},
    {"kit": None, "tests": None},
    {"kit": None},
    {"tests": "tests/test_x.py::test_z"},
    None,
]


@pytest.fixture
def session(tmp_path):
    """A session of ten mutants, of which the last was not run, and the one before not put to the kit."""
    path = tmp_path / "session.sqlite"
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE mutation_specs (module_path, start_pos_row, operator_name, occurrence, job_id)")
        db.execute("CREATE TABLE work_results (diff, output, job_id)")
        for i, result in enumerate(RESULTS):
            db.execute("INSERT INTO mutation_specs VALUES ('mtlref/x.py', ?, 'core/Op', 0, ?)", (i, str(i)))
            if result is not None:
                db.execute("INSERT INTO work_results VALUES (?, ?, ?)", (f"a → {i}", json.dumps(result), str(i)))
        db.commit()
    return path


def test_a_session_is_counted(session):
    counts = counted(mutants(session), {("mtlref/x.py", "a → 4"): "the same"})
    told = {"asked": 6, "kit": 3, "tests": 2, "left": 2}
    assert counts == {"all": 10, "not run": 1, "annotation": 1, "equivalent": 1, **told}
    assert "50.0 %" in row("x", counts)  # 3 of 6
    assert "71.4 %" in row("x", counts)  # 5 of 7


def test_what_is_listed_and_told_is_named(session):
    listed = {("mtlref/x.py", f"a → {i}"): "the same" for i in (1, 4, 5, 6, 99)}
    assert stale(mutants(session), listed) == [("mtlref/x.py", "a → 1"), ("mtlref/x.py", "a → 5")]


def test_the_interval_is_wilsons():
    low, high = interval(8, 10, 100)
    assert (round(low, 4), round(high, 4)) == (0.4902, 0.9433)  # Brown, Cai and DasGupta 2001, equation 4, by hand
    assert interval(8, 10, 10) == (0.8, 0.8)


def test_every_listed_equivalent_is_of_a_line_that_is_there_and_has_a_reason():
    for (module, change), why in equivalents().items():
        text = " ".join(line.strip() for line in (TREE.parent / module).read_text(encoding="utf-8").split("\n"))
        assert change.split(" → ")[0] in text, change
        assert len(why.split()) > 3
