"""Lookup: what stands under one tag: the equation as the code has it, the checks put to it, its known defects.

An equation's tag begins the docstring of the one function that computes it, or the line below the constant that
holds it. These are read from the package's source.
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from mtlref.conformance import checks
from mtlref.conformance.implementation import SPECIFICATIONS
from mtlref.defects import DEFECTS
from mtlref.defects.defect import Defect
from mtlref.methods import METHODS
from mtlref.notation import TAG, MtlrefError

PACKAGE = Path(__file__).parent
CHECKS = PACKAGE / "conformance" / "checks"
"""Where a docstring that begins with a tag is a check's."""
PAGE = re.compile(r"derivations/\w+\.md")
"""What a module's docstring calls its derivation."""


@dataclass(frozen=True)
class Entry:
    """What stands under `tag`.

    `text`: the docstring, from the formula on; `name`, `place`: of the function, and its file and line; `page`: the
    derivation; `checks`: (name, statement) of each; `defects`: wrong variants of the equation.
    """

    tag: str
    text: str
    name: str
    place: str
    page: str
    checks: tuple[tuple[str, str], ...]
    defects: tuple[Defect, ...]

    def plain(self) -> Mapping[str, object]:
        """Return the entry as what the json module writes."""
        return {
            "tag": self.tag,
            "text": self.text,
            "name": self.name,
            "place": self.place,
            "derivation": self.page,
            "checks": [{"name": name, "statement": statement} for name, statement in self.checks],
            "defects": [{"name": d.name, "summary": d.summary, "seen": d.seen} for d in self.defects],
        }

    def lines(self, width: int = 100) -> Iterator[str]:
        """Yield the lines of the entry as it is printed."""
        yield from (f"{self.tag}: {self.text}", "")
        yield from (f"Code: {self.place}, {self.name}", f"Derivation: {self.page}, {self.tag}")
        for title, rows in (
            ("Checks, of mtlref check:", self.checks),
            ("Known defects:", [(d.name, d.summary + f" (seen: {d.seen})" * bool(d.seen)) for d in self.defects]),
        ):
            yield from ("", title) if rows else ()
            for name, text in rows:
                yield from textwrap.wrap(f"{name}: {text}", width, initial_indent="  ", subsequent_indent="    ")


def method_of(tag: str) -> str | None:
    """Return the stem of the method whose step evaluates the equation; None if no step shows it by itself."""
    used = {stem: {*cls.tags.values(), cls.heads, cls.start} for stem, cls in METHODS.items()}
    return next((stem for stem, tags in used.items() if tag in tags), None)


def look_up(tag: str) -> Entry:
    """Return what stands under a tag, in letters of either size. Errors: MtlrefError if no function has it."""
    tag = tag.upper() if TAG.fullmatch(tag.upper()) else tag
    if not TAG.fullmatch(tag):
        known = ", ".join(METHODS)
        raise MtlrefError(f"{tag!r} is neither a method ({known}) nor a tag such as GN-4", argument="subject")
    places = sorted(PACKAGE.rglob("*.py"))
    found = [one for path in places if path.parent != CHECKS for one in begun(path, tag)]
    if not found:
        told = "; choice points and errata are told in the derivations" if re.search(r"-[CE]", tag) else ""
        raise MtlrefError(f"no function of mtlref computes {tag}{told}", argument="subject", value=tag)
    name, line, path, text = min(found, key=lambda one: one[0].isupper())  # a constant beside it says less
    every = {check.name: check for stem in SPECIFICATIONS for check in checks.of(stem, live=True)[1]}
    put = tuple((check.name, check.statement.removeprefix(f"{tag}: ")) for check in every.values() if check.eq == tag)
    defects = tuple(d for some in DEFECTS.values() for d in some if d.equation == tag)
    where = f"mtlref/{path.relative_to(PACKAGE).as_posix()}:{line}"
    page = PAGE.findall(ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "")[0]
    return Entry(tag, text, name, where, page, put, defects)


def begun(path: Path, tag: str) -> Iterator[tuple[str, int, Path, str]]:
    """Yield name, line, file and text, of each docstring of a file that begins with `tag` and a colon: what follows.

    A constant has a string below it for a docstring.
    """
    source = path.read_text(encoding="utf-8")
    if f"{tag}:" not in source:
        return
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            text = ast.get_docstring(node) or ""
            if text.startswith(f"{tag}:"):
                yield node.name, node.lineno, path, text.removeprefix(f"{tag}:").lstrip()
    for above, below in zip(tree.body, tree.body[1:], strict=False):
        if isinstance(above, ast.Assign | ast.AnnAssign) and isinstance(below, ast.Expr):
            text = inspect.cleandoc(str(ast.literal_eval(below.value)))
            target = above.targets[0] if isinstance(above, ast.Assign) else above.target
            if text.startswith(f"{tag}:"):
                yield ast.unparse(target), above.lineno, path, text.removeprefix(f"{tag}:").lstrip()
