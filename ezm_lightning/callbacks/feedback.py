"""The backward edges: priorities to replay, weights to the target model; and the guard on the loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import lightning as L
import torch

from ezm_lightning.module import EZM
from ezm_lightning.types import Batch


class UpdatePriorities(L.Callback):
    """Gives each window its new priority after every update."""

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: EZM, outputs: Mapping[str, Any], batch: Batch, batch_idx: int
    ) -> None:
        trainer.datamodule.replay.update_priority(outputs["index"], outputs["priority"])


class UpdateTarget(L.Callback):
    """Moves the target model after every update."""

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: EZM, *_: object) -> None:
        pl_module.update_target_()


class StopOnNonFiniteLoss(L.Callback):
    """Raises FloatingPointError before a non-finite loss reaches the weights; the last checkpoint stays good."""

    def __init__(self, task_names: Sequence[str]) -> None:
        self.task_names = list(task_names)

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: EZM, batch: Batch, batch_idx: int) -> None:
        self._task = batch.task

    def on_before_backward(self, trainer: L.Trainer, pl_module: EZM, loss: torch.Tensor) -> None:
        if torch.isfinite(loss):
            return
        tasks = ", ".join(self.task_names[task] for task in sorted(set(self._task.tolist())))
        losses = ", ".join(f"{name}={float(value):.4g}" for name, value in pl_module.last_losses.items())
        raise FloatingPointError(f"non-finite loss at update {trainer.global_step} ({losses}) in a batch of {tasks}")
