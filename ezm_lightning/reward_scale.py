"""The reward scale of each task: the model learns rewards times s_τ, so that unlike tasks can share one model.

Replay, environments, evaluation and every reported return keep raw rewards. A batch is scaled once, when the learner
takes it; targets, predictions, search values and priorities are then all in scaled units.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from tensordict import TensorDictBase
from torch import Tensor, nn

from ezm_lightning.ops.per_task import spread
from ezm_lightning.ranges import POSITIVE, Count, PerTaskShareAbove0
from ezm_lightning.types import Batch

Bounds = tuple[float, float]
# Factors for the extremes of a warm-up. A trained policy collects larger rewards than random actions: the best decision
# in HalfCheetah-v5 pays 4.6 with random actions and 20 with a good agent. Its costs are larger only through stronger
# actions: a² is 1/3 on average for uniform actions and 1 at the bounds.
REWARD_MARGIN, COST_MARGIN = 5.0, 3.0


def fitting_scale(bounds: Bounds, limits: Bounds) -> float:
    """The largest s with s · bounds inside limits, both around 0; 1 if the bounds are 0."""
    sides = [limit / bound for bound, limit in zip(bounds, limits, strict=True) if bound * limit > 0]
    return min(sides, default=1.0)


def scaled_limits(
    action_repeat: int, discount: float, reward_range: Sequence[float], value_range: Sequence[float]
) -> Bounds:
    """The least and the greatest scaled reward of a decision: ±1 per simulator step, and inside both supports.

    A reward r in every decision is worth r / (1 − γ).
    """
    low, high = (
        sign * min(action_repeat, sign * reward, sign * value * (1 - discount) if discount < 1 else math.inf)
        for sign, reward, value in zip((-1, 1), reward_range, value_range, strict=True)
    )
    return low, high


class TaskRewardScale(nn.Module):
    """s_τ of the tasks ``names``.

    ``scale`` has each task's s, or None. With None, s fits ``step_ranges``, the bounds of a simulator step's reward. If
    that is None too, s is measured: it fits the extreme rewards of random actions times a margin. :meth:`watch_`
    collects the extremes in the warm-up, and :meth:`fix_` computes s. ``reward_range`` and ``value_range`` are the
    supports of scaled rewards and values. ``action_repeat`` and ``discount`` are one number, or one per task. Raises
    ValueError for a scale that is not positive, and for a saved scale that differs from ``scale``.
    """

    scale: Tensor  # [T]; NaN until it is measured
    seen: Tensor  # [T, 2], the least and the greatest reward of a decision in the warm-up, and 0

    def __init__(
        self,
        names: Sequence[str],
        *,
        scale: Sequence[float | None],
        step_ranges: Sequence[Sequence[float] | None],
        reward_range: Sequence[float],
        value_range: Sequence[float],
        action_repeat: Count | Sequence[Count] = 1,
        discount: PerTaskShareAbove0 = 0.99,
    ) -> None:
        super().__init__()
        self.names, self.given = list(names), list(scale)
        for name, task_scale in zip(self.names, self.given, strict=True):
            if task_scale is not None:
                POSITIVE.check(f"tasks.reward_scale of {name}", task_scale)
        count = len(self.names)
        self.step_ranges, repeats = list(step_ranges), spread(action_repeat, count)
        self.limits = [
            scaled_limits(repeat, gamma, reward_range, value_range)
            for repeat, gamma in zip(repeats, spread(discount, count), strict=True)
        ]
        scales = [self._known(task, repeat) for task, repeat in enumerate(repeats)]
        self.all_one = all(s == 1 for s in scales)
        self.to_be_found = None in scales
        nan_if_unknown = torch.tensor([math.nan if s is None else s for s in scales])
        self.register_buffer("scale", nan_if_unknown, persistent=not self.all_one)
        self.register_buffer("seen", torch.zeros(count, 2), persistent=not self.all_one)

    def _known(self, task: int, repeat: int) -> float | None:
        scale, step_range = self.given[task], self.step_ranges[task]
        if scale is not None or step_range is None:
            return scale
        return fitting_scale((step_range[0] * repeat, step_range[1] * repeat), self.limits[task])

    def forward(self, batch: Batch) -> Batch:
        """The batch with scaled rewards; the batch itself if every scale is 1."""
        if self.all_one:
            return batch
        if self.to_be_found:
            raise ValueError("a reward scale is still to be found: watch_ the steps of a warm-up, then fix_ it")
        return batch.replace(reward=batch.reward * self.scale[batch.task][:, None])

    @torch.no_grad()
    def watch_(self, step: TensorDictBase) -> None:
        """Updates the extremes with the raw rewards of a vector step, until the scale is fixed."""
        if not self.to_be_found:
            return
        task, reward = step["task"].to(self.seen.device), step["next", "reward"].flatten().to(self.seen)
        low, high = self.seen.unbind(-1)
        low, high = low.scatter_reduce(0, task, reward, "amin"), high.scatter_reduce(0, task, reward, "amax")
        self.seen.copy_(torch.stack([low, high], -1))

    @torch.no_grad()
    def fix_(self, all_gather: Callable[[Tensor], Any] | None = None) -> None:
        """Computes the missing scales from the extremes of all ranks; a scale from a checkpoint is kept."""
        if not self.to_be_found:
            return
        if all_gather is not None:
            outwards = self.seen.new_tensor([-1.0, 1.0])
            self.seen.copy_(all_gather(self.seen * outwards).amax(0) * outwards)
        margins = [(low * COST_MARGIN, high * REWARD_MARGIN) for low, high in self.seen.tolist()]
        fitted = [fitting_scale(bounds, limits) for bounds, limits in zip(margins, self.limits, strict=True)]
        self.scale.copy_(torch.where(self.scale.isnan(), self.scale.new_tensor(fitted), self.scale))
        self.to_be_found = False

    def rows(self) -> list[dict[str, Any]]:
        """For each task: its name, its scale, the scale's source, and the extreme rewards of a warm-up's decision."""
        parts = zip(self.names, self.scale.tolist(), self.seen.tolist(), strict=True)
        return [
            {"task": name, "reward_scale": s, "source": self._source(task), "lowest": low, "highest": high}
            for task, (name, s, (low, high)) in enumerate(parts)
        ]

    def _source(self, task: int) -> str:
        if self.given[task] is not None:
            return "given"
        return "warm-up" if self.step_ranges[task] is None else "known range"

    def check_saved(self, saved: Tensor | None) -> None:
        """Raises ValueError for scales [T] of a checkpoint that differ; with None the checkpoint has none: all are 1.

        A resumed run keeps its scales, since the searches in replay were made with them.
        """
        if saved is not None and len(saved) != len(self.names):
            return
        of_checkpoint = [1.0] * len(self.names) if saved is None else saved.tolist()
        for name, before, now in zip(self.names, of_checkpoint, self.scale.tolist(), strict=True):
            unknown = math.isnan(now)
            if (saved is None) if unknown else abs(now - before) > 1e-6 * before:
                raise ValueError(
                    f"tasks.reward_scale of {name} is {'to be measured' if unknown else f'{now:.4g}'}, the checkpoint's"
                    f" is {before:.4g}: write 'tasks.reward_scale={{{name}: {before!r}}}'"
                )

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *arguments: Any) -> None:
        self.check_saved(state_dict.get(f"{prefix}scale"))
        super()._load_from_state_dict(state_dict, prefix, *arguments)
