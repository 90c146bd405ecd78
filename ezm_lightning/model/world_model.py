"""The multi-task latent world model: six networks, conditioned on a task embedding (EZ-M section 4, Table 4).

Shapes: obs [..., D], task [...] int64, action [..., A], latent [..., Z]; any leading dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import torch
from torch import Tensor, nn

from ezm_lightning.errors import nearest
from ezm_lightning.model.inference import InitialInference, RecurrentInference
from ezm_lightning.model.networks import (
    HeadNorm,
    ObsNorm,
    ResidualTransition,
    StackedBatchNorm,
    StackedHeads,
    prediction,
    projection,
    residual_tower,
)
from ezm_lightning.model.task_embedding import Id
from ezm_lightning.ops.gradient import scale_gradient
from ezm_lightning.ops.masks import width_masks
from ezm_lightning.ops.squashed_gaussian import SoftsignBound, TanhBound
from ezm_lightning.ops.support import Support, decode
from ezm_lightning.ranges import MAX_SIZE, Blocks, Positive, Range, Size, SizeFrom0

if TYPE_CHECKING:
    from ezm_lightning.types import Prediction

LogStdBound = TanhBound | SoftsignBound
MakeTaskEmbedding = Callable[..., Any]  # of (T, E): Id, Text or Both
MakeObsNorm = Callable[..., Any]  # of (obs_dim, num_tasks=T): ObsNorm, or TaskObsNorm


class WorldModel(nn.Module):
    """Representation, dynamics, reward, value, policy and projection networks shared by all tasks.

    ``obs_dims[τ]`` and ``action_dims[τ]`` are the true widths of task τ. Everything is padded to their maxima, and to
    ``least_obs_dim`` and ``least_action_dim``, which leave room for the tasks of a later transfer. The four ``embed_*``
    switches say which networks get the task embedding (the paper's ablation). ``initial_std`` is the policy's σ at
    initialisation, set by its output bias; ``log_std_bound`` maps that output to log σ. ``mean_bound`` b bounds the
    policy's mean as b·tanh(raw/b) (EfficientZero-V2: 5; None: the raw output), so that a policy of saturated actions
    keeps candidates of both signs. ``obs_norm`` makes the normalisation of observations: all tasks share its statistics
    (``ObsNorm``), or each task has its own (``TaskObsNorm``). ``task_embedding`` makes the task embedding. Supports are
    ranges ``[low, high]``.
    """

    obs_mask: Tensor  # [T, D] bool
    action_mask: Tensor  # [T, A] bool

    def __init__(
        self,
        *,
        obs_dims: Sequence[int],
        action_dims: Sequence[int],
        latent_dim: Size = 512,
        num_blocks: Blocks = 3,
        head_dim: Size = 512,
        task_embedding_dim: Size = 128,
        action_embedding_dim: Size = 64,
        projection_dim: Size = 1024,
        num_value_heads: Size = 5,
        head_norm: HeadNorm = StackedBatchNorm,
        obs_norm: MakeObsNorm = ObsNorm,
        task_embedding: MakeTaskEmbedding = Id,
        embed_representation: bool = True,
        embed_dynamics: bool = True,
        embed_reward: bool = True,
        embed_value_policy: bool = True,
        reward_range: Sequence[float] = (-299.0, 299.0),
        value_range: Sequence[float] = (-299.0, 299.0),
        num_bins: Annotated[int, Range(3, MAX_SIZE, whole=True)] = 51,
        initial_std: Positive = math.exp(-4.0),  # noqa: B008 - a number
        log_std_bound: LogStdBound = TanhBound(),  # noqa: B008 - frozen
        mean_bound: Positive | None = None,
        least_obs_dim: SizeFrom0 = 0,
        least_action_dim: SizeFrom0 = 0,
    ) -> None:
        super().__init__()
        if not log_std_bound.low < math.log(initial_std) < log_std_bound.high:
            ends = f"({log_std_bound.low}, {log_std_bound.high})"
            raise ValueError(f"initial_std={initial_std:g}: its log {math.log(initial_std):.3f} is not in {ends}")
        obs_dim, action_dim = max(*obs_dims, least_obs_dim), max(*action_dims, least_action_dim)
        e = task_embedding_dim
        self.reward_support = Support(reward_range[0], reward_range[1], num_bins)
        self.value_support = Support(value_range[0], value_range[1], num_bins)
        self.embeds = (embed_representation, embed_dynamics, embed_reward, embed_value_policy)
        self.log_std_bound, self.mean_bound = log_std_bound, mean_bound
        self.register_buffer("obs_mask", width_masks(obs_dims, least_obs_dim), persistent=False)  # [T, D]
        self.register_buffer("action_mask", width_masks(action_dims, least_action_dim), persistent=False)  # [T, A]

        self.task_embedding = task_embedding(len(obs_dims), e).requires_grad_(any(self.embeds))
        self.obs_norm = obs_norm(obs_dim, num_tasks=len(obs_dims))
        self.representation = nn.Sequential(
            nn.Linear(obs_dim + e * embed_representation, latent_dim),
            nn.LayerNorm(latent_dim),
            nn.Tanh(),
            residual_tower(latent_dim, num_blocks),
        )
        self.dynamics = ResidualTransition(latent_dim, action_dim + e * embed_dynamics, num_blocks)
        self.action_embedding = nn.Sequential(
            nn.Linear(action_dim + e * embed_reward, action_embedding_dim),
            nn.LayerNorm(action_embedding_dim),
            nn.Tanh(),
        )
        self.reward = ResidualTransition(latent_dim, action_embedding_dim + e * embed_reward, num_blocks)
        self.reward_head = StackedHeads(1, latent_dim, head_dim, num_bins, norm=head_norm, zero_init=True)
        trunk_dim = latent_dim + e * embed_value_policy
        self.trunk = nn.Sequential(residual_tower(trunk_dim, num_blocks), nn.LayerNorm(trunk_dim))
        self.value_heads = StackedHeads(num_value_heads, trunk_dim, head_dim, num_bins, norm=head_norm)
        self.policy_head = StackedHeads(1, trunk_dim, head_dim, 2 * action_dim, norm=head_norm, zero_init=True)
        output: Any = self.policy_head.body[-1]
        output.bias.data[..., action_dim:] = log_std_bound.raw_of(math.log(initial_std))
        self.projection = projection(latent_dim, projection_dim)
        self.prediction = prediction(latent_dim, projection_dim)
        self.frozen: tuple[nn.Module, ...] = ()  # their batch norms are frozen too

    def train_only_(self, parts: Sequence[str]) -> None:
        """Freezes every network, its batch norms included, but ``parts``, such as ``task_embedding`` or ``trunk``.

        Shared statistics of observations are frozen too; those of each task are not, since the tasks are new. Raises
        ValueError for a name that is no network, and for parts without a weight.
        """
        networks = dict(self.named_children())
        for part in parts:
            if part not in networks:
                raise ValueError(f"the model has no network {part!r}; nearest: {nearest(part, networks, count=1)}")
        if not any(parameter.requires_grad for part in parts for parameter in networks[part].parameters()):
            raise ValueError(f"module.trained={list(parts)} leaves nothing to learn; nearest: [task_embedding]")
        self.frozen = tuple(network for name, network in networks.items() if name not in parts)
        for network in self.frozen:
            network.requires_grad_(False).eval()
        self.obs_norm.moves = self.obs_norm.mean.dim() == 2

    def train(self, mode: bool = True) -> WorldModel:
        """Training mode, except for the frozen networks."""
        super().train(mode)
        for network in self.frozen:
            network.train(False)
        return self

    @property
    def num_tasks(self) -> int:
        return self.task_embedding.num_tasks

    @property
    def num_value_heads(self) -> int:
        return self.value_heads.num_heads

    def embed(self, task: Tensor) -> Tensor:
        """The task embedding [..., E], of norm at most 1."""
        return self.task_embedding(task)

    def represent(self, obs: Tensor, task: Tensor, embedding: Tensor | None = None) -> Tensor:
        """The latent [..., Z] of an observation; ``embedding`` [..., E] replaces the task's."""
        x = self.obs_norm(obs, self.obs_mask[task], task)
        if not self.embeds[0]:
            return self.representation(x)
        return self.representation(torch.cat([x, self.embed(task) if embedding is None else embedding], -1))

    def next_latent(self, latent: Tensor, action: Tensor, embedding: Tensor) -> Tensor:
        """The latent [..., Z] one step later."""
        extras = (embedding, action) if self.embeds[1] else (action,)
        return self.dynamics(latent, *extras)

    def reward_logits(self, latent: Tensor, action: Tensor, embedding: Tensor) -> Tensor:
        """Logits [..., S] of the reward paid for ``action`` taken in ``latent``; independent of the dynamics."""
        if not self.embeds[2]:
            return self.reward_head(self.reward(latent, self.action_embedding(action))).squeeze(-2)
        u = self.action_embedding(torch.cat([action, embedding], -1))
        return self.reward_head(self.reward(latent, embedding, u)).squeeze(-2)

    def value_policy(self, latent: Tensor, embedding: Tensor) -> tuple[Tensor, Tensor]:
        """Value logits [..., V, S] and the policy's raw output [..., 2A]."""
        x = self._trunk_output(latent, embedding)
        return self.value_heads(x), self.policy_head(x).squeeze(-2)

    def value_logits(self, latent: Tensor, embedding: Tensor) -> Tensor:
        """Value logits [..., V, S] alone."""
        return self.value_heads(self._trunk_output(latent, embedding))

    def _trunk_output(self, latent: Tensor, embedding: Tensor) -> Tensor:
        """The input [..., H] of the value heads and of the policy head."""
        return self.trunk(torch.cat([latent, embedding], -1) if self.embeds[3] else latent)

    def policy(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        """Mean (before tanh) and log σ, each [..., A], of the policy's raw output."""
        mean, raw_log_std = raw.chunk(2, -1)
        if self.mean_bound is not None:
            mean = self.mean_bound * torch.tanh(mean / self.mean_bound)
        return mean, self.log_std_bound(raw_log_std)

    def initial_inference(self, obs: Tensor, task: Tensor) -> InitialInference:
        """The model at obs [B, D] of tasks [B]."""
        return self.latent_inference(self.represent(obs, task), self.embed(task))

    def latent_inference(self, latent: Tensor, embedding: Tensor) -> InitialInference:
        """The model at latents [B, Z], encoded or predicted; embedding [B, E]."""
        value_logits, raw = self.value_policy(latent, embedding)
        return InitialInference(latent, decode(value_logits, self.value_support), raw)

    def represent_policy(self, obs: Tensor, task: Tensor) -> tuple[Tensor, Tensor]:
        """The latent [B, Z] and the policy's raw output [B, 2A] at obs [B, D] of tasks [B]; no value head is read."""
        latent = self.represent(obs, task)
        return latent, self.policy_head(self._trunk_output(latent, self.embed(task))).squeeze(-2)

    def recurrent_inference(
        self, latent: Tensor, action: Tensor, embedding: Tensor, heads: Tensor
    ) -> RecurrentInference:
        """The model after ``action`` [B, k, A] in ``latent`` [B, k, Z]; embedding [B, E], heads [k, h] by column."""
        along = embedding[:, None].expand(-1, action.shape[1], -1)
        reward = decode(self.reward_logits(latent, action, along), self.reward_support)
        latent = self.next_latent(latent, action, along)
        value_logits, raw = self.value_policy(latent, along)
        head_values = decode(value_logits, self.value_support)
        chosen_values = head_values.gather(-1, heads.expand(*head_values.shape[:-1], -1))
        return RecurrentInference(reward, latent, chosen_values, raw)

    def look_ahead(self, latent: Tensor, action: Tensor, embedding: Tensor) -> tuple[Tensor, Tensor]:
        """The reward [B, k] of ``action`` [B, k, A] in ``latent`` [B, k, Z], and what each value head says of the next
        latent [B, k, V]; embedding [B, E]. No policy is read."""
        along = embedding[:, None].expand(-1, action.shape[1], -1)
        reward = decode(self.reward_logits(latent, action, along), self.reward_support)
        value_logits = self.value_logits(self.next_latent(latent, action, along), along)
        return reward, decode(value_logits, self.value_support)

    def project(self, latent: Tensor) -> Tensor:
        """SimSiam projection [..., Z] of a latent: the consistency target's side."""
        return self.projection(latent)

    def predict_projection(self, latent: Tensor) -> Tensor:
        """SimSiam prediction [..., Z] of the projection: the unrolled latent's side."""
        return self.prediction(self.projection(latent))

    def unroll(self, obs: Tensor, action: Tensor, task: Tensor, task_embedding: Tensor | None = None) -> Prediction:
        """The prediction from obs [B, D] under action [B, K, A]; the gradient is halved at each latent.

        ``task_embedding`` [B, E] replaces the embeddings of ``task``.
        """
        from ezm_lightning.types import Prediction  # tensordict, which acting does without

        embedding = self.embed(task) if task_embedding is None else task_embedding  # [B, E]
        latents = [self.represent(obs, task, task_embedding)]
        for k in range(action.shape[1]):
            latents.append(scale_gradient(self.next_latent(latents[-1], action[:, k], embedding), 0.5))
        latent = torch.stack(latents, 1)  # [B, K+1, Z]
        along = embedding[:, None].expand(-1, latent.shape[1], -1)
        value_logits, raw = self.value_policy(latent, along)
        mean, log_std = self.policy(raw)
        return Prediction(
            latent=latent,
            reward_logits=self.reward_logits(latent[:, :-1], action, along[:, :-1]),
            value_logits=value_logits,
            policy_mean=mean,
            policy_log_std=log_std,
            batch_size=[obs.shape[0]],
        )
