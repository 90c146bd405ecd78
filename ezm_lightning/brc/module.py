"""BRC on one screen: ``BRC.training_step`` is target distribution → critics → actor → temperature → one loss."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.func import functional_call

from ezm_lightning.brc.losses import (
    Atoms,
    actor_loss,
    critic_loss,
    expected_value,
    mean_distribution,
    soft_target,
    temperature_loss,
)
from ezm_lightning.brc.networks import Actor, CriticEnsemble, sample_with_log_prob
from ezm_lightning.brc.reward_scale import RewardScale
from ezm_lightning.types import Batch

ADAMW = partial(torch.optim.AdamW, lr=3e-4, weight_decay=1e-4)  # decays every parameter, norms and biases too
TEMPERATURE_BETAS = (0.5, 0.999)


class BRC(L.LightningModule):
    """Soft actor-critic for many tasks with wide categorical critics (Nauman et al. 2025), on one-step windows.

    ``obs_dims`` and ``action_dims`` are those of each task; observations and actions are padded to the largest.
    ``width`` is the critics' (the authors run 4096); the actor keeps its own. ``ema_decay`` is the
    target critics' pace an optimiser step. Padded action dimensions are 0 and count in no entropy.

    The three losses reach disjoint parameters, so one optimiser steps their sum as three would, and Lightning's
    ``global_step`` counts updates. What differs from the authors' code: the actor reads the critics as they were
    before this update, not after it.
    """

    action_mask: Tensor  # [T, A]

    def __init__(
        self,
        *,
        obs_dims: Sequence[int],
        action_dims: Sequence[int],
        width: int = 512,
        num_blocks: int = 2,
        num_critics: int = 2,
        actor_width: int = 256,
        actor_blocks: int = 1,
        discount: float = 0.99,
        value_limit: float = 10.0,
        num_atoms: int = 101,
        initial_temperature: float = 0.1,
        entropy_per_dim: float = -0.5,
        ema_decay: float = 0.995,
        optimizer: Callable[[Iterable[dict[str, Any]]], torch.optim.Optimizer] = ADAMW,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if len(obs_dims) != len(action_dims):
            raise ValueError(f"obs_dims has {len(obs_dims)} tasks, action_dims has {len(action_dims)}")
        self.atoms, self.discount = Atoms(-value_limit, value_limit, num_atoms), discount
        self.critic = CriticEnsemble(
            obs_dim=max(obs_dims),
            action_dim=max(action_dims),
            num_tasks=len(obs_dims),
            width=width,
            num_blocks=num_blocks,
            num_critics=num_critics,
            atoms=num_atoms,
        )
        self.target_critic = copy.deepcopy(self.critic).requires_grad_(False)
        self.actor = Actor(
            state_dim=self.critic.state_dim, action_dim=max(action_dims), width=actor_width, num_blocks=actor_blocks
        )
        self.log_temperature = nn.Parameter(torch.tensor(math.log(initial_temperature)))
        self.reward_scale = RewardScale(action_dims, discount=discount, value_limit=value_limit)
        mask = torch.arange(max(action_dims)) < torch.tensor(list(action_dims))[:, None]
        self.register_buffer("action_mask", mask.float(), persistent=False)
        self.entropy_per_dim, self.ema_decay = entropy_per_dim, ema_decay
        self.make_optimizer, self.seed = optimizer, seed
        self.generator = torch.Generator()  # replaced on the right device when training starts
        self.last_losses: dict[str, Tensor] = {}
        self.update_skipped = False  # the last one, for it was not finite
        self._scales_known = False

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """The loss of the windows' first transitions. Raises RuntimeError where a task has no reward scale yet."""
        self.require_scales()
        next_noise, noise = torch.randn(2, *batch.action[:, 0].shape, generator=self.generator, device=self.device)
        target = self.target_distribution(batch, next_noise)
        losses = self.losses(batch, target, noise)
        exists = batch.valid[:, 1]
        mean = {name: masked_mean(batch.weight * value, exists) for name, value in losses.items()}
        self.last_losses = {name: value.detach() for name, value in mean.items()}
        self.log_step(batch, target)
        return {"loss": mean["critic"] + mean["actor"] + mean["temperature"]}

    @torch.no_grad()
    def target_distribution(self, batch: Batch, noise: Tensor) -> Tensor:
        """What the critics are fitted to [B, S]; noise [B, A] draws the next action."""
        task, next_obs = batch.task, batch.obs[:, 1]
        next_action, log_prob = self.sample(self.critic.state(next_obs, task), task, noise)
        logits = self.target_critic(self.target_critic.state(next_obs, task), next_action)
        return soft_target(
            mean_distribution(logits),
            batch.reward[:, 0] / self.reward_scale(self.temperature)[task],
            log_prob,
            1 - batch.final[:, 1].float(),
            self.atoms,
            temperature=self.temperature,
            discount=self.discount,
        )

    def losses(self, batch: Batch, target: Tensor, noise: Tensor) -> dict[str, Tensor]:
        """Every loss by name, each [B]; noise [B, A] draws the actor's action."""
        task = batch.task
        state = self.critic.state(batch.obs[:, 0], task)
        action, log_prob = self.sample(state.detach(), task, noise)
        target_entropy = self.entropy_per_dim * self.action_mask[task].sum(-1)
        return {
            "critic": critic_loss(self.critic(state, batch.action[:, 0]), target),
            "actor": actor_loss(log_prob, self.fixed_value(state.detach(), action), self.temperature),
            "temperature": temperature_loss(self.log_temperature, log_prob, target_entropy),
        }

    def sample(self, state: Tensor, task: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """The policy's action [B, A] under ``noise`` and its log-probability [B]."""
        mean, log_std = self.actor(state)
        return sample_with_log_prob(mean, log_std, noise, self.action_mask[task])

    def fixed_value(self, state: Tensor, action: Tensor) -> Tensor:
        """Q [B] of the critics; their weights get no gradient, the action does."""
        weights = {name: weight.detach() for name, weight in self.critic.named_parameters()}
        return expected_value(functional_call(self.critic, weights, (state, action)), self.atoms)

    @property
    def temperature(self) -> Tensor:
        """α, without gradient."""
        return self.log_temperature.detach().exp()

    @torch.no_grad()
    def act(self, obs: Tensor, task: Tensor, *, explore: bool, generator: torch.Generator | None = None) -> Tensor:
        """Actions [B, A] for obs [B, D]: tanh of the mean, or, to explore, a sample of the policy.

        The randomness is ``generator``'s, on the device of obs; torch's global one if None.
        """
        mean, log_std = self.actor(self.critic.state(obs, task))
        noise = torch.zeros_like(mean)
        if explore:
            noise = torch.randn(mean.shape, generator=generator, device=mean.device)
        return sample_with_log_prob(mean, log_std, noise, self.action_mask[task])[0]

    def require_scales(self) -> None:
        """Raises RuntimeError where no episode of a task has ended: its rewards would all be divided to 0."""
        if self._scales_known:
            return
        unknown = self.reward_scale.unknown_tasks()
        if unknown:
            raise RuntimeError(
                f"no episode of tasks {unknown} has ended: their reward scale is unknown; warm up longer"
            )
        self._scales_known = True

    @torch.no_grad()
    def update_target_(self) -> None:
        """target ← target + (1 − ema_decay)(online − target), the embedding included."""
        slow: list[Tensor] = list(self.target_critic.parameters())
        fast: list[Tensor] = list(self.critic.parameters())
        torch._foreach_lerp_(slow, fast, 1 - self.ema_decay)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Lightning's step, then the target's: before any callback sees or saves the module."""
        super().optimizer_step(*args, **kwargs)
        if not self.update_skipped:
            self.update_target_()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """One AdamW; the temperature has its own betas and no decay."""
        return self.make_optimizer(
            [
                {"params": list(self.critic.parameters())},
                {"params": list(self.actor.parameters())},
                {"params": [self.log_temperature], "betas": TEMPERATURE_BETAS, "weight_decay": 0.0},
            ]
        )

    def log_step(self, batch: Batch, target: Tensor) -> None:
        """Losses and the numbers worth watching, every ``log_every_n_steps`` updates."""
        if self.global_step % self.trainer.log_every_n_steps:
            return
        metrics = {f"loss/{name}": value for name, value in self.last_losses.items()} | {
            "target/value": (target * self.atoms.values(target)).sum(-1).mean(),
            "target/share_at_ends": target[:, [0, -1]].sum(-1).mean(),
            "policy/temperature": self.temperature,
            "reward/scale": self.reward_scale(self.temperature).mean(),
            "replay/age": batch.age.float().mean(),
        }
        self.log_dict(metrics, batch_size=len(batch))

    def on_fit_start(self) -> None:
        self.generator = torch.Generator(device=self.device).manual_seed(self.seed + 1000 * self.global_rank)


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """The mean of x [B] where ``mask`` [B]; 0 where it is nowhere."""
    return torch.where(mask, x, 0.0).sum() / mask.sum().clamp(min=1)
