"""BRC on one screen: ``BRC.training_step`` is target distribution → critics → actor → temperature → one loss."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Annotated, Any, cast

import lightning as L
import torch
from tensordict import TensorDictBase
from torch import Tensor, nn
from torch.func import functional_call

from ezm_lightning.brc.acting import PolicySampler
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
from ezm_lightning.brc.reward_scale import EpisodeRewards, RewardScale
from ezm_lightning.memory_plan import Part, saved_bytes, training_bytes
from ezm_lightning.ops.losses import mean_by_task
from ezm_lightning.ops.masks import width_masks
from ezm_lightning.ops.per_task import PerTask
from ezm_lightning.ops.seeds import rank_generator
from ezm_lightning.ranges import (
    MAX_SIZE,
    Blocks,
    PerTaskShareAbove0,
    Positive,
    Range,
    Share,
    Size,
    check_discounts,
)
from ezm_lightning.replay.minari_format import Episode
from ezm_lightning.types import Batch

ADAMW = partial(torch.optim.AdamW, lr=3e-4, weight_decay=1e-4)  # decays every parameter, norms and biases too
TEMPERATURE_BETAS = (0.5, 0.999)
One = Annotated[int, Range(1, 1, whole=True)]


class BRC(L.LightningModule):
    """Soft actor-critic for many tasks with wide categorical critics (Nauman et al. 2025), on one-step windows.

    ``obs_dims`` and ``action_dims`` have one width per task; observations and actions are padded to the largest.
    ``width`` is the critics' (the authors run 4096), ``actor_width`` the actor's. ``ema_decay`` is the target critics'
    decay per optimiser step. ``discount`` is one number, or one per task. Padded action dimensions are 0 and count in
    no entropy. ``unroll_steps`` and ``td_steps`` are those of the run, which must be 1: a window is one transition.

    The three losses reach disjoint parameters, so one optimiser steps their sum as three would, and Lightning's
    ``global_step`` counts updates. One thing differs from the authors' code: the actor's loss reads the critics before
    this update, not after it.
    """

    action_mask: Tensor  # [T, A]

    def __init__(
        self,
        *,
        obs_dims: Sequence[int],
        action_dims: Sequence[int],
        width: Size = 512,
        num_blocks: Blocks = 2,
        num_critics: Size = 2,
        actor_width: Size = 256,
        actor_blocks: Blocks = 1,
        discount: PerTaskShareAbove0 = 0.99,
        value_limit: Positive = 10.0,
        num_atoms: Annotated[int, Range(3, MAX_SIZE, whole=True)] = 101,
        initial_temperature: Positive = 0.1,
        entropy_per_dim: Annotated[float, Range(high=0.69)] = -0.5,
        ema_decay: Share = 0.995,
        optimizer: Callable[[Iterable[dict[str, Any]]], torch.optim.Optimizer] = ADAMW,
        unroll_steps: One = 1,
        td_steps: One = 1,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if len(obs_dims) != len(action_dims):
            raise ValueError(f"obs_dims has {len(obs_dims)} tasks, action_dims has {len(action_dims)}")
        self.obs_dim = max(obs_dims)
        check_discounts(discount)
        self.atoms, self.discount = Atoms(-value_limit, value_limit, num_atoms), PerTask(discount)
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
        self.register_buffer("action_mask", width_masks(action_dims), persistent=False)
        self.entropy_per_dim, self.ema_decay = entropy_per_dim, ema_decay
        self.make_optimizer, self.seed = optimizer, seed
        self.generator = torch.Generator()  # replaced on the right device when training starts
        self.last_losses: dict[str, Tensor] = {}
        self.window_loss: Tensor | None = None  # [B], between the loss and its backward pass
        self.losses_by_task: dict[str, Tensor] = {}  # each [T], of the last update that was logged
        self.distributions: dict[str, Tensor] = {}  # of that update, for histograms
        self.episodes: EpisodeRewards | None = None  # of this rank's slots, once there is a step
        self._scales_known = False

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Merges the ranks' reward scales here: DDP gives every rank the first rank's buffers before its step."""
        self.merge_scales_()

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """The loss of the windows' first transitions. Raises ValueError if a task has no reward scale yet."""
        self.require_scales()
        next_noise, noise = torch.randn(2, *batch.action[:, 0].shape, generator=self.generator, device=self.device)
        target = self.target_distribution(batch, next_noise)
        losses = self.losses(batch, target, noise)
        exists = batch.valid[:, 1]
        self.window_loss = torch.where(exists, batch.weight * sum(losses.values()), 0.0)
        mean = {name: masked_mean(batch.weight * value, exists) for name, value in losses.items()}
        self.last_losses = {name: value.detach() for name, value in mean.items()}
        if (self.global_step + 1) % self.trainer.log_every_n_steps == 0:  # the loggers write after this update
            self.log_step(batch, target, losses)
        return {"loss": mean["critic"] + mean["actor"] + mean["temperature"]}

    @torch.no_grad()
    def target_distribution(self, batch: Batch, noise: Tensor) -> Tensor:
        """The target of the critics [B, S]; noise [B, A] draws the next action."""
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
            discount=self.discount.of(task),
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
        """Q [B] of the critics; the action gets a gradient, the weights do not."""
        weights = {name: weight.detach() for name, weight in self.critic.named_parameters()}
        return expected_value(functional_call(self.critic, weights, (state, action)), self.atoms)

    def gradient_parts(self) -> dict[str, list[nn.Parameter]]:
        """The parts whose gradients are compared between tasks, by name: each loss reaches one of them."""
        return {"actor": list(self.actor.parameters()), "critic": list(self.critic.parameters())}

    def on_after_backward(self) -> None:
        self.window_loss = None

    @property
    def temperature(self) -> Tensor:
        """α, without gradient."""
        return self.log_temperature.detach().exp()

    @torch.no_grad()
    def merge_scales_(self) -> None:
        """Sets the extremes of every rank to those of all ranks."""
        if self.trainer.world_size > 1:
            low, high = self.all_gather(torch.stack([self.reward_scale.low, -self.reward_scale.high])).amin(0)
            self.reward_scale.low.copy_(low)
            self.reward_scale.high.copy_(-high)

    def require_scales(self) -> None:
        """Raises ValueError if no episode of a task has ended: the scale would divide its rewards to 0."""
        if self._scales_known:
            return
        unknown = self.reward_scale.unknown_tasks()
        if unknown:
            count = self.trainer.world_size * (self.episodes.slot_task.count(unknown[0]) if self.episodes else 1)
            raise ValueError(
                f"no episode of tasks {unknown} has ended, so their reward scale is unknown: warmup_env_steps=... is "
                f"divided among a task's simulators, so it must be longer than {count} of its episodes"
            )
        self._scales_known = True

    @torch.no_grad()
    def update_target_(self) -> None:
        """target ← target + (1 − ema_decay)(online − target), the embedding included."""
        slow: list[Tensor] = list(self.target_critic.parameters())
        fast: list[Tensor] = list(self.critic.parameters())
        torch._foreach_lerp_(slow, fast, 1 - self.ema_decay)

    def make_actor(self, *, own_weights: bool = False) -> PolicySampler:
        """Samples the policy to explore, else acts by its mean; it has a copy of the weights with ``own_weights``."""
        return PolicySampler(self, own_weights=own_weights)

    def other_actors(self) -> dict[str, PolicySampler]:
        """An actor that samples the policy at every decision."""
        return {"policy sample": PolicySampler(self, sample=True)}

    @property
    def embed(self) -> nn.Module | None:
        """Tasks [B] to their embeddings [B, E]; None for a single task, which has no embedding."""
        return self.critic.embedding

    def on_vector_step(self, step: TensorDictBase) -> None:
        """Collects each slot's rewards; a finished episode updates the reward scale of its task."""
        if self.episodes is None:
            self.episodes = EpisodeRewards(step["task"].tolist())
        reward, terminated, done = (step["next", key].squeeze(-1) for key in ("reward", "terminated", "done"))
        self.episodes.step_(self.reward_scale, reward, terminated, done)

    def on_demonstrations(self, episodes: Mapping[int, Sequence[Episode]]) -> None:
        """Updates the reward scale of each task with its demonstrations: their rewards are learned from too."""
        for task, shown in episodes.items():
            for episode in shown:
                self.reward_scale.update_(
                    task, torch.from_numpy(episode.reward), terminated=bool(episode.terminated[-1])
                )

    def on_lost_episodes(self, slots: Tensor) -> None:
        """Forgets the rewards of running episodes that a resumption has lost."""
        if self.episodes is not None:
            self.episodes.drop_(slots)

    def rank_state(self) -> dict[str, Any]:
        """The learner's random state, the rewards of this rank's running episodes with its tasks, and the extremes of
        its returns, which the other ranks do not know before the next batch."""
        episodes = self.episodes and {"slot_task": self.episodes.slot_task, **self.episodes.state_dict()}
        extremes = {name: getattr(self.reward_scale, name).clone().cpu() for name in ("low", "high")}
        return {"generator": self.generator.get_state(), "episodes": episodes, "extremes": extremes}

    def load_rank_state(self, state: dict[str, Any]) -> None:
        self.generator.set_state(state["generator"])
        if state["episodes"]:
            self.episodes = EpisodeRewards(state["episodes"]["slot_task"])
            self.episodes.load_state_dict(state["episodes"])
        for name, extreme in state.get("extremes", {}).items():  # older checkpoints have those of the first rank alone
            getattr(self.reward_scale, name).copy_(extreme)

    def memory_parts(self, batch_size: int, *, device: str, own_weights: bool) -> list[Part]:
        """The memory of a rank that draws ``batch_size`` windows on ``device``; ``self`` is on 'meta'."""
        learned = [*self.critic.parameters(), *self.actor.parameters()]
        copies = [*self.target_critic.parameters(), *(self.actor.parameters() if own_weights else ())]
        task, (_, action_dim) = torch.zeros(2, dtype=torch.int64), self.action_mask.shape

        def forward() -> None:
            state = self.critic.state(torch.empty(2, self.obs_dim), task)
            self.critic(state, torch.empty(2, action_dim))
            action, _ = self.sample(state.detach(), task, torch.empty(2, action_dim))
            self.fixed_value(state.detach(), action)

        model = training_bytes(learned, cast(Any, self.make_optimizer)) + sum(x.nbytes for x in copies)
        activations = saved_bytes(forward, [*learned, *self.critic.buffers(), *self.buffers()])
        return [
            Part("model", model, device, knobs=("model (model=brc_256, model.width)",)),
            Part("learning", batch_size * activations // 2, device, about=True),
        ]

    def task_embeddings(self) -> Tensor | None:
        """One row per task [T, E]; None for a single task, which has no embedding."""
        embedding = self.critic.embedding
        return None if embedding is None else embedding(torch.arange(len(self.action_mask), device=self.device))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """One AdamW; the temperature has its own betas and no decay."""
        return self.make_optimizer(
            [
                {"params": list(self.critic.parameters())},
                {"params": list(self.actor.parameters())},
                {"params": [self.log_temperature], "betas": TEMPERATURE_BETAS, "weight_decay": 0.0},
            ]
        )

    def log_step(self, batch: Batch, target: Tensor, losses: dict[str, Tensor]) -> None:
        """Logs the losses and the numbers worth watching, and keeps the losses by task and the histograms."""
        self.losses_by_task = mean_by_task(losses, batch.task, len(self.action_mask))
        self.distributions = {"target/values": (target * self.atoms.values(target)).sum(-1)}
        metrics = {f"loss/{name}": value for name, value in self.last_losses.items()} | {
            "target/value": self.distributions["target/values"].mean(),
            "target/share_at_ends": target[:, [0, -1]].sum(-1).mean(),
            "policy/temperature": self.temperature,
            "reward/scale": self.reward_scale(self.temperature).mean(),
            "replay/age": batch.age[~batch.demo].float().mean().nan_to_num(),
        }
        self.log_dict(metrics, batch_size=len(batch))

    def on_fit_start(self) -> None:
        self.generator = rank_generator(self.seed, self.global_rank, self.device)


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """The mean of x [B] where ``mask`` [B] is true; 0 if it is nowhere."""
    return torch.where(mask, x, 0.0).sum() / mask.sum().clamp(min=1)
