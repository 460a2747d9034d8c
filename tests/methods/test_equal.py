"""Equal weights: ones, whatever comes in."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import mtlref
from tests.problems import WHOLE_RANGE


@given(st.lists(WHOLE_RANGE, min_size=1, max_size=6))
def test_always_one(losses):
    method = mtlref.EqualWeights()
    state = method.init(len(losses))
    for jacobian in (None, np.outer(losses, [1.0, 0.0])):
        out = method.step(state, losses, jacobian)
        for w in (out.weights, out.head_weights, out.state.weights, out.terms["w"]):
            np.testing.assert_array_equal(w, np.ones(len(losses)))


@pytest.mark.parametrize(
    ("losses", "jacobian", "argument"),
    [([1.0, np.nan], None, "losses"), ([1.0], None, "losses"), ([1.0, 2.0], [[np.inf], [0.0]], "jacobian")],
)
def test_bad_input_is_refused_by_name(losses, jacobian, argument):
    with pytest.raises(mtlref.MtlrefError) as caught:
        mtlref.EqualWeights().step(mtlref.EqualWeights().init(2), losses, jacobian)
    assert caught.value.argument == argument
