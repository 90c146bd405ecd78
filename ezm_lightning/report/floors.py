"""Reference values of returns: random and zero actions below, success above."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

FILE = Path(__file__).with_name("floors.csv")  # python -m benchmarks.floors


@dataclass(frozen=True)
class Floor:
    """A task's returns without skill and at success; None if they are not known."""

    random: float | None = None  # measured
    zero: float | None = None  # measured
    score_0: float | None = None  # the return whose score is 0
    score_1: float | None = None

    @property
    def has_score(self) -> bool:
        return self.score_0 is not None and self.score_1 is not None

    def score(self, returns: np.ndarray) -> np.ndarray:
        """(return − random) / (success − random); NaN if one of the two is not known."""
        if self.score_0 is None or self.score_1 is None:
            return np.full_like(returns, np.nan)
        return (returns - self.score_0) / (self.score_1 - self.score_0)


@lru_cache(maxsize=1)
def _measured() -> dict[str, dict[str, str]]:
    with open(FILE, encoding="utf-8") as file:
        return {row["task"]: row for row in csv.DictReader(file)}


def floor_of(task: str) -> Floor:
    """A task's floor. Score 0 is the measured return of random actions; score 1 is 1000 for Control Suite tasks and the
    ``reward_threshold`` of Gymnasium's registry for tasks of ``gym/``. For HumanoidBench both are published constants.
    Other tasks have no score."""
    row = _measured().get(task, {})
    return Floor(**{name: float(row[name]) for name in ("random", "zero", "score_0", "score_1") if row.get(name)})
