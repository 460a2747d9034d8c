"""The README is true: its commands print what it shows, and its examples are executed."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

import pytest

from mtlref.cli import main

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"```console\n\$ (.+)\n((?:.*\n)*?)```", README)


@pytest.mark.parametrize(("command", "printed"), [c for c in COMMANDS if c[1]], ids=lambda text: text[:60])
def test_a_command_prints_what_the_readme_shows(capsys, command, printed):
    words = command.split("&& ")[-1].split()
    assert words[0] == "mtlref"
    main(words[1:])
    assert capsys.readouterr().out == printed


def test_the_commands_are_there():
    assert [command for command, _ in COMMANDS] == [
        "python -m pip install . && mtlref audit example:gradnorm-pytorch",
        "mtlref audit example:torch-loop",
        "python -m pip install '.[test]' && python -m pytest",
    ]


def test_the_examples_hold():
    text = re.sub(r"```\w*", "", README)
    example = doctest.DocTestParser().get_doctest(text, {}, "README", "README.md", 0)
    result = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS).run(example)
    assert result.attempted >= 8
    assert result.failed == 0


def test_the_links_lead_somewhere():
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (Path(__file__).parent.parent / target).exists(), target
