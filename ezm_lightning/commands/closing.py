"""The lines at the end of a run: returns beside their floors, its time, its files, the next commands."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from ezm_lightning.callbacks import find, find_or_none
from ezm_lightning.callbacks.checkpoint import Checkpoint
from ezm_lightning.callbacks.collect import Collect
from ezm_lightning.callbacks.evaluate import Evaluate
from ezm_lightning.callbacks.pace import Pace
from ezm_lightning.callbacks.progress import duration
from ezm_lightning.callbacks.record import RunRecord
from ezm_lightning.commands.cli import VERBS
from ezm_lightning.commands.printing import returns_grid, show
from ezm_lightning.envs.spec import TaskSpec
from ezm_lightning.evaluation.scores import normalised

UNKNOWN, DEVIATION = "–", "±\nepisodes"
WRITTEN = ("tensorboard", "csv", "videos", "run.json", "train.log")  # in the run's folder, if they exist


@rank_zero_only
def print_result(cfg: DictConfig, trainer: L.Trainer) -> None:
    """Prints the table of returns, the time, the paths of written files and the next commands."""
    say = Console(soft_wrap=True, highlight=False, markup=False).print
    evaluate, checkpoint = find_or_none(trainer, Evaluate), find_or_none(trainer, Checkpoint)
    written = {name: Path(cfg.run_dir, name) for name in WRITTEN}
    if evaluate is not None and evaluate.rows:
        show(returns_table(trainer, evaluate))
        for line in below_floors(evaluate):
            say(line)
        written = {"curve": evaluate.path} | written
    say(pace_line(trainer))
    for label, path in written.items():
        if path.exists():
            say(f"{label:<12}{path}")
    newest = checkpoint.newest() if checkpoint is not None else None
    say(f"checkpoint  {newest or 'none was written'}")
    if checkpoint is not None and newest is not None and trainer.global_step < trainer.max_steps:
        count = f"update {trainer.global_step:,} of {trainer.max_steps:,}"
        say(f"stopped after {count}; {checkpoint.how_to_resume} resumes from there")
    for command in next_commands(Path(cfg.run_dir), newest, draws=find(trainer, Collect).env.draws):
        say(f"next        {command}")


def returns_table(trainer: L.Trainer, evaluate: Evaluate) -> Table:
    """A line per task: returns before and after, score, floors, share of successes; below them the mean. A run that
    was stopped has the return of its last evaluation instead of that after training."""
    first, last = (_rows_of(evaluate, evaluate.rows[place]["update"]) for place in (0, -1))
    specs = {spec.label: spec for spec in find(trainer, Collect).env.task_specs}
    when = "after" if evaluate.evaluated(trainer) else f"at {last[0]['env_steps']:,}"
    lines = [
        _line(before, after, when, specs[after["task"]], evaluate) for before, after in zip(first, last, strict=True)
    ]
    columns = [key for key in lines[0] if any(line[key] is not None for line in lines)]
    grid = returns_grid(*columns)
    for line in lines:
        grid.add_row(*(_cell(key, line[key]) for key in columns))
    if len(lines) > 1:
        grid.add_section()
        means = [None if key == DEVIATION else _mean([line[key] for line in lines]) for key in columns[1:]]
        grid.add_row("mean", *(_cell(key, mean) for key, mean in zip(columns[1:], means, strict=True)))
    return grid


def _rows_of(evaluate: Evaluate, update: int) -> list[dict[str, Any]]:
    return [row for row in evaluate.rows if row["update"] == update]


def _line(
    before: dict[str, Any], after: dict[str, Any], when: str, spec: TaskSpec, evaluate: Evaluate
) -> dict[str, Any]:
    floors = evaluate.floors.get(spec.label, {})
    return {
        "task": after["task"],
        "return\nbefore": before["return"],
        f"return\n{when}": after["return"],
        DEVIATION: after["return_std"],
        "score": normalised(after["return"], spec),
        "random": floors.get("random"),
        "zero": floors.get("zero"),
        "success": after["success"],
    }


def _mean(values: Sequence[float | None]) -> float | None:
    """The mean; None if a task has no value."""
    numbers = [value for value in values if value is not None]
    return sum(numbers) / len(numbers) if len(numbers) == len(values) else None


def _cell(column: str, value: Any) -> str:
    if isinstance(value, str):
        return value
    return UNKNOWN if value is None else f"{value:.3f}" if column in ("score", "success") else f"{value:.1f}"


def below_floors(evaluate: Evaluate) -> list[str]:
    """A line for each floor that the agent does not reach on at least one task."""
    last = _rows_of(evaluate, evaluate.rows[-1]["update"])
    lines = []
    for floor in ("random", "zero"):
        below = [row["task"] for row in last if row["return"] < evaluate.floors.get(row["task"], {}).get(floor, -1e30)]
        if below:
            lines.append(f"below {floor} actions: {', '.join(below)}")
    return lines


def pace_line(trainer: L.Trainer) -> str:
    """Wall-clock time of all starts of the run; updates and simulator steps per second since the last start."""
    record, pace = find_or_none(trainer, RunRecord), find_or_none(trainer, Pace)
    parts = [f"{trainer.global_step:,} updates"]
    if record is not None:
        parts.append(f"{duration(record.total_seconds())} wall-clock")
    updates = pace.mean_updates_per_second(trainer) if pace is not None else math.nan
    if math.isnan(updates):
        parts.append("too short to tell updates/s")
    else:
        steps = updates * find(trainer, Collect).env_steps_per_update
        parts.append(f"{updates:.1f} updates/s and {steps:,.0f} simulator steps/s without evaluations")
    return " · ".join(parts)


def next_commands(run: Path, checkpoint: Path | None, *, draws: bool) -> list[str]:
    """The next commands: to look at the curves, to see the agent act (in a video if a task ``draws``), to report."""
    folder = shlex.quote(str(run))
    commands = [f"tensorboard --logdir {folder}"] if (run / "tensorboard").exists() else []
    if checkpoint is not None:
        commands.append(f"ezm eval ckpt_path={folder}{' eval.video=true' * draws}")
    return commands + ([f"ezm report {folder}"] if "report" in VERBS else [])
