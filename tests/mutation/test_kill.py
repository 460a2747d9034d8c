"""The killer: it tells hand-picked mutants, and spares the module as it is and a mutant that is the same program."""

from __future__ import annotations

import pytest

from tests.mutation.kill import killer
from tests.mutation.overlay import TREE, statement

MUTANTS = [
    ("methods/equal.py", "np.ones(K)", "np.full(K, 1 / K)", True),
    ("methods/fixed.py", "return given", "return given / len(given)", True),
    ("methods/dwa.py", "require(L >= 0", "require(L > -2", True),  # a refusal, which the vectors ask for
    ("methods/dwa.py", "/ T)", "* T)", True),
    ("methods/dwa.py", "len(ratio) * share", "share * len(ratio)", False),
    ("methods/hmoe.py", "if j == k else", "if j != k else", True),
    ("methods/combination.py", "(sums + L)", "(sums - L)", True),
    ("methods/stages.py", "len(strong) > 1", "len(strong) > 2", True),
    ("rules.py", "times(c, ONE - z * z)", "times(c, ONE + z * z)", True),
    ("rules.py", "times(c, ONE - z * z)", "times(c, ONE - z**2)", False),
]


@pytest.mark.parametrize(("module", "before", "after", "told"), MUTANTS)
def test_a_wrong_program_is_told_and_the_same_is_spared(module, before, after, told):
    text = (TREE / module).read_text(encoding="utf-8")
    assert text.count(before) == 1
    found = killer(module, text.replace(before, after), all_cases=False)
    assert (found is not None) == told, found


def test_a_judge_is_asked_only_where_it_reaches_the_change():
    text = (TREE / "methods/fixed.py").read_text(encoding="utf-8")
    line = 1 + text[: text.index("raise ShapeError")].count("\n")
    wrong = text.replace("raise ShapeError", "return None #")
    assert "vector too-" in str(killer("methods/fixed.py", wrong, False, statement(text, line)))
    assert killer("methods/fixed.py", wrong, False, range(0)) is None


@pytest.mark.parametrize(
    ("line", "lines"),
    [(1, [1]), (2, [2, 3]), (3, [2, 3]), (4, [4]), (5, [5, 6]), (6, [5, 6])],
)
def test_the_lines_of_a_statement_are_those_of_the_smallest(line, lines):
    text = "x = 1\n@f\ndef g(a):\n    if a:\n        return (a +\n            1)\n"
    assert list(statement(text, line)) == lines
