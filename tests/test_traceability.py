"""The five places of an equation stay in step: headings in the derivations, functions, defects, tests."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

import mtlref
from mtlref.defects import DEFECTS
from mtlref.notation import TAG

ROOT = Path(__file__).parent.parent
HEADING = re.compile(rf"^### ({TAG.pattern}) · \S.*$", re.MULTILINE)
EQUATION_TAG = re.compile(r"[A-Z]+-\d+")


@cache
def headings() -> dict[str, Path]:
    """Every tag that a derivation's heading defines, and where."""
    found: dict[str, Path] = {}
    for page in sorted((ROOT / "derivations").rglob("*.md")):
        for tag in HEADING.findall(page.read_text(encoding="utf-8")):
            assert tag not in found, f"{tag} is defined in {found.get(tag)} and in {page}"
            found[tag] = page
    return found


@cache
def docstring_tags() -> dict[str, Path]:
    """Every tag with which a docstring in the package begins, and in which file; the checks' docstrings aside."""
    found: dict[str, Path] = {}
    for path in sorted(set((ROOT / "mtlref").rglob("*.py")) - set((ROOT / "mtlref/conformance/checks").glob("*.py"))):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                begins = TAG.match(ast.get_docstring(node) or "")
                if begins and (ast.get_docstring(node) or "")[begins.end()] == ":":
                    assert begins.group() not in found, f"{begins.group()} stands in two docstrings"
                    found[begins.group()] = path
    return found


def test_every_tag_in_the_code_has_a_heading():
    known = headings()
    for path in sorted((ROOT / "mtlref").rglob("*.py")):
        for match in TAG.finditer(path.read_text(encoding="utf-8")):
            assert match.group() in known, f"{path.name} speaks of {match.group()}, which no derivation defines"


def test_every_tag_in_the_derivations_has_a_heading():
    known = headings()
    for page in sorted((ROOT / "derivations").rglob("*.md")):
        for match in TAG.finditer(page.read_text(encoding="utf-8")):
            assert match.group() in known, f"{page.name} speaks of {match.group()}, which no derivation defines"


def test_every_equation_is_implemented_where_its_derivation_says():
    """An equation's tag begins one docstring, or stands beside a line of the autograd's table of rules."""
    code = {path: path.read_text(encoding="utf-8") for path in (ROOT / "mtlref").rglob("*.py")}
    begun = docstring_tags()
    for tag, page in headings().items():
        if not EQUATION_TAG.fullmatch(tag) or tag == "MTL-2":
            continue
        stem = page.stem
        assert tag in begun or any(
            re.search(rf"{tag}\b", text) for path, text in code.items() if path.stem == stem
        ), f"{page.name} defines {tag}, and no function implements it"


@pytest.mark.parametrize("stem", [*mtlref.METHODS, *mtlref.NETWORKS])
def test_a_method_stands_in_its_five_places(stem):
    for path in (
        f"mtlref/methods/{stem}.py",
        f"derivations/{stem}.md",
        f"mtlref/vectors/{stem}.json",
        f"tests/methods/test_{stem}.py",
    ):
        assert (ROOT / path).is_file(), path
    if DEFECTS[stem]:
        assert (ROOT / f"mtlref/defects/{stem}.py").is_file()
        assert (ROOT / f"mtlref/exact/{stem}.py").is_file()


@pytest.mark.parametrize("stem", list(mtlref.METHODS))
def test_a_method_s_tags_are_its_derivation_s(stem):
    cls = mtlref.METHODS[stem]
    defined = {tag for tag, page in headings().items() if page.stem == stem}
    used = {*cls.tags.values(), cls.heads, cls.start}
    assert used <= defined
    begun = {tag for tag, path in docstring_tags().items() if path == ROOT / f"mtlref/methods/{stem}.py"}
    assert {tag for tag in defined if EQUATION_TAG.fullmatch(tag) and not tag.startswith("MTL")} == begun
    assert used <= begun


IMPLICIT = "mmoe"
"""The page of the networks' implicit part, which is code of its own: mtlref/mixtures.py."""


@pytest.mark.parametrize("stem", list(mtlref.NETWORKS))
def test_a_network_s_tags_are_its_derivation_s_and_its_implicit_part_s(stem):
    cls = mtlref.NETWORKS[stem]
    begun = docstring_tags()
    defined = {tag for tag, page in headings().items() if EQUATION_TAG.fullmatch(tag) and page.stem == stem}
    implicit = {tag for tag, page in headings().items() if EQUATION_TAG.fullmatch(tag) and page.stem == IMPLICIT}
    assert defined == {tag for tag, path in begun.items() if path == ROOT / f"mtlref/methods/{stem}.py"}
    assert implicit == {tag for tag, path in begun.items() if path == ROOT / "mtlref/mixtures.py"}
    assert implicit < set(cls.tags.values()) <= defined | implicit


@pytest.mark.parametrize("stem", [*mtlref.METHODS, *mtlref.NETWORKS])
def test_every_defect_breaks_an_equation_of_its_method(stem):
    known = headings()
    pages = {stem, IMPLICIT} if stem in mtlref.NETWORKS else {stem}
    for defect in DEFECTS[stem]:
        assert known[defect.equation].stem in pages
        assert EQUATION_TAG.fullmatch(defect.equation)


def test_the_derivation_s_named_tests_exist():
    tests = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("*.py"))
    for page in sorted((ROOT / "derivations").rglob("*.md")):
        for name in re.findall(r"`(test_\w+)`", page.read_text(encoding="utf-8")):
            assert f"def {name}(" in tests, f"{page.name} names {name}, which is not there"


def test_every_equation_of_the_seed_documents_is_somewhere():
    """derivations/README.md's table: each row names tags that exist, and every method's equations are reached."""
    page = (ROOT / "derivations/README.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1:-1] for line in page.splitlines() if line.startswith(("| GradNorm |", "| article |"))]
    assert len(rows) == 31 + 2
    begun, known, reached = docstring_tags(), headings(), set()
    for _, equation, tags in rows:
        named = [match.group() for match in TAG.finditer(tags)]
        assert named, f"{equation} has no tag"
        for tag in named:
            assert tag in known, tag
            assert tag in begun or not EQUATION_TAG.fullmatch(tag), f"{tag} has no function"
        reached.update(named)
    for stem, cls in mtlref.METHODS.items():
        assert reached & {*cls.tags.values(), cls.heads}, f"{stem} is in no seed's row"
    for stem, network in mtlref.NETWORKS.items():
        assert set(network.tags.values()) <= reached, f"{stem} is not in the seeds' rows"
