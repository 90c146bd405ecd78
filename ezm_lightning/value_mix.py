"""Mixtures of TD and search values into one target: v = α v_td + (1 − α) v_search (EZ-M section 4.4)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ezm_lightning.ops.running_range import RunningRange
from ezm_lightning.ranges import Count, CountFrom0, ShareAbove0
from ezm_lightning.types import Batch


class TDShare(nn.Module):
    """v_mix = v_td: only n-step returns."""

    needs_variance = False

    def forward(self, batch: Batch, variance: Tensor, valid: Tensor, step: int) -> Tensor:
        """α in [0, 1], [B, 1] or [B, K+1], the share of the TD value; ``step`` is the optimiser step."""
        return torch.ones_like(variance[:, :1])


class SearchShare(nn.Module):
    """v_mix = v_search: only the root value of a new search."""

    needs_variance = False

    def forward(self, batch: Batch, variance: Tensor, valid: Tensor, step: int) -> Tensor:
        return torch.zeros_like(variance[:, :1])


class AgeShare(nn.Module):
    """TD until ``start_step`` updates; then TD for a task's ``newest`` latest transitions, search for older ones."""

    needs_variance = False

    def __init__(self, *, start_step: CountFrom0 = 50_000, newest: Count = 200_000) -> None:
        super().__init__()
        self.start_step, self.newest = start_step, newest

    def forward(self, batch: Batch, variance: Tensor, valid: Tensor, step: int) -> Tensor:
        fresh = batch.age < self.newest if step >= self.start_step else torch.ones_like(batch.age, dtype=torch.bool)
        return fresh[:, None].to(variance.dtype)


class VarianceShare(nn.Module):
    """α = (Var − Var_min)/(Var_max − Var_min) over the value heads: uncertain states use TD more (EZ-M eq. 5).

    The extremes are those of a :class:`RunningRange`, whose pace per update is ``momentum``.
    """

    needs_variance = True

    def __init__(self, *, num_tasks: int, momentum: ShareAbove0 = 0.01) -> None:
        super().__init__()
        self.range = RunningRange(num_tasks=num_tasks, momentum=momentum)

    def forward(self, batch: Batch, variance: Tensor, valid: Tensor, step: int) -> Tensor:
        self.range.update_(batch.task, variance, valid)
        low, high = self.range.extremes[batch.task].unbind(-1)
        return ((variance - low[:, None]) / (high - low).clamp(min=1e-8)[:, None]).clamp(0, 1)
