"""The recent range of a quantity, for each task."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class RunningRange(nn.Module):
    """The 5th and 95th percentile of values [B, k] of each task, as exponential moving averages.

    One early outlier would fix an all-time maximum for ever; a percentile forgets it. ``momentum`` in (0, 1] is the
    pace per update.
    """

    extremes: Tensor  # [T, 2]
    seen: Tensor  # [T] bool

    def __init__(self, *, num_tasks: int, momentum: float = 0.01) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("extremes", torch.zeros(num_tasks, 2))
        self.register_buffer("seen", torch.zeros(num_tasks, dtype=torch.bool))

    @torch.no_grad()
    def update_(self, task: Tensor, value: Tensor, valid: Tensor) -> None:
        """Merges the valid values [B, k] of tasks [B]. The first percentiles of a task are taken unchanged."""
        rows = task == torch.arange(len(self.extremes), device=task.device)[:, None]  # [T, B]
        member = (rows[..., None] & valid).flatten(1)  # [T, B·k]
        flat = torch.where(member, value.flatten(), torch.nan)
        now = torch.stack([torch.nanquantile(flat, share, dim=1) for share in (0.05, 0.95)], -1)  # [T, 2]
        present = member.any(1)
        pace = torch.where(self.seen, self.momentum, 1.0)[:, None]
        moved = self.extremes + pace * (now - self.extremes)
        self.extremes.copy_(torch.where(present[:, None], moved, self.extremes))
        self.seen |= present

    def width(self) -> Tensor:
        """The 95th percentile minus the 5th of each task [T]."""
        return self.extremes[:, 1] - self.extremes[:, 0]
