"""Every example in the derivations is executed, and its output compared."""

from __future__ import annotations

import doctest
from pathlib import Path

import pytest

PAGES = sorted((Path(__file__).parent.parent / "derivations").rglob("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_worked_examples_hold(page):
    text = page.read_text(encoding="utf-8").replace("```", "")
    flags = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    example = doctest.DocTestParser().get_doctest(text, {}, page.stem, str(page), 0)
    result = doctest.DocTestRunner(optionflags=flags).run(example)
    assert result.failed == 0
    assert result.attempted > 0 or "## Worked example" not in text
