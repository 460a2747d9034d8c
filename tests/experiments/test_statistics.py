"""The experiments' statistics against SciPy's own, printed tables, and procedures carried out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from mtlref.experiments.statistics import critical_difference, friedman, holm, interval, p_value, paired, ranks
from mtlref.notation import DomainError, ShapeError


@pytest.mark.parametrize("n", [2, 3, 12])
def test_an_interval_is_student_s(n):
    x = np.random.default_rng(n).normal(3.0, 2.0, n)
    found = interval(x)
    low, high = stats.t.interval(0.95, n - 1, loc=x.mean(), scale=stats.sem(x))
    np.testing.assert_allclose([found.low, found.high, found.mean], [low, high, x.mean()], rtol=1e-12)
    assert found.half == pytest.approx((high - low) / 2)


def test_a_single_value_has_a_mean_and_no_interval():
    found = interval([2.5])
    assert (found.mean, found.low, found.high, found.half, found.n) == (2.5, None, None, None, 1)
    assert not found.above
    assert not found.below


def test_an_interval_covers_the_mean_as_often_as_it_says():
    """5,000 samples of 4: 95 % of the intervals hold the true mean, give or take four standard errors."""
    samples = np.random.default_rng(0).normal(0.0, 1.0, (5000, 4))
    misses = sum(found.above or found.below for found in map(interval, samples))
    assert abs(misses / 5000 - 0.05) < 4 * np.sqrt(0.05 * 0.95 / 5000)


def test_the_paired_test_is_scipy_s():
    rng = np.random.default_rng(1)
    a, b = rng.normal(0.0, 1.0, 9), rng.normal(0.3, 1.0, 9)
    assert p_value(a, b) == pytest.approx(stats.ttest_rel(a, b).pvalue, rel=1e-10)
    assert paired(a, b).mean == pytest.approx(a.mean() - b.mean())
    assert p_value(a, a) == 1.0
    with pytest.raises(ShapeError, match="must have one entry a task, 9; it has 8"):
        paired(a, b[:8])


def test_ranks_share_ties():
    scores = np.array([[0.3, 0.1, 0.3, 0.2], [1.0, 1.0, 1.0, 0.0]])
    np.testing.assert_array_equal(ranks(scores), [stats.rankdata(row) for row in scores])


def test_friedman_s_statistic_is_the_formula_s():
    scores = np.random.default_rng(2).normal(0.0, 1.0, (10, 4)) + np.array([0.0, 0.5, 1.0, 1.5])
    N, k = scores.shape
    R = ranks(scores).mean(axis=0)
    chi2 = 12 * N / (k * (k + 1)) * (np.sum(R**2) - k * (k + 1) ** 2 / 4)
    assert friedman(scores) == pytest.approx(stats.chi2.sf(chi2, k - 1), rel=1e-10)
    with pytest.raises(DomainError, match="needs 3 arms and 2 blocks"):
        friedman(scores[:, :2])


@pytest.mark.parametrize(("k", "q"), [(2, 1.960), (4, 2.569), (10, 3.164)])
def test_the_critical_difference_is_that_of_the_printed_table(k, q):
    """Demšar 2006, table 5(a): the critical values of the two-tailed Nemenyi test at 5 %."""
    assert critical_difference(k, 14) == pytest.approx(q * np.sqrt(k * (k + 1) / (6 * 14)), abs=1e-3)


def test_holm_by_hand():
    """Thresholds 0.05/4, 0.05/3, 0.05/2: the third smallest, 0.03, is above its own, and stops the procedure."""
    assert holm([0.03, 0.001, 0.04, 0.015]) == [False, True, False, True]
    assert holm([]) == []
