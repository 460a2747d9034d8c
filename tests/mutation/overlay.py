"""Overlay: mtlref with one module's text replaced, imported from memory; no file is changed.

`over("mutant", …)` puts a second package beside mtlref: the same files under another name, so that the kit, which
judges, and what is judged share nothing but NumPy. `over("mtlref", …)` puts the text in the place of mtlref's own,
for tests that import it.
"""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import CodeType, ModuleType

TREE = Path(__file__).resolve().parents[2] / "mtlref"

COMPILED: dict[tuple[str, Path], CodeType] = {}
"""The code of unchanged files, by the package's name: compiled once a process and its forks."""


class Overlay(MetaPathFinder, Loader):
    """Finds the modules of `package` in mtlref's tree; `texts`: path below the tree → what stands in its place."""

    def __init__(self, package: str, texts: Mapping[str, str]) -> None:
        self.package, self.texts = package, texts

    def find_spec(self, fullname: str, path: object, target: object = None) -> ModuleSpec | None:
        """Return the spec of a module of the package, None for any other."""
        first, *rest = fullname.split(".")
        if first != self.package:
            return None
        place = TREE.joinpath(*rest)
        file = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
        if not file.is_file():
            return None
        below = [str(place)] if place.is_dir() else None
        return importlib.util.spec_from_file_location(fullname, file, loader=self, submodule_search_locations=below)

    def exec_module(self, module: ModuleType) -> None:
        """Run the module's text, with the package's name in mtlref's place."""
        assert module.__file__ is not None
        file = Path(module.__file__)
        text = self.texts.get(str(file.relative_to(TREE)))
        if text is not None:
            code = compile(renamed(text, self.package), str(file), "exec")
        else:
            key = (self.package, file)
            if key not in COMPILED:
                COMPILED[key] = compile(renamed(file.read_text(encoding="utf-8"), self.package), str(file), "exec")
            code = COMPILED[key]
        exec(code, vars(module))  # what an import does


def renamed(text: str, package: str) -> str:
    """Return a module's text with the package's name in mtlref's place."""
    return text if package == "mtlref" else re.sub(r"\bmtlref\b", package, text)


@contextmanager
def over(package: str, texts: Mapping[str, str]) -> Iterator[None]:
    """Have `package` be mtlref with the texts put in; afterwards nothing of it is left.

    Errors: AssertionError if it has been imported before, and so would not be read anew.
    """
    loaded = [name for name in sys.modules if name.split(".")[0] == package]
    assert not loaded, f"{loaded[0]} has been imported"
    finder = Overlay(package, texts)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in [name for name in sys.modules if name.split(".")[0] == package]:
            del sys.modules[name]


def statement(text: str, line: int) -> range:
    """Return the lines of the smallest statement at a line, of one with a body those of its head."""
    found = range(line, line + 1)
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.stmt):
            first = min([node.lineno, *(decorator.lineno for decorator in getattr(node, "decorator_list", ()))])
            body = getattr(node, "body", None)
            last = max(first, body[0].lineno - 1) if body else node.end_lineno or first
            if first <= line <= last:
                found = range(first, last + 1)
    return found
