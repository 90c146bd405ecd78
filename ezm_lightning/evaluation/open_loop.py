"""Acting in open loop: between two looks at the environment, actions come from latents that the model predicts.

At a look z = represent(o). Then, for j = 0 … N−1, the action a_j depends only on the latent z_j, and z_{j+1} =
dynamics(z_j, a_j); the observation that the environment returns is ignored. N = 1 is the closed loop. The N actions are
a plan made at the look but computed step by step: no later observation enters it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ezm_lightning.acting import PlannerActor
from ezm_lightning.model import PackedModel
from ezm_lightning.ops import squashed_gaussian
from ezm_lightning.planner import Planner, PlannerNoise

Chooser = Callable[["Blind"], Tensor]  # an action [n, A] at a latent


@dataclass(frozen=True)
class Blind:
    """The inputs of an action between two looks."""

    planner: Planner
    model: PackedModel
    latent: Tensor  # [n, Z], predicted
    task: Tensor  # [n]
    noise: PlannerNoise  # of this decision
    first: Tensor  # [n, A], the action taken at the look


def search(blind: Blind) -> Tensor:
    """A new search from the predicted latent."""
    return blind.planner.from_latent(blind.model, blind.latent, blind.task, blind.noise)["best_action"]


def policy(blind: Blind) -> Tensor:
    """The policy's mean at the predicted latent."""
    return policy_mean(blind.model, blind.latent, blind.task)


def hold(blind: Blind) -> Tensor:
    """The action of the look again: a floor that a good model must beat."""
    return blind.first


WAYS: dict[str, Chooser] = {"search": search, "policy": policy, "hold": hold}


def policy_mean(model: PackedModel, latent: Tensor, task: Tensor) -> Tensor:
    """The policy's mean action [n, A] at latents [n, Z] of tasks [n]."""
    mean, log_std = model.policy(model.latent_inference(latent, model.embed(task)).policy_input)
    return squashed_gaussian.sample(mean, log_std, torch.zeros_like(mean), model.action_mask[task])


class OpenLoopActor:
    """An actor that looks at every ``interval``-th decision; all slots begin their episodes together.

    ``way`` is the choice of actions between looks; at a look it is the search, or the policy for ``policy``. The
    planner's noise is drawn at every decision, used or not, so that a decision has the same noise for every interval.
    ``drift`` collects the errors of the predictions, if it is given.
    """

    extras: Sequence[str] = ()

    def __init__(self, actor: PlannerActor, *, interval: int, way: str, drift: Drift | None = None) -> None:
        self.planner, self.model = actor.planner, actor.model
        self.interval, self.way, self.drift = interval, way, drift
        self.decision = 0
        self.latent = self.first = torch.empty(0)

    @torch.no_grad()
    def act(self, obs: Tensor, task: Tensor, generator: torch.Generator, *, explore: bool) -> dict[str, Tensor]:
        """The action for this decision; ``obs`` is read only at a look and for the drift."""
        obs_here, task_here = obs.to(generator.device), task.to(generator.device)
        noise = self.planner.sample_noise(self.model, len(obs), generator, explore=explore)
        since = self.decision % self.interval
        if since == 0:
            self.latent = self.model.represent(obs_here, task_here)
            action = self._look(obs_here, task_here, noise)
            self.first = action
        else:
            action = WAYS[self.way](Blind(self.planner, self.model, self.latent, task_here, noise, self.first))
        if self.interval > 1:
            self._imagine(action, obs_here, task_here, since)
        self.decision += 1
        return {"action": action.to(obs.device)}

    def _look(self, obs: Tensor, task: Tensor, noise: PlannerNoise) -> Tensor:
        if self.way == "policy":
            return policy_mean(self.model, self.latent, task)
        return self.planner(self.model, obs, task, noise).best_action

    def _imagine(self, action: Tensor, obs: Tensor, task: Tensor, since: int) -> None:
        """Moves the latent by one action, and collects its error and that of the predicted reward."""
        heads = torch.zeros(1, 1, dtype=torch.int64, device=action.device)
        step = self.model.recurrent_inference(self.latent[:, None], action[:, None], self.model.embed(task), heads)
        if self.drift is not None:
            self.drift.predicted(self.model, self.latent, obs, task, step.reward[:, 0], since)
        self.latent = step.latent[:, 0]

    def refresh_(self) -> None:
        """Nothing: it acts with a trained agent."""


class Drift:
    """Means, per task and number of decisions since the look, of two errors of the model's predictions.

    The latent's is 1 − cos(projection(z_j), projection(represent(o_{t+j}))), the reward's |r̂ / s − r| of a decision,
    where ``scale`` [T] has each task's s, NaN for a task that was not learned, whose error is then unknown; None:
    rewards are predicted in their own units.
    """

    def __init__(self, num_tasks: int, interval: int, scale: Tensor | None = None) -> None:
        self.scale = torch.ones(num_tasks) if scale is None else scale.cpu()
        self.latent, self.reward, self.count = torch.zeros(3, num_tasks, interval, dtype=torch.float64)
        self._pending: tuple[Tensor, Tensor, Tensor, int] | None = None

    def predicted(
        self, model: PackedModel, latent: Tensor, obs: Tensor, task: Tensor, reward: Tensor, since: int
    ) -> None:
        """Stores the predictions of this decision, before its reward is known."""
        project, real = model.model.project, model.represent(obs, task)
        self._pending = (
            task.cpu(),
            1 - F.cosine_similarity(project(latent.float()), project(real.float()), dim=-1).double().cpu(),
            reward.double().cpu() / self.scale[task.cpu()],
            since,
        )

    def paid(self, reward: Tensor, counts: Tensor) -> None:
        """Adds the errors of this decision for its rewards [n] and which of them count; a hook for ``run_episodes``."""
        assert self._pending is not None
        task, latent, predicted, since = self._pending
        for total, values in (
            (self.latent, latent),
            (self.reward, (predicted - reward).abs()),
            (self.count, torch.ones_like(reward)),
        ):
            total[:, since].index_add_(0, task, values * counts)

    def means(self) -> tuple[Tensor, Tensor]:
        """The mean errors of the latent and of the reward, each [T, N]; NaN without data."""
        return self.latent / self.count, self.reward / self.count
