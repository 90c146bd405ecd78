"""The progress bar: per-task returns, environment steps, updates per second, time left."""

from __future__ import annotations

import lightning as L
from lightning.pytorch.callbacks import TQDMProgressBar

from ezm_lightning.callbacks import find
from ezm_lightning.callbacks.collect import Collect


def short_name(task: str) -> str:
    """'dmc/cartpole-swingup_sparse' -> 'cartpole-swingup_sparse'."""
    return task.rsplit("/", 1)[-1]


class ProgressBar(TQDMProgressBar):
    """Lightning's tqdm bar (updates done, time left, updates per second), then returns and environment steps."""

    def __init__(self, refresh_rate: int = 10) -> None:
        super().__init__(refresh_rate=refresh_rate)

    def get_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, int | str | float]:
        """Environment steps a task of all ranks, then the last training return of each task of this one."""
        collect = find(trainer, Collect)
        metrics: dict[str, int | str | float] = {"env_steps": f"{collect.env_steps_due(trainer):,}"}
        for spec, value in zip(collect.env.task_specs, collect.last_return.tolist(), strict=True):
            metrics[short_name(spec.name)] = "–" if value != value else f"{value:.0f}"
        return metrics
