"""A setting that is one number for all tasks, or one number per task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor

Number = TypeVar("Number", int, float)


def spread(setting: Number | Sequence[Number], num_tasks: int) -> list[Number]:
    """A number for each task. Raises ValueError for a sequence of another length."""
    if isinstance(setting, (int, float)):
        return [setting] * num_tasks
    if len(setting) != num_tasks:
        raise ValueError(
            f"{list(setting)} has {len(setting)} numbers for {num_tasks} tasks: one for each, or one for all"
        )
    return list(setting)


class PerTask:
    """A setting that is one number for all tasks, or one per task."""

    def __init__(self, setting: float | Sequence[float]) -> None:
        self.setting: float | list[float] = setting if isinstance(setting, (int, float)) else list(setting)
        # The CPU's tensor is made here, so that a trace or an export reads it and does not make one itself.
        self._on: dict[torch.device, Tensor] = {}
        if isinstance(self.setting, list):
            self._on[torch.device("cpu")] = torch.tensor(self.setting, device="cpu")

    def of(self, task: Tensor) -> float | Tensor:
        """The number for all tasks, or one number for each of tasks [B], [B]."""
        if not isinstance(self.setting, list):
            return self.setting
        if task.device not in self._on:
            with torch.inference_mode(False):  # kept: must serve training too
                self._on[task.device] = self._on[torch.device("cpu")].to(task.device)
        return self._on[task.device][task]


def as_column(number: float | Tensor) -> float | Tensor:
    """One number unchanged; numbers of rows [B] as [B, 1]."""
    return number[:, None] if isinstance(number, Tensor) else number
