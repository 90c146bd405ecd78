"""The reward scale of each task: what the model learns from are rewards times s_τ, so that unlike tasks share one model.

Replay, environments, evaluation and every reported return keep raw rewards. A batch is scaled once, when the learner
takes it; targets, predictions, search values and priorities are then all in scaled units.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any

import torch
from tensordict import TensorDictBase
from torch import Tensor, nn

from ezm_lightning.ops.per_task import spread
from ezm_lightning.ranges import POSITIVE
from ezm_lightning.types import Batch

Bounds = tuple[float, float]
# A policy that learns gathers more of what pays than random actions do: HalfCheetah's best decision under random actions
# pays 4.6, a good agent 20 to 32. It has no reason to pay more than they do; a control cost a² is 1/3 on average for
# uniform actions and 1 at the bounds.
REWARD_MARGIN, COST_MARGIN = 8.0, 3.0


def fitting_scale(bounds: Bounds, limits: Bounds) -> float:
    """The largest s with s · bounds inside limits (both around 0); 1 where the bounds are 0."""
    sides = [limit / bound for bound, limit in zip(bounds, limits, strict=True) if bound * limit > 0]
    return min(sides, default=1.0)


def limits_of(action_repeat: int, discount: float, reward_range: Sequence[float], value_range: Sequence[float]) -> Bounds:
    """The least and the greatest scaled reward of a decision: at most 1 a simulator step, and what the supports hold.

    A reward r in every decision is worth r / (1 − γ).
    """
    low, high = (
        sign * min(action_repeat, sign * reward, sign * value * (1 - discount) if discount < 1 else torch.inf)
        for sign, reward, value in zip((-1, 1), reward_range, value_range, strict=True)
    )
    return low, high


class TaskRewardScale(nn.Module):
    """s_τ [T] of the tasks ``names``.

    ``scale`` has each task's s where it is given. A task with None there has the s that fits ``step_ranges``, the
    bounds of a simulator step's reward; with None there too s is found: it fits the extremes of the rewards of random
    actions, which :meth:`watch_` sees in the warm-up, times a margin, and :meth:`fix_` ends that. ``reward_range`` and
    ``value_range`` are the supports that scaled rewards and values have to lie in. ``action_repeat`` and ``discount``
    are one number, or one a task.
    """

    scale: Tensor  # [T]; NaN until it is found
    seen: Tensor  # [T, 2], the least and the greatest reward of a decision in the warm-up, at least around 0

    def __init__(
        self,
        names: Sequence[str],
        *,
        scale: Sequence[Annotated[float, POSITIVE] | None],
        step_ranges: Sequence[Any],
        reward_range: Sequence[float],
        value_range: Sequence[float],
        action_repeat: int | Sequence[int] = 1,
        discount: float | Sequence[float] = 0.99,
    ) -> None:
        super().__init__()
        self.names, count = list(names), len(names)
        repeats, discounts = spread(action_repeat, count), spread(discount, count)
        self.limits = [
            limits_of(n, gamma, reward_range, value_range) for n, gamma in zip(repeats, discounts, strict=True)
        ]
        self.sources = [_source(*each) for each in zip(scale, step_ranges, strict=True)]
        ranges = [range_ and (range_[0] * n, range_[1] * n) for range_, n in zip(step_ranges, repeats, strict=True)]
        known = [
            s if s is not None else fitting_scale(bounds, limits) if bounds is not None else None
            for s, bounds, limits in zip(scale, ranges, self.limits, strict=True)
        ]
        self.all_one = all(s == 1 for s in known)
        self.to_be_found = None in known
        values = torch.tensor([torch.nan if s is None else s for s in known])
        self.register_buffer("scale", values, persistent=not self.all_one)
        self.register_buffer("seen", torch.zeros(count, 2), persistent=self.to_be_found)

    def forward(self, batch: Batch) -> Batch:
        """The batch with scaled rewards; itself where every scale is 1."""
        if self.all_one:
            return batch
        if self.to_be_found:
            raise ValueError("a reward scale is to be found: watch_ the warm-up's steps, then fix_ it")
        return batch.replace(reward=batch.reward * self.scale[batch.task][:, None])

    @torch.no_grad()
    def watch_(self, step: TensorDictBase) -> None:
        """Takes note of the raw rewards of a vector step, until the scale is fixed."""
        if not self.to_be_found:
            return
        task, reward = step["task"].to(self.seen.device), step["next", "reward"].flatten().to(self.seen)
        for side, reduce in enumerate(("amin", "amax")):
            self.seen[:, side] = self.seen[:, side].scatter_reduce(0, task, reward, reduce)

    @torch.no_grad()
    def fix_(self, all_gather: Callable[[Tensor], Tensor] | None = None) -> None:
        """Ends the search of a scale, with what all ranks have seen; a scale that is there stays."""
        if not self.to_be_found:
            return
        if all_gather is not None:
            signs = self.seen.new_tensor([-1.0, 1.0])  # one maximum for both sides
            self.seen.copy_(all_gather(self.seen * signs).flatten(0, -3).amax(0) * signs)
        found = [
            fitting_scale((low * COST_MARGIN, high * REWARD_MARGIN), limits)
            for (low, high), limits in zip(self.seen.tolist(), self.limits, strict=True)
        ]
        self.scale.copy_(torch.where(self.scale.isnan(), self.scale.new_tensor(found), self.scale))
        self.to_be_found = False

    def rows(self) -> list[dict[str, Any]]:
        """Of each task its name, its scale, where that comes from, and the extremes of a decision in the warm-up."""
        parts = zip(self.names, self.scale.tolist(), self.sources, self.seen.tolist(), strict=True)
        return [
            {"task": name, "reward_scale": s, "source": source, "lowest": low, "highest": high}
            for name, s, source, (low, high) in parts
        ]


def _source(scale: float | None, step_range: Any) -> str:
    if scale is not None:
        return "given"
    return "known range" if step_range is not None else "warm-up"
