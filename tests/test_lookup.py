"""What stands under a tag: held against the derivations' headings, the checks as they are run, and the source."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from mtlref import lookup
from mtlref.conformance import checks
from mtlref.conformance.implementation import SPECIFICATIONS
from mtlref.conformance.message import page_of
from mtlref.defects import DEFECTS
from mtlref.lookup import method_of
from mtlref.methods import METHODS
from mtlref.notation import MtlrefError
from tests.test_traceability import EQUATION_TAG, ROOT, headings

look_up = cache(lookup.look_up)  # which reads all of the source each time
EQUATIONS = sorted(tag for tag in headings() if EQUATION_TAG.fullmatch(tag) and tag != "MTL-2")


@pytest.mark.parametrize("tag", EQUATIONS)
def test_every_equation_of_the_derivations_is_found(tag):
    entry = look_up(tag)
    assert Path(entry.page) == headings()[tag].relative_to(ROOT)
    path, line = entry.place.split(":")
    found = (ROOT / path).read_text(encoding="utf-8").splitlines()[int(line) - 1]
    assert re.match(rf"\s*(def |class )?{entry.name}\b", found)
    assert entry.text
    assert not entry.text.startswith(tag)


def statements() -> dict[str, dict[str, str]]:
    """By tag, what the docstrings of the functions named check_… say."""
    found: dict[str, dict[str, str]] = {}
    for path in (ROOT / "mtlref/conformance/checks").glob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("check_"):
                tag, _, text = " ".join(ast.get_docstring(node).split("\n\n")[0].split()).partition(": ")
                found.setdefault(tag, {})[node.name] = text
    return found


def test_checks_are_those_of_the_source_and_defects_each_under_its_tag():
    written, shown = statements(), {tag: dict(look_up(tag).checks) for tag in EQUATIONS}
    for tag in set(EQUATIONS) & written.keys():
        assert shown[tag].items() >= written[tag].items()
        more = shown[tag].keys() - written[tag].keys()
        assert all(name.endswith(("_replays_its_runs", "_answers_every_problem")) for name in more)
    assert len(set(EQUATIONS) & written.keys()) > 60
    seen = [d for tag in EQUATIONS for d in look_up(tag).defects]
    assert {(d.equation, d.name) for d in seen} == {(d.equation, d.name) for some in DEFECTS.values() for d in some}


def test_a_failed_check_points_to_the_page_that_defines_its_tag():
    for stem in SPECIFICATIONS:
        for check in checks.of(stem, live=True)[1]:
            assert headings()[check.eq] == ROOT / f"derivations/{page_of(check, stem)}.md"
            assert look_up(check.eq).page == f"derivations/{page_of(check, stem)}.md"


def test_a_tag_belongs_to_the_method_whose_step_shows_it():
    assert method_of("GN-4") == "gradnorm"
    assert method_of("COMB-9") == "combination"  # what the heads get
    assert method_of("COV-10") == "cov"  # the start
    assert method_of("QP-6") is None
    assert {method_of(tag) for tag in EQUATIONS} == {*METHODS, None}


def test_the_function_is_told_from_a_constant_beside_it():
    assert look_up("QP-9").name == "support_margin"
    assert look_up("AD-4").name == "RULES"
    assert look_up("pcg-3").tag == "PCG-3"


@pytest.mark.parametrize("tag", ["GN", "gradnorm ", "GN-4 ", "XY-1", ""])
def test_what_is_no_tag_is_an_error(tag):
    with pytest.raises(MtlrefError, match="is neither a method"):
        look_up(tag)
