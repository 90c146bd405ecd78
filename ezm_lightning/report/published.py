"""Published returns to compare runs with: facts, each with its source. Different sources are never mixed."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from ezm_lightning.errors import nearest

FILE = Path(__file__).with_name("published.csv")
SOURCES = Path(__file__).with_name("published_sources.csv")
ALGORITHMS = {  # the names that `against=` accepts
    "brc": "BRC multi-task",
    "brc_single": "BRC single-task",
    "bro": "BRO (UTD 10)",
    "bro_fast": "BRO-fast (UTD 2)",
    "dreamerv3": "DreamerV3",
    "ezm": "EZ-M",
    "ezm_single": "EZ-M single-task",
    "ezv2": "EfficientZero-V2",
    "mhsac": "MH-SAC",
    "mrq": "MR.Q",
    "sac": "SAC",
    "simba": "SimBa",
    "simbav2": "SimBaV2 (UTD 2)",
    "simbav2_utd1": "SimBaV2 (UTD 1)",
    "simbav2_utd8": "SimBaV2 (UTD 8)",
    "td7": "TD7",
    "tdmpc": "TD-MPC",
    "tdmpc2": "TD-MPC2",
}
EVERY = "all"


@dataclass(frozen=True)
class Point:
    """A published mean return of a task, with its 95 % interval over seeds, NaN if it cannot be computed."""

    task: str
    algorithm: str
    env_steps: int  # simulator steps of that task
    mean: float
    low: float
    high: float
    seeds: str  # as published; "unstated" if they are not
    source: str
    ignores_termination: bool  # an episode goes on to its time limit

    @property
    def label(self) -> str:
        return f"{self.algorithm} [{self.source}]"


@lru_cache(maxsize=1)
def _points() -> list[Point]:
    ignoring = {row["source"] for row in _sources() if row["ignores_termination"]}
    with open(FILE, encoding="utf-8") as file:
        return [
            Point(
                task=row["task"],
                algorithm=row["algorithm"],
                env_steps=int(row["env_steps"]),
                mean=float(row["mean"]),
                low=float(row["ci_low"] or math.nan),
                high=float(row["ci_high"] or math.nan),
                seeds=row["seeds"],
                source=row["source"],
                ignores_termination=row["source"] in ignoring,
            )
            for row in csv.DictReader(file)
        ]


def named(value: str) -> list[str]:
    """The algorithms of a value of ``against=``: names with commas between them, or ``all``.

    Raises ValueError for a name that is not known, with the nearest one.
    """
    names = list(ALGORITHMS) if value == EVERY else [name.strip() for name in value.split(",")]
    for name in names:
        if name not in ALGORITHMS:
            known = (*ALGORITHMS, EVERY)
            near = nearest(name, known, count=1)
            raise ValueError(f"against={name} is not known; nearest: {near} (there are: {', '.join(known)})")
    return names


def points_of(names: Sequence[str], tasks: Iterable[str]) -> list[Point]:
    """The published points of these algorithms on these tasks."""
    algorithms, tasks = {ALGORITHMS[name] for name in names}, set(tasks)
    return [point for point in _points() if point.algorithm in algorithms and point.task in tasks]


def sources_of(points: Iterable[Point]) -> list[dict[str, str]]:
    """The sources of points, one row per source: source, from, licence, note, ignores_termination ("yes" or "")."""
    names = {point.source for point in points}
    return [row for row in _sources() if row["source"] in names]


def _sources() -> list[dict[str, str]]:
    with open(SOURCES, encoding="utf-8") as file:
        return list(csv.DictReader(file))
