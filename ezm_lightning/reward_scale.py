"""The reward scale of each task: the model learns from rewards times s_τ, so that unlike tasks share one model.

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
# What a warm-up's extremes are multiplied by. A policy that learns gathers more of what pays than random actions do:
# the best decision of HalfCheetah-v5 pays those 4.6, one of a good agent 20. It does not choose to pay more than they
# do, but for what strong actions cost: a² is 1/3 on average for uniform actions and 1 at the bounds.
REWARD_MARGIN, COST_MARGIN = 5.0, 3.0


def fitting_scale(bounds: Bounds, limits: Bounds) -> float:
    """The largest s with s · bounds inside limits, both around 0; 1 where the bounds are 0."""
    sides = [limit / bound for bound, limit in zip(bounds, limits, strict=True) if bound * limit > 0]
    return min(sides, default=1.0)


def scaled_limits(
    action_repeat: int, discount: float, reward_range: Sequence[float], value_range: Sequence[float]
) -> Bounds:
    """The least and the greatest scaled reward of a decision: 1 a simulator step, and no more than the supports hold.

    A reward r in every decision is worth r / (1 − γ).
    """
    low, high = (
        sign * min(action_repeat, sign * reward, sign * value * (1 - discount) if discount < 1 else math.inf)
        for sign, reward, value in zip((-1, 1), reward_range, value_range, strict=True)
    )
    return low, high


class TaskRewardScale(nn.Module):
    """s_τ of the tasks ``names``.

    ``scale`` has each task's s where it is given. A task with None there has the s that fits ``step_ranges``, the
    bounds of a simulator step's reward. With None there too s is found: it fits the extremes of the rewards of random
    actions times a margin; :meth:`watch_` sees them in the warm-up, and :meth:`fix_` ends that. ``reward_range`` and
    ``value_range`` are the supports that scaled rewards and values have to lie in. ``action_repeat`` and ``discount``
    are one number, or one a task. Raises ValueError for a scale that is not positive, and for a saved scale that is
    not the given one.
    """

    scale: Tensor  # [T]; NaN until it is found
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
        for name, given in zip(self.names, self.given, strict=True):
            if given is not None:
                POSITIVE.check(f"tasks.reward_scale of {name}", given)
        count = len(self.names)
        self.step_ranges, repeats = list(step_ranges), spread(action_repeat, count)
        self.limits = [
            scaled_limits(repeat, gamma, reward_range, value_range)
            for repeat, gamma in zip(repeats, spread(discount, count), strict=True)
        ]
        known = [self._known(task, repeat) for task, repeat in enumerate(repeats)]
        self.all_one = all(s == 1 for s in known)
        self.to_be_found = None in known
        found_later = torch.tensor([math.nan if s is None else s for s in known])
        self.register_buffer("scale", found_later, persistent=not self.all_one)
        self.register_buffer("seen", torch.zeros(count, 2), persistent=not self.all_one)

    def _known(self, task: int, repeat: int) -> float | None:
        given, step_range = self.given[task], self.step_ranges[task]
        if given is not None or step_range is None:
            return given
        return fitting_scale((step_range[0] * repeat, step_range[1] * repeat), self.limits[task])

    def forward(self, batch: Batch) -> Batch:
        """The batch with scaled rewards; itself where every scale is 1."""
        if self.all_one:
            return batch
        if self.to_be_found:
            raise ValueError("a reward scale is still to be found: watch_ the steps of a warm-up, then fix_ it")
        return batch.replace(reward=batch.reward * self.scale[batch.task][:, None])

    @torch.no_grad()
    def watch_(self, step: TensorDictBase) -> None:
        """Takes note of the raw rewards of a vector step, until the scale is fixed."""
        if not self.to_be_found:
            return
        task, reward = step["task"].to(self.seen.device), step["next", "reward"].flatten().to(self.seen)
        low, high = self.seen.unbind(-1)
        low, high = low.scatter_reduce(0, task, reward, "amin"), high.scatter_reduce(0, task, reward, "amax")
        self.seen.copy_(torch.stack([low, high], -1))

    @torch.no_grad()
    def fix_(self, all_gather: Callable[[Tensor], Any] | None = None) -> None:
        """Fixes the scales that are to be found, by what all ranks have seen; one that a checkpoint had stays."""
        if not self.to_be_found:
            return
        if all_gather is not None:
            outwards = self.seen.new_tensor([-1.0, 1.0])
            self.seen.copy_(all_gather(self.seen * outwards).amax(0) * outwards)
        margins = [(low * COST_MARGIN, high * REWARD_MARGIN) for low, high in self.seen.tolist()]
        found = [fitting_scale(bounds, limits) for bounds, limits in zip(margins, self.limits, strict=True)]
        self.scale.copy_(torch.where(self.scale.isnan(), self.scale.new_tensor(found), self.scale))
        self.to_be_found = False

    def rows(self) -> list[dict[str, Any]]:
        """Of each task: its name, its scale, where that is from, and the extremes of a decision in the warm-up."""
        parts = zip(self.names, self.scale.tolist(), self.seen.tolist(), strict=True)
        return [
            {"task": name, "reward_scale": s, "source": self._source(task), "lowest": low, "highest": high}
            for task, (name, s, (low, high)) in enumerate(parts)
        ]

    def _source(self, task: int) -> str:
        if self.given[task] is not None:
            return "given"
        return "warm-up" if self.step_ranges[task] is None else "known range"

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *arguments: Any) -> None:
        """A run that goes on keeps its scales: what is in replay was searched with them."""
        saved = state_dict.get(f"{prefix}scale")
        if saved is not None and len(saved) == len(self.names):
            for name, before, now in zip(self.names, saved.tolist(), self.scale.tolist(), strict=True):
                if not math.isnan(now) and abs(now - before) > 1e-6 * before:
                    raise ValueError(
                        f"tasks.reward_scale of {name} is {now:.4g}, the checkpoint's is {before:.4g}: "
                        f"write tasks.reward_scale={{{name}: {before!r}}}"
                    )
        super()._load_from_state_dict(state_dict, prefix, *arguments)
