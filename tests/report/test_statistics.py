"""Aggregates and intervals by hand, by counting every resample, and beside SciPy."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from ezm_lightning.report.statistics import (
    area,
    bootstrap,
    estimate,
    improvement,
    iqm,
    mean_over_tasks,
    probability_of_improvement,
)


def column(*values: float) -> np.ndarray:
    return np.array(values)[:, None]


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_iqm_by_hand() -> None:
    assert iqm([column(0, 1, 2, 100)]) == [1.5]  # one off each end
    assert iqm([column(0, 1), column(2, 100)]) == [1.5]  # of all runs of all tasks
    assert iqm([column(1, 2, 9)]) == [4]  # a quarter of three is none
    assert iqm([column(*range(8)) ** 2]) == [(4 + 9 + 16 + 25) / 4]


def test_an_unknown_score_is_in_no_order() -> None:
    assert np.isnan(iqm([column(1, 2, 3, np.nan)])).all()


def test_iqm_is_scipys_trimmed_mean() -> None:
    stats = pytest.importorskip("scipy.stats")
    for n in (1, 3, 4, 7, 20):
        x = rng().normal(size=(n, 3))
        np.testing.assert_allclose(iqm([x]), stats.trim_mean(x, 0.25, axis=0))


def test_a_task_with_more_runs_weighs_no_more_in_the_mean() -> None:
    assert mean_over_tasks([column(0, 0, 0, 0), column(1, 3)]) == [1]


def test_the_interval_of_two_runs_is_the_two_runs() -> None:
    """Of the four resamples one is twice the lower run and one twice the higher: a quarter each, more than 2.5 %."""
    assert bootstrap([column(3, 7)], mean_over_tasks, rng()).ravel().tolist() == [5, 3, 7]


def test_one_run_has_no_interval() -> None:
    value, low, high = estimate([np.array([3.0, 5.0]), np.array([2.0])], mean_over_tasks, rng())
    assert value == 3 and np.isnan(low) and np.isnan(high)


@pytest.mark.parametrize("statistic", [iqm, mean_over_tasks])
def test_the_interval_is_that_of_all_resamples(statistic) -> None:
    """Two tasks of three and two runs have 3³ · 2² resamples: each is made, and the quantiles are of all of them."""
    a, b = np.array([0.0, 4.0, 10.0]), np.array([1.0, 6.0])
    every = [
        float(statistic([a[list(i)][:, None], b[list(j)][:, None]])[0])
        for i in itertools.product(range(3), repeat=3)
        for j in itertools.product(range(2), repeat=2)
    ]
    found = bootstrap([a[:, None], b[:, None]], statistic, rng(), resamples=200_000)
    ends = np.quantile(every, [0.025, 0.975], method="inverted_cdf")
    np.testing.assert_allclose(found[1:, 0], ends)


def test_the_interval_is_scipys_percentile_interval() -> None:
    stats = pytest.importorskip("scipy.stats")
    x = rng().normal(size=12)
    theirs = stats.bootstrap((x,), np.mean, method="percentile", n_resamples=20_000, rng=rng()).confidence_interval
    found = bootstrap([x[:, None]], mean_over_tasks, rng(), resamples=20_000)
    np.testing.assert_allclose(found[1:, 0], theirs, atol=0.02)


def test_tasks_are_resampled_apart() -> None:
    """Runs that differ between tasks alone give an interval of width 0: no task is drawn in another's place."""
    assert bootstrap([column(1, 1), column(9, 9)], mean_over_tasks, rng()).ravel().tolist() == [5, 5, 5]


def test_points_are_carried_along() -> None:
    x = rng().normal(size=(5, 4))
    found = bootstrap([x], mean_over_tasks, rng())
    assert found.shape == (3, 4) and (found[1] < found[0]).all() and (found[0] < found[2]).all()


def test_memory_is_bounded_without_changing_the_resamples(monkeypatch) -> None:
    x = rng().normal(size=(4, 1))
    whole = bootstrap([x], iqm, rng())
    monkeypatch.setattr("ezm_lightning.report.statistics.MEMORY", 400)
    np.testing.assert_array_equal(bootstrap([x], iqm, rng()), whole)


def test_probability_of_improvement_by_hand() -> None:
    """Task 1: of 2 × 2 pairs ours wins 2 and ties 1; task 2: it loses both. (2.5 / 4 + 0) / 2."""
    ours, theirs = [column(3, 5), column(0)], [column(3, 4), column(1, 2)]
    assert improvement(ours, theirs) == [2.5 / 8]
    assert improvement(theirs, ours) == [1 - 2.5 / 8]
    certain = probability_of_improvement([np.array([5.0, 6.0])], [np.array([1.0, 2.0, 3.0])], rng())
    assert certain == (1, 1, 1)


def test_improvement_is_mann_whitneys_statistic() -> None:
    stats = pytest.importorskip("scipy.stats")
    x, y = rng().normal(size=7), rng().normal(0.3, size=5)
    expected = stats.mannwhitneyu(x, y).statistic / 35
    assert improvement([x[:, None]], [y[:, None]])[0] == pytest.approx(expected)


def test_area_by_hand() -> None:
    assert area(np.array([0, 10, 30]), np.array([0.0, 10.0, 20.0])) == pytest.approx((50 + 300) / 30)
    assert area(np.array([7]), np.array([4.0])) == 4
