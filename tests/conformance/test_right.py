"""No false alarm: whoever computes the same by another road passes every check."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.conformance import right, right_combination, right_gradients, right_hmoe
from tests.conformance.variants import judged

MODULES = [right, right_gradients, right_combination, right_hmoe]


@pytest.mark.parametrize(
    "impl", [impl for module in MODULES for impl in module.RIGHT], ids=lambda impl: f"{impl.method}: {impl.name}"
)
def test_a_right_implementation_passes(impl):
    found, results = judged(impl)
    assert found.unusable is None
    assert [result.message for result in results.values() if result.status not in ("passed", "skipped")] == []
    assert sum(result.status == "passed" for result in results.values()) >= 3
    assert not found.answers.printed


@pytest.mark.parametrize("module", MODULES)
def test_they_share_no_code_with_the_methods(module):
    tree = ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name for name in imported if name.startswith("mtlref")} == {"mtlref.conformance"}
