"""The project's tests as killers: those that reach a statement are asked, quickest first, and tell a wrong module."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

from tests.mutation.overlay import TREE
from tests.mutation.project import Asked

PROGRAM = """
from tests.mutation import project
from tests.mutation.fork import forked

module = "methods/equal.py"
text = (project.TREE / module).read_text(encoding="utf-8")
line = 1 + text[: text.index("np.ones(K)")].count("\\n")
project.REACHED[module] = forked(project.reached, module, text)
for program in (text, text.replace("np.ones(K)", "np.full(K, 2.0)")):
    print(forked(project.failing, module, program, range(line, line + 1)))
"""


def test_the_quickest_that_reach_a_statement_are_asked_and_all_if_loading_does():
    found = {"": (0.0, {1, 2}), "a": (3.0, {5, 6}), "b": (1.0, {6}), "c": (2.0, {7})}
    for changed, names in ((range(6, 7), ["b", "a"]), (range(2, 6), ["b", "c", "a"]), (range(8, 9), [])):
        items = [SimpleNamespace(nodeid=name) for name in ("a", "b", "c", "d")]
        Asked(found, changed).pytest_collection_modifyitems(items)
        assert [item.nodeid for item in items] == names


def test_a_wrong_module_fails_a_test_that_reaches_the_change():
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=TREE.parent, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    as_it_is, wrong = done.stdout.split()
    assert as_it_is == "None"
    assert wrong.startswith("tests/")
