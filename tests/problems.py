"""Problems for the methods' tests: structured Jacobians and losses, as Hypothesis strategies and as fixed arrays."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

WHOLE_RANGE = st.floats(allow_nan=False, allow_infinity=False, width=64)
"""Every finite float64."""


def positive(low: float, high: float) -> st.SearchStrategy[float]:
    """Floats between two positive bounds, spread over the orders of magnitude."""
    return st.floats(np.log(low), np.log(high)).map(lambda x: float(np.exp(x)))


@st.composite
def jacobians(draw: st.DrawFn, K: int, D: int | None = None) -> np.ndarray:
    """A (K, D) matrix with rows of unequal scale; D ≠ K, and more tasks than dimensions in some draws."""
    D = draw(st.sampled_from([1, 2, 3, 5, 7, 11])) if D is None else D
    seed = draw(st.integers(0, 2**32 - 1))
    scale = np.array(draw(st.lists(positive(1e-3, 1e3), min_size=K, max_size=K)))
    return scale[:, None] * np.random.default_rng(seed).standard_normal((K, D))


@st.composite
def gradnorm_problems(draw: st.DrawFn, tasks: tuple[int, ...] = (1, 2, 3, 4, 7)) -> dict[str, np.ndarray]:
    """A state in mid-run, losses and a Jacobian: unequal weights, unequal progress, losses far from 1."""
    K = draw(st.sampled_from(tasks))
    column = st.lists(positive(1e-4, 1e4), min_size=K, max_size=K).map(np.array)
    w = draw(st.lists(positive(0.05, 20), min_size=K, max_size=K).map(np.array))
    return {
        "w": K * w / w.sum(),
        "L_0": draw(column),
        "L": draw(column),
        "J": draw(jacobians(K)),
    }
