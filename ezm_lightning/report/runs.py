"""Reads runs of any version: their learning curves and their records.

A run is a folder with ``eval.csv`` (its config in ``hydra/``), or a single curve: a CSV file with the same columns,
whose command and commit are looked up in the nearest ``runs.jsonl``.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ezm_lightning.errors import nearest
from ezm_lightning.report.records import Record, read_record

NEAR = 0.01  # evaluations at steps that differ by at most 1 % are compared
NEEDED = ("env_steps", "task", "return")
OPTIONAL = ("return_ignoring_termination", "success", "update")  # of the rows of a Curve, in their order
SKIPPED_FOLDERS = {"checkpoints", "tensorboard", "csv", "hydra", ".hydra", "videos"}
MARKER = "report.json"  # a folder with this file was written by `ezm report`


@dataclass(frozen=True)
class Curve:
    """One run's evaluations of one task, in the order of their simulator steps; arrays [n]."""

    env_steps: np.ndarray
    returns: np.ndarray  # up to the task's own termination
    ignoring: np.ndarray  # the whole episode, also after a termination; NaN if it was not recorded
    success: np.ndarray  # the share of episodes that succeeded; NaN if the task does not report it
    updates: np.ndarray  # NaN if they were not recorded

    def index_near(self, env_steps: float) -> int:
        """The evaluation nearest to ``env_steps``."""
        return int(np.abs(self.env_steps - env_steps).argmin())

    def has(self, env_steps: float) -> bool:
        """Whether an evaluation is at most 1 % away from ``env_steps``."""
        return bool(abs(self.env_steps[self.index_near(env_steps)] - env_steps) <= NEAR * env_steps)

    def until(self, env_steps: float) -> Curve:
        """The evaluations up to the one nearest to ``env_steps``."""
        stop = self.index_near(env_steps) + 1
        return Curve(*(column[:stop] for column in self.columns))

    @property
    def columns(self) -> tuple[np.ndarray, ...]:
        return (self.env_steps, self.returns, self.ignoring, self.success, self.updates)

    def begins_with(self, other: Curve) -> bool:
        """Whether the other's evaluations are the first of this curve, number for number."""
        stop = len(other.env_steps)
        return all(
            np.array_equal(a[:stop], b, equal_nan=True) for a, b in zip(self.columns, other.columns, strict=True)
        )

    def protocol(self, *, ignoring: bool) -> np.ndarray:
        """The returns under one of the two termination protocols."""
        return self.ignoring if ignoring else self.returns


@dataclass(frozen=True)
class Run:
    """A run that can be reported."""

    path: Path
    name: str  # of its group, unless groups differ in settings
    curves: dict[str, Curve]  # by task
    record: Record
    problems: list[str] = field(default_factory=list)  # what was left out of its file

    @property
    def last_step(self) -> int:
        """The simulator steps of its last evaluation."""
        return int(max(curve.env_steps[-1] for curve in self.curves.values()))

    @property
    def seed_label(self) -> str:
        return "?" if self.record.seed is None else str(self.record.seed)


def find_curves(argument: str) -> tuple[list[Path], list[Path]]:
    """The curves of a folder or a file, and run folders below it that have none yet.

    Raises ValueError if there is no such folder, with the nearest name, or if nothing in it can be reported.
    """
    path = Path(argument)
    if path.is_file():
        if not _is_curve(path):
            raise ValueError(f"{argument} is not a curve: its first line has no {', '.join(NEEDED)}")
        return [path], []
    if not path.is_dir():
        folders = sorted(str(p) for p in path.parent.glob("*") if p.is_dir()) if path.parent.is_dir() else []
        hint = f"; nearest: {nearest(argument, folders, count=1)}" if folders else f"; nor is there {path.parent}"
        raise ValueError(f"there is no folder {argument}{hint}")
    if (path / "eval.csv").is_file():
        return [path / "eval.csv"], []
    files, without = [], []
    for folder, names in _walk(path):
        curves = [folder / name for name in sorted(names) if name.endswith(".csv") and _is_curve(folder / name)]
        files += [folder / "eval.csv"] if folder / "eval.csv" in curves else curves
        if not curves and any((folder / hidden / "config.yaml").is_file() for hidden in ("hydra", ".hydra")):
            without.append(folder)
    if not files:
        raise ValueError(f"{argument} holds no eval.csv, which a run writes at its first evaluation")
    return files, without


def _walk(path: Path) -> Iterator[tuple[Path, list[str]]]:
    seen = set()
    for folder, below, names in os.walk(path, followlinks=True):
        here = os.path.realpath(folder)
        if here in seen:
            below.clear()
            continue
        seen.add(here)
        below[:] = sorted(name for name in below if name not in SKIPPED_FOLDERS)
        if MARKER in names:
            below.clear()
            continue
        yield Path(folder), names


def _is_curve(path: Path) -> bool:
    try:
        with open(path, newline="", encoding="utf-8") as file:
            columns = set(next(csv.reader(file), []))
            return set(NEEDED) <= columns and "train" not in columns  # one of ezm transfer's, of all its runs
    except (OSError, UnicodeDecodeError, csv.Error):
        return False


def read_run(file: Path) -> Run | None:
    """The run of a curve's file; None if the file has no readable evaluation."""
    rows, problems = _read_rows(file)
    by_task: dict[str, dict[int, tuple[float, ...]]] = {}
    for row in rows:
        task, step = str(row["task"]), int(row["env_steps"])
        if step in by_task.setdefault(task, {}):
            problems.append(f"two evaluations of {task} at {step:,} simulator steps: the later line counts")
        by_task[task][step] = tuple(float(row[name]) for name in ("return", *OPTIONAL))
    if not by_task:
        return None
    record = read_record(file)
    return Run(file, record.name, {task: _curve(points) for task, points in by_task.items()}, record, problems)


def _curve(points: dict[int, tuple[float, ...]]) -> Curve:
    steps = sorted(points)
    return Curve(np.array(steps), *np.array([points[step] for step in steps]).T)


def _read_rows(file: Path) -> tuple[list[dict[str, float | str]], list[str]]:
    """The rows with a finite return, and the problems of the other rows."""
    rows: list[dict[str, float | str]] = []
    problems = []
    with open(file, newline="", encoding="utf-8", errors="replace") as text:
        for number, row in enumerate(csv.DictReader(text), start=2):
            try:
                env_steps, value = int(float(row["env_steps"])), float(row["return"])
                further = {name: float(row.get(name) or "nan") for name in OPTIONAL}
            except (TypeError, ValueError, OverflowError):
                problems.append(f"line {number} is no evaluation")
                continue
            if not np.isfinite(value) or not row["task"]:
                problems.append(f"line {number} has the return {value}")
                continue
            rows.append({"env_steps": env_steps, "task": row["task"], "return": value, **further})
    return rows, problems
