"""Printed output of commands: tables, and a run's plan before it trains. The lines at its end are in `closing.py`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import lightning as L
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from ezm_lightning.config.pretraining import is_pretraining
from ezm_lightning.envs.multitask import MultiTaskEnv
from ezm_lightning.memory_plan import MemoryPlan

LEAST_WIDTH, WIDTH = 80, 120  # columns of a table at least, and if it is not printed to a terminal


def table(columns: Sequence[str], rows: Sequence[Sequence[object]], title: str = "") -> None:
    """Prints a table; every column but the first is aligned right."""
    grid = aligned(Table(*columns, title=title or None, title_justify="left"))
    for row in rows:
        grid.add_row(*(f"{x:.1f}" if isinstance(x, float) else str(x) for x in row))
    show(grid)


def returns_grid(*columns: str, title: str = "") -> Table:
    """A table of a line per task; every column but the first is aligned right."""
    looks: dict[str, Any] = {"title_justify": "left", "box": SIMPLE_HEAD, "pad_edge": False, "collapse_padding": True}
    return aligned(Table(*columns, title=title or None, **looks))


def aligned(grid: Table) -> Table:
    """The table with its first column, of names, in one piece, and the others aligned right."""
    first, *others = grid.columns
    first.no_wrap = True
    for column in others:
        column.justify = "right"
    return grid


def show(grid: Table) -> None:
    """Prints a finished table. A terminal of fewer than 80 columns breaks its lines, and nothing is cut."""
    console = Console()
    Console(width=max(console.width, LEAST_WIDTH) if console.is_terminal else WIDTH).print(grid)


@rank_zero_only
def print_plan(
    cfg: DictConfig, trainer: L.Trainer, module: L.LightningModule, env: MultiTaskEnv, memory: MemoryPlan
) -> None:
    """Prints tasks, sizes and budget before anything starts."""
    parameters = sum(p.numel() for p in module.parameters() if p.requires_grad)
    say = Console(soft_wrap=True, markup=False).print
    labels = [spec.label for spec in env.task_specs]
    say(f"{len(labels)} task{'s' * (len(labels) > 1)}: {', '.join(labels)}")
    say(f"model {parameters:,} parameters · obs {env.obs_dim} · action {env.action_dim}")
    updates = f"{trainer.max_steps:,} updates of {cfg.batch_size} windows"
    say(
        f"pretraining on demonstrations · {updates}"
        if is_pretraining(cfg)
        else f"{cfg.env_steps_per_task:,} simulator steps per task · {updates}"
        f" · {cfg.env_steps_per_update} simulator steps per update"
    )
    say(f"replay {cfg.replay.capacity:,} transitions per task")
    for device in memory.devices():
        say(f"memory {memory.on(device)}")
    say(f"run {cfg.run_dir}")


@rank_zero_only
def print_pretrained(cfg: DictConfig, trainer: L.Trainer) -> None:
    """What a stage of demonstrations says at its end."""
    Console(soft_wrap=True, markup=False).print(
        f"pretraining {trainer.global_step:,} of {trainer.max_steps:,} updates: {cfg.run_dir}"
    )


@rank_zero_only
def print_changes(lines: Sequence[str]) -> None:
    """Prints the settings in which a resumed run differs from its checkpoint."""
    for line in lines:
        Console(soft_wrap=True, markup=False).print(f"resumes with {line}")


@rank_zero_only
def print_finished(cfg: DictConfig, least: int) -> None:
    """Prints why a resumed run ends at once; ``least`` is the smallest budget that continues it."""
    budget = f"env_steps_per_task={cfg.env_steps_per_task}"
    Console(soft_wrap=True, markup=False).print(
        f"{cfg.ckpt_path} has spent {budget} already; it resumes with env_steps_per_task={least} or more"
    )
