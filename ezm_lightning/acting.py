"""The objects that choose actions. Collection, evaluation and a loaded agent know only an :class:`Actor`.

A LightningModule that can be trained here is a :class:`Learner`: it has ``make_actor()``. It may also have:

``update_target_()``        updates the target networks, after every update that is not skipped
``on_vector_step(step)``    is called with every vector step [slots] that is stored
``on_lost_episodes(slots)`` is called after a resumption for slots [slots], a mask, whose running episode was lost
``on_demonstrations(episodes)``  is called before training with {task: its demonstrations}, if the run has any
``rank_state()``            what a rank saves beside the weights to resume bit for bit: tensors and plain values
``load_rank_state(state)``  restores it
``memory_parts(batch_size, own_weights=...)``  the memory it will need, see ``memory_plan``
``other_actors()``          other ways to act with the same weights, by name, for a comparison
``gradient_parts()``        its parameters by part; with it ``window_loss``, each window's loss [B] before the backward
                            pass: ``callbacks.gradient_similarity`` compares the tasks with both
``task_embeddings()``       [T, E], for TensorBoard's projector; None without embeddings
``losses_by_task``          {name: [T]} of the last logged update, NaN for a task without windows
``distributions``           {tag: tensor} of the last logged update, for histograms, in which NaN does not count
``embed(task)``             the embeddings [B, E] of tasks [B]; None without embeddings
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from ezm_lightning.model import PackedModel
from ezm_lightning.ops import squashed_gaussian
from ezm_lightning.ops.denormals import flushed_denormals
from ezm_lightning.ops.masks import width_masks
from ezm_lightning.planner import Planner


class Actor(Protocol):
    """Chooses actions in [-1, 1]. It may also have ``policy_first()``, for ``collect.policy_share``."""

    @property
    def extras(self) -> Sequence[str]:
        """The names of the columns it adds to replay beside the action: one float32 number per row."""
        ...

    def act(self, obs: Tensor, task: Tensor, generator: torch.Generator, *, explore: bool) -> dict[str, Tensor]:
        """``action`` [n, A] and each of the extras [n] for obs [n, D] of tasks [n], on their device.

        All randomness is the generator's, whose device is that of the weights. ``explore`` is for training.
        """
        ...

    def refresh_(self) -> None:
        """Copies the learner's weights for acting; does nothing if the actor shares them."""
        ...


def decide(actor: Actor, obs: Tensor, task: Tensor, generator: torch.Generator) -> Tensor:
    """Its actions [n, A] without exploration, computed without denormal numbers as in training."""
    with flushed_denormals():
        return actor.act(obs, task, generator, explore=False)["action"]


class Learner(Protocol):
    """A LightningModule that can be trained here."""

    def make_actor(self, *, own_weights: bool = False) -> Actor:
        """The actor of training and evaluation. With ``own_weights`` it may act in a thread while the learner learns,
        since its weights change only in ``refresh_``."""
        ...


class PlannerActor:
    """Acts by planning, and stores the search's value in replay."""

    extras: Sequence[str] = ("search_value",)

    def __init__(self, planner: Planner, model: PackedModel, *, own_weights: bool = False) -> None:
        self.planner, self.model, self.own_weights = planner, model, own_weights

    def act(self, obs: Tensor, task: Tensor, generator: torch.Generator, *, explore: bool) -> dict[str, Tensor]:
        """The plan's action; with ``explore`` the root has the planner's Gumbel noise."""
        device = generator.device
        noise = self.planner.sample_noise(self.model, len(obs), generator, explore=explore)
        plan = self.planner.plan(self.model, obs.to(device), task.to(device), noise)
        return {"action": plan["best_action"].to(obs.device), "search_value": plan["search_value"].to(obs.device)}

    def refresh_(self) -> None:
        if self.own_weights:
            self.model.refresh_()

    def policy_first(self) -> PolicyFirst:
        """An actor with these weights that acts without a search in a share of the decisions."""
        return PolicyFirst(self)


class PolicyActor:
    """Acts by the policy without a search: by its mean, or by a sample to explore."""

    extras: Sequence[str] = ()

    def __init__(self, model: PackedModel, *, sample: bool = False) -> None:
        self.model, self.sample = model, sample

    @torch.no_grad()
    def act(self, obs: Tensor, task: Tensor, generator: torch.Generator, *, explore: bool) -> dict[str, Tensor]:
        """The policy's mean; a sample if ``explore`` is true or if this actor always samples."""
        device = generator.device
        mean, log_std = self.model.policy(self.model.represent_policy(obs.to(device), task.to(device))[1])
        draws = explore or self.sample
        noise = torch.randn(mean.shape, generator=generator, device=device) if draws else torch.zeros_like(mean)
        action = squashed_gaussian.sample(mean, log_std, noise, self.model.action_mask[task.to(device)])
        return {"action": action.to(obs.device)}

    def refresh_(self) -> None:
        """Nothing: the weights are the learner's."""


class PolicyFirst:
    """Acts with a sample of the policy in a ``share`` of the decisions, drawn for each row, else by planning.

    What the policy was cloned from is right before values are: a search on wrong values is worse than none. What was
    not planned has no search value (NaN). With a share of 0 it is the planner, to the bit.
    """

    def __init__(self, planner: PlannerActor) -> None:
        self.planner, self.policy, self.extras = planner, PolicyActor(planner.model, sample=True), planner.extras
        self.share = 0.0

    def act(self, obs: Tensor, task: Tensor, generator: torch.Generator, *, explore: bool) -> dict[str, Tensor]:
        if self.share == 0:
            return self.planner.act(obs, task, generator, explore=explore)
        drawn = self.policy.act(obs, task, generator, explore=explore)
        nothing = {name: torch.full(task.shape, torch.nan, device=obs.device) for name in self.extras}
        if self.share == 1:
            return {**drawn, **nothing}
        planned = self.planner.act(obs, task, generator, explore=explore)
        chosen = (torch.rand(len(obs), generator=generator, device=generator.device) < self.share).to(obs.device)
        return {
            "action": torch.where(chosen[:, None], drawn["action"], planned["action"]),
            **{name: torch.where(chosen, nothing[name], planned[name]) for name in self.extras},
        }

    def refresh_(self) -> None:
        self.planner.refresh_()


class RandomActor:
    """Uniform actions in [-1, 1]; the extras of another actor are NaN.

    ``action_dims`` has one width per task. Padding is 0, up to the widest task and to ``least_dim``.
    """

    def __init__(self, action_dims: Sequence[int], extras: Sequence[str] = (), *, least_dim: int = 0) -> None:
        self.action_mask, self.extras = width_masks(action_dims, least_dim), tuple(extras)

    def act(self, obs: Tensor, task: Tensor, generator: torch.Generator, *, explore: bool) -> dict[str, Tensor]:
        mask = self.action_mask[task.to(self.action_mask.device)]
        uniform = torch.rand(mask.shape, generator=generator, device=generator.device).to(mask.device)
        nothing = {name: torch.full(task.shape, torch.nan, device=obs.device) for name in self.extras}
        return {"action": ((uniform * 2 - 1) * mask).to(obs.device), **nothing}

    def refresh_(self) -> None:
        """Nothing to refresh."""


class ZeroActor:
    """Zero actions, a baseline of doing nothing. ``action_dim`` is the padded width."""

    extras: Sequence[str] = ()

    def __init__(self, action_dim: int) -> None:
        self.action_dim = action_dim

    def act(self, obs: Tensor, task: Tensor, generator: torch.Generator, *, explore: bool) -> dict[str, Tensor]:
        return {"action": obs.new_zeros(len(obs), self.action_dim)}

    def refresh_(self) -> None:
        """Nothing to refresh."""
