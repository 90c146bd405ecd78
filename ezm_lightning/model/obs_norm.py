"""Statistics of observations for each task; in ``networks.ObsNorm`` all tasks share them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ezm_lightning.ranges import Positive


class TaskObsNorm(nn.Module):
    """Running normalisation of observations with a mean and a variance per task and dimension.

    Column 3 may be a joint angle in one task and a velocity in another, so that statistics over unlike tasks mean
    nothing. One task has fewer observations than all together, and a dimension may be constant for a long time. So
    the result is clipped to [-``clip``, ``clip``]. The statistics are merged as in ``networks.ObsNorm``; a dimension
    without data is only clipped.
    """

    mean: Tensor  # [T, D]
    var: Tensor  # [T, D]
    count: Tensor  # [T, D] float64
    moves = True  # false: the statistics are frozen

    def __init__(self, dim: int, num_tasks: int, *, clip: Positive = 10.0, epsilon: float = 1e-5) -> None:
        super().__init__()
        self.clip, self.epsilon = clip, epsilon
        self.register_buffer("mean", torch.zeros(num_tasks, dim))
        self.register_buffer("var", torch.ones(num_tasks, dim))
        self.register_buffer("count", torch.zeros(num_tasks, dim, dtype=torch.float64))

    def forward(self, obs: Tensor, mask: Tensor, task: Tensor) -> Tensor:
        scaled = (obs - self.mean[task]) * torch.rsqrt(self.var[task] + self.epsilon) * mask
        return scaled.clamp(-self.clip, self.clip)

    @torch.no_grad()
    def update_(self, obs: Tensor, mask: Tensor, task: Tensor) -> None:
        """Merges a batch obs [B, D] of tasks [B] with its mask [B, D] into the statistics of those tasks."""
        weight = mask.double()
        count = self._sums(weight, task)
        mean = self._sums(obs * weight, task) / count.clamp(min=1)
        squares = self._sums((obs - mean[task]).square() * weight, task)
        total = self.count + count
        divisor = total.clamp(min=1)
        delta = mean - self.mean
        sum_squares = self.var * self.count + squares + delta.square() * self.count * count / divisor
        self.mean += delta * count / divisor
        self.var.copy_(torch.where(count > 0, sum_squares / divisor, self.var.double()))
        self.count.copy_(total)

    def _sums(self, x: Tensor, task: Tensor) -> Tensor:
        """The sums [T, D] over the rows of each task, in float64."""
        return torch.zeros_like(self.count).index_add_(0, task, x.double())
