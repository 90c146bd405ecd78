"""The weight of the policy's entropy, per task. Choose with ``temperature=...``."""

from __future__ import annotations

import math
from typing import Annotated

import torch
from torch import Tensor, nn

from ezm_lightning.ranges import NotNegative, Positive, Range


class FixedTemperature(nn.Module):
    """A constant α = ``value`` for all tasks; 0 turns the entropy loss off."""

    def __init__(self, *, num_tasks: int, value: NotNegative = 0.0) -> None:
        super().__init__()
        if value < 0:
            raise ValueError(f"temperature.value={value} must not be negative: 0 leaves the entropy alone")
        self.register_buffer("value", torch.full((num_tasks,), value), persistent=False)

    def forward(self, task: Tensor) -> Tensor:
        """α [B] of tasks [B]."""
        return self.get_buffer("value")[task]

    def loss(self, task: Tensor, entropy: Tensor, action_dims: Tensor) -> Tensor:
        """0 [B]: α is not tuned."""
        return torch.zeros_like(entropy)


class TunedTemperature(nn.Module):
    """A learned α per task, which falls while the entropy is above its target and rises below (Haarnoja et al. 2018b).

    ``target_entropy`` is in nats per dimension of the action, of the tanh-Gaussian on [-1, 1]: ln 2 = 0.69 is uniform,
    SAC takes -1. ``initial`` is the first α, in units of the value gradient, whose q has a range of about 1. The weight
    decay of the optimiser acts on ln α too: with 2e-5, α stops near 1e-4 times the number of tasks.
    """

    def __init__(
        self, *, num_tasks: int, initial: Positive = 0.01, target_entropy: Annotated[float, Range(high=0.69)] = -1.5
    ) -> None:
        super().__init__()
        if initial <= 0:
            raise ValueError(f"temperature.initial={initial} must be positive")
        if target_entropy >= math.log(2):
            raise ValueError(
                f"temperature.target_entropy={target_entropy} must be below ln 2 = 0.693, the uniform policy's"
            )
        self.target_entropy = target_entropy
        self.log_value = nn.Parameter(torch.full((num_tasks,), math.log(initial)))

    def forward(self, task: Tensor) -> Tensor:
        """α [B] of tasks [B]; no gradient."""
        return self.log_value.detach().exp()[task]

    def loss(self, task: Tensor, entropy: Tensor, action_dims: Tensor) -> Tensor:
        """α (H − target) [B] for the entropy H [B] of actions of ``action_dims`` [B] dimensions; moves only α."""
        return self.log_value.exp()[task] * (entropy.detach() - self.target_entropy * action_dims)
