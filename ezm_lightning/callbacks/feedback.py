"""The backward edges: priorities to replay, weights to the target model; and the guard on every update."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.nn.utils import get_total_norm

from ezm_lightning.module import EZM
from ezm_lightning.types import Batch


class UpdatePriorities(L.Callback):
    """Gives each window its new priority after every update that is not skipped."""

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: EZM, outputs: Mapping[str, Any], batch: Batch, batch_idx: int
    ) -> None:
        if not pl_module.update_skipped:
            trainer.datamodule.replay.update_priority(outputs["index"], outputs["priority"])


class UpdateTarget(L.Callback):
    """Moves the target model after every update that is not skipped, once the ranks' batch norms agree."""

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: EZM, *_: object) -> None:
        if not pl_module.update_skipped:
            pl_module.merge_batch_norms_()
            pl_module.update_target_()


class SkipNonFiniteUpdates(L.Callback):
    """Skips an update whose loss (of any rank) or gradient is not finite: it leaves no trace but its count.

    Weights, optimiser, target model, priorities and the running statistics that the forward pass has moved stay as they
    were. ``max_in_a_row`` such updates in a row raise FloatingPointError; every checkpoint is still good.
    """

    def __init__(self, task_names: Sequence[str], *, max_in_a_row: int) -> None:
        if max_in_a_row < 1:
            raise ValueError(f"max_nonfinite_updates={max_in_a_row} must be at least 1 (1 stops at the first)")
        self.task_names, self.max_in_a_row = list(task_names), max_in_a_row
        self.skipped = self.in_a_row = 0

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: EZM, batch: Batch, batch_idx: int) -> None:
        self._task = batch.task
        moved = (pl_module.model, pl_module.td_share, pl_module.value_gradient)
        buffers = [buffer for module in moved for buffer in module.buffers()]
        self._statistics = [(buffer, buffer.clone()) for buffer in buffers]

    def on_before_backward(self, trainer: L.Trainer, pl_module: EZM, loss: Tensor) -> None:
        self._loss = loss.detach()

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: EZM, optimizer: torch.optim.Optimizer) -> None:
        norm = get_total_norm([p.grad for p in pl_module.model.parameters() if p.grad is not None])
        losses = pl_module.all_gather(self._loss)  # gradients are those of all ranks already
        pl_module.update_skipped = not bool(losses.isfinite().all() & norm.isfinite())  # waits for the device, once
        if not pl_module.update_skipped:
            self.in_a_row = 0
            return
        optimizer.zero_grad()  # an optimiser passes over parameters that have no gradient
        for buffer, before in self._statistics:
            buffer.copy_(before)
        self.skipped, self.in_a_row = self.skipped + 1, self.in_a_row + 1
        report = self._report(trainer.global_step, pl_module, norm)
        if self.in_a_row >= self.max_in_a_row:
            raise FloatingPointError(f"{report}, the last of max_nonfinite_updates={self.max_in_a_row} in a row")
        warnings.warn(f"{report}: update skipped", stacklevel=2)

    def _report(self, update: int, pl_module: EZM, norm: Tensor) -> str:
        tasks = ", ".join(self.task_names[task] for task in sorted(set(self._task.tolist())))
        losses = ", ".join(f"{name}={float(value):.4g}" for name, value in pl_module.last_losses.items())
        return (
            f"non-finite loss or gradient at update {update} ({losses}, gradient norm={float(norm):.4g}) "
            f"in a batch of {tasks}"
        )

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: EZM, *_: object) -> None:
        if self.skipped:
            pl_module.log("updates_skipped", float(self.skipped))

    def state_dict(self) -> dict[str, int]:
        return {"skipped": self.skipped, "in_a_row": self.in_a_row}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.skipped, self.in_a_row = state["skipped"], state["in_a_row"]
