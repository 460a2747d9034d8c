"""Wrong variants of equal weights. Each function takes what the equation's own function takes."""

from __future__ import annotations

import numpy as np

from mtlref.contract import Step
from mtlref.defects.defect import Defect
from mtlref.notation import Array
from mtlref.state import State


def shares(K: int) -> Array:
    """w_i = 1/K: the mean of the losses for their sum."""
    return np.full(K, 1 / K)


def mean_for_the_trunk(weights: Array, head_weights: Array, state: State, terms: dict[str, Array]) -> Step:
    """w_i = 1/K beside h_i = 1: the trunk on the mean's scale, the heads on the sum's."""
    return Step(weights / len(weights), head_weights, state, terms)


DEFECTS = (
    Defect("MeanOfTasks", "EQ-1", "the mean of the losses for their sum", {"equal_weights": shares}),
    Defect(
        "TrunkMeanHeadsSum",
        "EQ-1",
        "the mean's gradient for the shared parameters beside the sum's for the heads",
        {"Step": mean_for_the_trunk},
    ),
)
"""Plausible wrong variants of equal weights."""
