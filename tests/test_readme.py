"""The README is true: its commands print what it shows, and its examples are executed."""

from __future__ import annotations

import doctest
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mtlref.cli import main

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"```console\n\$ (.+)\n((?:.*\n)*?)```", README)


BLOCKS = re.findall(r"```python\n((?:.*\n)*?)```", README)


@pytest.mark.parametrize(("command", "printed"), [c for c in COMMANDS if c[1]], ids=lambda text: text[:60])
def test_a_command_prints_what_the_readme_shows(capsys, tmp_path, monkeypatch, command, printed):
    (tmp_path / "my_gradnorm.py").write_text(next(b for b in BLOCKS if "mine = " in b), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    words = command.split("&& ")[-1].split()
    assert words[0] == "mtlref"
    main(words[1:])
    assert capsys.readouterr().out == printed


def test_the_commands_are_there():
    assert [command for command, _ in COMMANDS] == [
        "python -m pip install . && mtlref audit example:gradnorm-pytorch",
        "mtlref audit example:torch-loop",
        "python -m pip install . && mtlref check my_gradnorm:mine --select check_gradnorm_next_weights",
        "python -m pip install '.[test]' && python -m pytest",
    ]


def test_the_recipes_are_those_that_the_tests_execute():
    recipes = (Path(__file__).parent / "conformance" / "recipes.py").read_text(encoding="utf-8")
    shown = [block for block in BLOCKS if block.startswith("def ")]
    assert len(shown) == 3
    assert all(block.strip() in recipes for block in shown)


def test_the_checks_run_in_somebody_s_own_suite(tmp_path):
    """The decorator of the README, with the expected failure that it names, in a pytest of its own."""
    mine = next(b for b in BLOCKS if "mine = " in b)
    suite = next(b for b in BLOCKS if "parametrize_with_checks" in b)
    others = "check_gradnorm_follows_its_own_run"
    suite = suite.replace('sign"}', f'sign", "{others}": "the same"}}')
    (tmp_path / "test_mine.py").write_text(mine + "\n\n" + suite, encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stdout
    assert "2 xfailed" in done.stdout


def test_the_examples_hold():
    text = re.sub(r"```\w*", "", README)
    example = doctest.DocTestParser().get_doctest(text, {}, "README", "README.md", 0)
    result = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS).run(example)
    assert result.attempted >= 8
    assert result.failed == 0


def test_the_links_lead_somewhere():
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (Path(__file__).parent.parent / target).exists(), target
