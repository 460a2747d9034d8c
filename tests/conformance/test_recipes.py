"""The README's recipes, run as they stand: each plugs right code in, and every check that applies passes."""

from __future__ import annotations

import pytest

from mtlref.conformance import check_implementation
from tests.conformance import recipes


def outcome(impl):
    results = check_implementation(impl)
    assert [r.name for r in results if r.status == "passed"]
    return [(r.name, r.message or r.reason) for r in results if r.status not in ("passed", "skipped")]


@pytest.mark.parametrize("recipe", [recipes.stateful_object, recipes.bare_function, recipes.numpy_callable])
def test_a_recipe_passes(recipe):
    assert outcome(recipe()) == []


@pytest.mark.parametrize(
    "recipe",
    [
        recipes.module_with_backward,
        recipes.module_on_a_live_network,
        recipes.gradients_of_a_framework,
        recipes.hmoe_in_a_framework,
    ],
)
def test_a_torch_recipe_passes(recipe):
    pytest.importorskip("torch", reason="PyTorch is an extra")
    assert outcome(recipe()) == []


def test_a_recipe_fails_where_the_code_is_wrong(monkeypatch):
    right = recipes.updated
    monkeypatch.setattr(recipes, "updated", lambda *given: right(*given) / len(given[0]))
    failed = [r for r in check_implementation(recipes.bare_function()) if r.status == "failed"]
    assert failed[0].diagnosis.text.startswith("identical to the known defect SumToOne [GN-7]")
