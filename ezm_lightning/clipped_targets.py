"""A warning if targets of a task lie outside the model's support, with the setting that corrects it."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ezm_lightning.ops.support import Support
from ezm_lightning.types import Targets

LEAST_SHARE = 0.01  # of a task's targets in one batch


def outside_by_task(
    x: Float[Tensor, "B k"], valid: Bool[Tensor, "B k"], task: Int[Tensor, " B"], support: Support, num_tasks: int
) -> Float[Tensor, " T"]:
    """The share of each task's valid numbers that lie outside a support; 0 for a task without valid numbers."""
    outside = ((x < support.low) | (x > support.high)) & valid
    counts = torch.zeros(2, num_tasks, device=x.device)
    counts.index_add_(1, task, torch.stack([outside.sum(-1), valid.sum(-1)]).to(counts))
    return counts[0] / counts[1].clamp(min=1)


class ClippedTargets:
    """Warns once per task about rewards and once about values; ``names`` are the task names."""

    def __init__(self, names: Sequence[str], *, reward_support: Support, value_support: Support) -> None:
        self.names = list(names)
        self.supports = {"reward": reward_support, "value": value_support}
        self.warned: set[tuple[str, str]] = set()

    @torch.no_grad()
    def check(self, targets: Targets, task: Tensor, scale: Sequence[float], *, update: int) -> None:
        """Checks a batch's targets for tasks [B]; each task's rewards are multiplied by its ``scale``."""
        for kind, x, valid in (
            ("reward", targets.reward, targets.reward_valid),
            ("value", targets.value, targets.value_valid),
        ):
            shares = outside_by_task(x, valid, task, self.supports[kind], len(self.names))
            for index, share in enumerate(shares.tolist()):
                if share >= LEAST_SHARE and (kind, self.names[index]) not in self.warned:
                    self.warned.add((kind, self.names[index]))
                    task_targets = x[(task == index)[:, None] & valid]
                    warnings.warn(self._line(kind, index, share, task_targets, scale[index], update), stacklevel=2)

    def _line(self, kind: str, task: int, share: float, x: Tensor, scale: float, update: int) -> str:
        name, (low, high, _) = self.names[task], self.supports[kind]
        low_excess, high_excess = float(x.min()) / low if low else 0.0, float(x.max()) / high if high else 0.0
        smaller = 0.8 * scale / max(low_excess, high_excess, 1.0)
        return (
            f"{name}: {share:.0%} of its {kind} targets lie outside [{low:g}, {high:g}] and are clipped (update "
            f"{update}, rewards × {scale:.3g}); start a new run with tasks.reward_scale={{{name}: {smaller:.2g}}} "
            f"or with a wider tasks.{kind}_range"
        )
