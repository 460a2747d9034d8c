"""What stands under a tag: held against the derivations' headings, the checks as they are run, and the source."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mtlref.conformance import checks
from mtlref.defects import DEFECTS
from mtlref.lookup import look_up, method_of
from mtlref.methods import METHODS
from mtlref.notation import MtlrefError
from tests.test_traceability import EQUATION_TAG, ROOT, headings

EQUATIONS = sorted(tag for tag in headings() if EQUATION_TAG.fullmatch(tag) and tag != "MTL-2")
CHECKED = [*METHODS, "hmoe", "jacobian"]


@pytest.mark.parametrize("tag", EQUATIONS)
def test_every_equation_of_the_derivations_is_found(tag):
    entry = look_up(tag)
    assert Path(entry.page) == headings()[tag].relative_to(ROOT)
    path, line = entry.place.split(":")
    found = (ROOT / path).read_text(encoding="utf-8").splitlines()[int(line) - 1]
    assert re.match(rf"\s*(def |class )?{entry.name}\b", found)
    assert entry.text
    assert not entry.text.startswith(tag)


def test_checks_and_defects_are_those_that_are_run():
    by_tag: dict[str, dict[str, str]] = {}
    for stem in CHECKED:
        for check in checks.of(stem, live=True)[1]:
            by_tag.setdefault(check.eq, {})[check.name] = check.statement
    assert len(by_tag) > 60
    for tag in sorted(by_tag.keys() & set(EQUATIONS)):
        assert {name: f"{tag}: {statement}" for name, statement in look_up(tag).checks} == by_tag[tag]
    seen = [d for tag in EQUATIONS for d in look_up(tag).defects]
    assert {(d.equation, d.name) for d in seen} == {(d.equation, d.name) for some in DEFECTS.values() for d in some}


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
