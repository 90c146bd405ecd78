"""What a command prints: the plan before training, the table of returns after it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from ezm_lightning.callbacks import find_or_none
from ezm_lightning.callbacks.checkpoint import Checkpoint
from ezm_lightning.callbacks.evaluate import Evaluate
from ezm_lightning.envs.multitask import MultiTaskEnv
from ezm_lightning.memory_plan import MemoryPlan


def table(columns: Sequence[str], rows: Sequence[Sequence[object]], title: str = "", width: int | None = None) -> None:
    """Prints a table; every column but the first is aligned right. ``width`` is for what is no terminal."""
    grid = Table(title=title or None, title_justify="left")
    for index, column in enumerate(columns):
        grid.add_column(column, justify="left" if index == 0 else "right", no_wrap=index == 0)
    for row in rows:
        grid.add_row(*(f"{x:.1f}" if isinstance(x, float) else str(x) for x in row))
    console = Console()
    (console if console.is_terminal or width is None else Console(width=width)).print(grid)


@rank_zero_only
def print_plan(
    cfg: DictConfig, trainer: L.Trainer, module: L.LightningModule, env: MultiTaskEnv, memory: MemoryPlan
) -> None:
    """Tasks, sizes and budget, before anything starts."""
    parameters = sum(p.numel() for p in module.parameters() if p.requires_grad)
    say = Console(soft_wrap=True).print
    say(f"{len(env.task_specs)} tasks: {', '.join(spec.label for spec in env.task_specs)}")
    say(f"model {parameters:,} parameters · obs {env.obs_dim} · action {env.action_dim}")
    say(
        f"{cfg.env_steps_per_task:,} simulator steps a task · {trainer.max_steps:,} updates of {cfg.batch_size} windows"
        f" · {cfg.env_steps_per_update} simulator steps an update"
    )
    say(f"replay {cfg.replay.capacity:,} transitions a task")
    for device in memory.devices():
        say(f"memory {memory.on(device)}")
    say(f"run {cfg.run_dir}")


@rank_zero_only
def print_finished(cfg: DictConfig, least: int) -> None:
    """Why a run that is resumed ends at once; ``least`` is the smallest budget that continues it."""
    budget = f"env_steps_per_task={cfg.env_steps_per_task}"
    Console(soft_wrap=True).print(
        f"{cfg.ckpt_path} has spent {budget} already; it goes on with env_steps_per_task={least} or more"
    )


def _print_returns(rows: Sequence[dict[str, Any]]) -> None:
    first, last = rows[0]["update"], rows[-1]["update"]
    before = {row["task"]: row["return"] for row in rows if row["update"] == first}
    after = [row for row in rows if row["update"] == last]
    lines = [(row["task"], before[row["task"]], row["return"], row["return_std"], row["episodes"]) for row in after]
    table(("task", "return before", "return after", "± over episodes", "episodes"), lines)


@rank_zero_only
def print_result(cfg: DictConfig, trainer: L.Trainer) -> None:
    """Each task's return before and after training, and where everything is that was written."""
    say = Console(soft_wrap=True).print
    written = {logger: Path(cfg.run_dir, logger) for logger in ("tensorboard", "csv")}
    evaluate, checkpoint = find_or_none(trainer, Evaluate), find_or_none(trainer, Checkpoint)
    if evaluate is not None and evaluate.rows:
        _print_returns(evaluate.rows)
        written = {"curve": evaluate.path} | written
    for what, path in written.items():
        if path.exists():
            say(f"{what:<12}{path}")
    newest = checkpoint.newest() if checkpoint is not None else None
    say(f"checkpoint  {newest or 'none was written'}")
    if trainer.global_step < trainer.max_steps and newest is not None:
        say(f"stopped after update {trainer.global_step:,} of {trainer.max_steps:,}; ckpt_path=last goes on from there")
