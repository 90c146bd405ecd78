"""How BRC acts: a sample of its policy to explore, else tanh of the policy's mean."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ezm_lightning.brc.networks import sample_with_log_prob

if TYPE_CHECKING:
    from ezm_lightning.brc.module import BRC


class PolicySampler:
    """Acts with the actor and the critics' task embedding of ``module``, or with a copy of both (``own_weights``).

    With ``sample`` it always acts by a sample.
    """

    extras: Sequence[str] = ()

    def __init__(self, module: BRC, *, own_weights: bool = False, sample: bool = False) -> None:
        self.module, self.own_weights, self.sample = module, own_weights, sample
        maybe_copied = copy.deepcopy if own_weights else _itself
        self.actor, self.embedding = maybe_copied(module.actor), maybe_copied(module.critic.embedding)

    @torch.no_grad()
    def act(self, obs: Tensor, task: Tensor, generator: torch.Generator, *, explore: bool) -> dict[str, Tensor]:
        """The action [n, A] at obs [n, D] of tasks [n]."""
        own_obs, own_task = obs.to(generator.device), task.to(generator.device)
        mean, log_std = self.actor(torch.cat([own_obs, *([self.embedding(own_task)] if self.embedding else [])], -1))
        draws = explore or self.sample
        noise = torch.zeros_like(mean)
        if draws:
            noise = torch.randn(mean.shape, generator=generator, device=mean.device)
        action, _ = sample_with_log_prob(mean, log_std, noise, self.module.action_mask[own_task])
        return {"action": action.to(obs.device)}

    @torch.no_grad()
    def refresh_(self) -> None:
        """Copies the module's current weights."""
        if not self.own_weights:
            return
        for part, source in ((self.actor, self.module.actor), (self.embedding, self.module.critic.embedding)):
            for weight, new_weight in zip(_parameters(part), _parameters(source), strict=True):
                weight.copy_(new_weight)


def _itself(part: Any) -> Any:
    return part


def _parameters(part: torch.nn.Module | None) -> list[Tensor]:
    return list(part.parameters()) if part is not None else []
