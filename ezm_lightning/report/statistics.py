"""Aggregates over runs and tasks with their intervals, as in rliable (Agarwal et al. 2021, arXiv 2108.13264).

Scores are strata: one array per task, whose first axis is its runs [n_t, ...]; further axes, such as the points of a
curve, are kept. A bootstrap draws the runs of each task with replacement, so that every task keeps its number of runs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

LEVEL = 0.95
RESAMPLES = 2_000
TRIMMED = 0.25  # of each end
MEMORY = 4_000_000  # numbers drawn at once

Strata = Sequence[np.ndarray]
Statistic = Callable[[Strata], np.ndarray]  # of strata [..., n_t, points] -> [..., points]


class Estimate(NamedTuple):
    """A number with its 95 % interval; the interval is NaN if a task has only one run."""

    value: float
    low: float
    high: float


def mean_over_tasks(strata: Strata) -> np.ndarray:
    """The mean over tasks of their means over runs."""
    return np.mean([x.mean(-2) for x in strata], axis=0)


def iqm(strata: Strata) -> np.ndarray:
    """The mean of the middle half of all runs of all tasks: a quarter, rounded down, is cut off at each end. NaN if one
    of them is NaN, which has no place in their order."""
    scores = np.sort(np.concatenate(list(strata), axis=-2), axis=-2)
    cut = int(TRIMMED * scores.shape[-2])
    middle = scores[..., cut : scores.shape[-2] - cut, :].mean(-2)
    return np.where(np.isnan(scores).any(-2), np.nan, middle)


def bootstrap(strata: Strata, statistic: Statistic, rng: np.random.Generator, resamples: int = RESAMPLES) -> np.ndarray:
    """The value and the two ends of its percentile interval [3, points]; strata [n_t, points]."""
    value = statistic(strata)
    if min(len(x) for x in strata) < 2:
        return np.stack([value, np.full_like(value, np.nan), np.full_like(value, np.nan)])
    size = sum(x.size for x in strata)
    chunk = max(1, MEMORY // size)
    drawn = [
        statistic([x[rng.integers(len(x), size=(min(chunk, resamples - start), len(x)))] for x in strata])
        for start in range(0, resamples, chunk)
    ]
    ends = np.quantile(np.concatenate(drawn), [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return np.stack([value, *ends])


def estimate(strata: Strata, statistic: Statistic, rng: np.random.Generator) -> Estimate:
    """The bootstrap of a single point; strata [n_t]."""
    return Estimate(*(float(x[0]) for x in bootstrap([x[:, None] for x in strata], statistic, rng)))


def improvement(ours: Strata, theirs: Strata) -> np.ndarray:
    """P(ours > theirs): the mean over tasks of the share of pairs of runs that ours wins; a tie counts half."""
    wins = []
    for x, y in zip(ours, theirs, strict=True):
        difference = x[..., :, None, :] - y[..., None, :, :]
        wins.append(((difference > 0) + 0.5 * (difference == 0)).mean((-3, -2)))
    return np.mean(wins, axis=0)


def probability_of_improvement(ours: Strata, theirs: Strata, rng: np.random.Generator) -> Estimate:
    """P(a run of ours is better than one of theirs on the same task); both sides are resampled; strata [n_t]."""
    count = len(ours)
    return estimate([*ours, *theirs], lambda strata: improvement(strata[:count], strata[count:]), rng)


def area(env_steps: np.ndarray, returns: np.ndarray) -> float:
    """The mean of a curve over its simulator steps, by trapezoids; its value if it has only one point."""
    if len(env_steps) < 2:
        return float(returns[0])
    return float(np.trapezoid(returns, env_steps) / (env_steps[-1] - env_steps[0]))
