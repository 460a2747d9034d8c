"""Wrong variants of fixed weights. Each function takes what the equation's own function takes."""

from __future__ import annotations

import numpy as np

from mtlref.defects.defect import Defect
from mtlref.notation import Array


def sum_to_one(given: Array) -> Array:
    """w_i / Σ w: scaled to a sum of 1."""
    return np.asarray(given / np.sum(given))


def sum_to_K(given: Array) -> Array:
    """K w_i / Σ w: scaled to a sum of K."""
    return np.asarray(len(given) * given / np.sum(given))


def mean_of_tasks(given: Array) -> Array:
    """w_i / K: the mean of the weighted losses for their sum."""
    return given / len(given)


def ones(w: Array) -> Array:
    """h_i = 1: the heads descend their own losses, unweighted."""
    return np.ones(len(w))


DEFECTS = (
    Defect("MeanOfTasks", "FIX-1", "the mean of the weighted losses for their sum", {"fixed_weights": mean_of_tasks}),
    Defect("SumToOne", "FIX-1", "weights that are scaled to a sum of 1", {"fixed_weights": sum_to_one}),
    Defect("SumToK", "FIX-1", "weights that are scaled to a sum of K", {"fixed_weights": sum_to_K}),
    Defect("HeadsUnweighted", "FIX-2", "weights of 1 for the heads", {"head_weights": ones}),
)
"""Plausible wrong variants of fixed weights."""
