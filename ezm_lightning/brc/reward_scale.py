"""The reward scale of each task. Replay holds raw rewards; they are divided by the scale when they are drawn."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ezm_lightning.ops.per_task import spread


def returns_to_go(reward: Float[Tensor, " L"], last: float, discount: float) -> Float[Tensor, " L"]:
    """v_i = r_i + γ v_{i+1} of an episode's L rewards, with v_L = ``last``; float64, in order of time."""
    backwards = accumulate(reward.flip(0).tolist(), lambda value, r: r + discount * value, initial=last)
    return torch.tensor(list(backwards)[:0:-1], dtype=torch.float64)


class RewardScale(nn.Module):
    """s_τ = (max(G_max, |G_min|) + α·A_τ / (4(1−γ))) / ``value_limit``, of the extreme returns-to-go so far.

    After a truncation the episode's mean reward is assumed to continue for ever. s shrinks only through α. It is
    infinite until a task's first episode has ended.
    """

    low: Tensor  # [T]
    high: Tensor  # [T]
    action_dims: Tensor  # [T]
    horizon: Tensor  # [T], 4(1−γ)

    def __init__(
        self, action_dims: Sequence[int], *, discount: float | Sequence[float], value_limit: float = 10.0
    ) -> None:
        super().__init__()
        self.discounts, self.value_limit = spread(discount, len(action_dims)), value_limit
        self.register_buffer("low", torch.full((len(action_dims),), torch.inf))
        self.register_buffer("high", torch.full((len(action_dims),), -torch.inf))
        self.register_buffer("action_dims", torch.tensor(list(action_dims), dtype=torch.float32), persistent=False)
        horizon = torch.tensor([4 * (1 - gamma) for gamma in self.discounts])
        self.register_buffer("horizon", horizon, persistent=False)

    def forward(self, temperature: Float[Tensor, ""]) -> Float[Tensor, " T"]:
        """s at this temperature."""
        entropy_return = temperature.detach() * self.action_dims / self.horizon
        return (torch.maximum(self.high, self.low.abs()) + entropy_return) / self.value_limit

    def unknown_tasks(self) -> list[int]:
        """Tasks of which no episode has ended."""
        return self.low.isinf().nonzero().flatten().tolist()

    @torch.no_grad()
    def update_(self, task: int, reward: Tensor, *, terminated: bool) -> None:
        """Updates the extremes with a finished episode's raw rewards [L]."""
        discount = self.discounts[task]
        last = 0.0 if terminated else reward.double().mean().item() / (1 - discount)
        returns = returns_to_go(reward.double(), last, discount).to(self.low)
        self.low[task] = torch.minimum(self.low[task], returns.min())
        self.high[task] = torch.maximum(self.high[task], returns.max())


class EpisodeRewards:
    """The rewards of each slot's running episode, which update the scale when the episode ends."""

    def __init__(self, slot_task: Sequence[int]) -> None:
        self.slot_task = list(slot_task)
        self.running: list[list[float]] = [[] for _ in self.slot_task]

    def step_(self, scale: RewardScale, reward: Tensor, terminated: Tensor, done: Tensor) -> None:
        """Adds one vector step: reward, terminated and done, each [slots]."""
        for rewards, r in zip(self.running, reward.tolist(), strict=True):
            rewards.append(r)
        for slot in done.nonzero().flatten().tolist():
            episode = torch.tensor(self.running[slot], dtype=torch.float64)
            scale.update_(self.slot_task[slot], episode, terminated=bool(terminated[slot]))
            self.running[slot] = []

    def drop_(self, slots: Tensor) -> None:
        """Forgets the running episodes of the slots in a mask [slots]."""
        for slot in slots.nonzero().flatten().tolist():
            self.running[slot] = []

    def state_dict(self) -> dict[str, list[list[float]]]:
        return {"running": [list(rewards) for rewards in self.running]}

    def load_state_dict(self, state: dict[str, list[list[float]]]) -> None:
        self.running = [list(rewards) for rewards in state["running"]]
