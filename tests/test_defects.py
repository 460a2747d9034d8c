"""Defects: each changes its own equation and nothing else, each changes the numbers, and they combine."""

from __future__ import annotations

import numpy as np
import pytest

import mtlref
from mtlref.defects import DEFECTS, Defect, combinations, variant

ALL = [(stem, defect) for stem, defects in DEFECTS.items() for defect in defects]


def runs():
    """Runs of four steps from the start: unequal progress, K = 3 and D = 2, gentle and violent gradients."""
    rng = np.random.default_rng(3)
    rates = np.array([[1.0, 1.0, 1.0], [0.4, 0.9, 1.3], [0.3, 1.1, 0.8], [0.2, 0.5, 0.9]])
    for scale in (1.0, 10.0, 25.0):
        yield rates * np.array([3.0, 0.2, 11.0]), scale * rng.standard_normal((4, 3, 2))


def first_difference(method, wrong, losses, jacobians):
    """The tag of the first term that differs between two methods on a run, None if none does before an error."""
    state, other = method.init(3), wrong.init(3)
    for L, J in zip(losses, jacobians, strict=True):
        try:
            out, odd = method.step(state, L, J), wrong.step(other, L, J)
        except mtlref.MtlrefError:
            return None
        for name, tag in method.tags.items():
            if not np.array_equal(out.terms[name], odd.terms[name]):
                return tag
        state, other = out.state, odd.state
    return None


@pytest.mark.parametrize(("stem", "defect"), ALL, ids=lambda x: getattr(x, "name", x))
def test_a_defect_changes_its_own_equation_first(stem, defect):
    method = build(stem)
    found = {first_difference(method, variant(method, defect), *run) for run in runs()} - {None}
    assert found == {defect.equation}


def build(stem):
    """The method, with hyper-parameters at which no defect hides."""
    settings = {"gradnorm": {"alpha": 1.5, "lr": 0.025}, "dwa": {"temperature": 3.0}}
    return mtlref.METHODS[stem](**settings.get(stem, {}))


def test_neither_the_class_nor_the_module_is_touched():
    method = mtlref.GradNorm()
    before = mtlref.GradNorm.step
    wrong = variant(method, *[d for d in DEFECTS["gradnorm"] if d.name in ("InvertedRate", "MeanForSum")])
    assert mtlref.GradNorm.step is before
    assert isinstance(wrong, mtlref.GradNorm)
    assert wrong.alpha == method.alpha
    assert type(wrong).__name__ == "InvertedRateMeanForSumGradNorm"


def test_two_defects_together_do_what_both_do():
    """By hand: n = (3, 4, 5), r = (12/7, 6/7, 3/7), α = 1: inverted targets Ḡ/r = (7/3, 14/3, 28/3) turn the signs of
    all three, and the mean takes a third of the slope."""
    pair = [d for d in DEFECTS["gradnorm"] if d.name in ("InvertedRate", "MeanForSum")]
    wrong = variant(mtlref.GradNorm(alpha=1.0, lr=0.03), *pair)
    state = mtlref.GradNormState(np.ones(3), np.array([2.0, 2.0, 4.0]), wrong.rule.init(np.ones(3)))
    out = wrong.step(state, [2.0, 1.0, 1.0], np.diag([3.0, 4.0, 5.0]))
    np.testing.assert_allclose(out.terms["target"], [7 / 3, 14 / 3, 28 / 3])
    np.testing.assert_allclose(out.terms["dw"], [1.0, -4 / 3, -5 / 3])
    np.testing.assert_allclose(out.terms["w_next"], 3 * np.array([0.97, 1.04, 1.05]) / 3.06)


def test_combinations_are_simplest_first_and_never_of_one_function():
    sizes = [len(chosen) for chosen in combinations("gradnorm")]
    assert sizes == sorted(sizes)
    assert set(sizes) == {1, 2}
    for chosen in combinations("gradnorm"):
        replaced = [name for defect in chosen for name in defect.replaces]
        assert len(replaced) == len(set(replaced))


def test_a_defect_of_no_function_is_refused():
    with pytest.raises(KeyError, match="no_such_function"):
        variant(mtlref.DWA(), Defect("X", "DWA-1", "", {"no_such_function": len}))
