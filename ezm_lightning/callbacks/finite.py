"""The check of every update: an update that is not finite is skipped and counted."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.nn.utils import get_total_norm

from ezm_lightning.ranges import Count
from ezm_lightning.types import Batch

SKIPPED = "skipped"


def skipped(outputs: Mapping[str, Any]) -> bool:
    """Whether the update of a training step was skipped, from the outputs of the step."""
    return bool(outputs.get(SKIPPED, False))


class SkipNonFiniteUpdates(L.Callback):
    """Skips an update whose loss (of any rank) or gradient is not finite, and marks it in the step's outputs.

    Weights, optimiser, priorities and the statistics that the forward pass updates keep their values; callbacks that
    test :func:`skipped` leave the target model unchanged. ``max_in_a_row`` such updates in a row raise
    FloatingPointError; every checkpoint is still good. It comes before the callbacks that use an update.
    """

    def __init__(self, task_names: Sequence[str], *, max_in_a_row: Count) -> None:
        if max_in_a_row < 1:
            raise ValueError(f"max_nonfinite_updates={max_in_a_row} must be at least 1 (1 stops at the first)")
        self.task_names, self.max_in_a_row = list(task_names), max_in_a_row
        self.skipped = self.in_a_row = 0
        self.norm = torch.tensor(torch.nan)  # of the last update's gradient, before it is clipped
        self._moved: list[Tensor] | None = None  # the buffers that a forward pass updates, looked up once

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._moved = None

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        self._task = batch.task
        if self._moved is None:
            training = [part for part in pl_module.modules() if part.training]
            self._moved = [buffer for part in training for buffer in part.buffers(recurse=False)]
        self._statistics = [buffer.clone() for buffer in self._moved]

    def on_before_backward(self, trainer: L.Trainer, pl_module: L.LightningModule, loss: Tensor) -> None:
        self._loss = loss.detach()

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        parameters = (parameter for group in optimizer.param_groups for parameter in group["params"])
        norm = self.norm = get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])
        losses = pl_module.all_gather(self._loss)  # gradients are reduced over all ranks already
        finite = bool(losses.isfinite().all() & norm.isfinite())  # waits for the device only once
        self.in_a_row = 0 if finite else self.in_a_row + 1
        if finite:
            return
        optimizer.zero_grad()  # an optimiser skips parameters without a gradient
        for buffer, before in zip(self._moved or [], self._statistics, strict=True):
            buffer.copy_(before)
        self.skipped += 1
        report = self._report(trainer.global_step, pl_module, norm)
        if self.in_a_row >= self.max_in_a_row:
            raise FloatingPointError(f"{report}, the last of max_nonfinite_updates={self.max_in_a_row} in a row")
        warnings.warn(f"{report}: update skipped", stacklevel=2)

    def _report(self, update: int, pl_module: L.LightningModule, norm: Tensor) -> str:
        tasks = ", ".join(self.task_names[task] for task in sorted(set(self._task.tolist())))
        losses: Mapping[str, Tensor] = getattr(pl_module, "last_losses", {})
        values = ", ".join(
            [*(f"{name}={float(value):.4g}" for name, value in losses.items()), f"gradient norm={float(norm):.4g}"]
        )
        return f"non-finite loss or gradient at update {update} ({values}) in a batch of {tasks}"

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: dict[str, Any], *_: object
    ) -> None:
        outputs[SKIPPED] = self.in_a_row > 0
        if trainer.global_step % trainer.log_every_n_steps == 0:
            pl_module.log("optim/gradient_norm", self.norm)
        if self.skipped:
            pl_module.log("updates_skipped", float(self.skipped))

    def state_dict(self) -> dict[str, int]:
        return {"skipped": self.skipped, "in_a_row": self.in_a_row}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.skipped, self.in_a_row = state["skipped"], state["in_a_row"]
