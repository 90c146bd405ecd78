"""A whole agent in one file: a linear policy, fitted to the actions that were paid more than usual for their task."""

import lightning as L
import torch
from torch import Tensor, nn


class LinearActor:
    """tanh of the policy's mean, with noise to explore."""

    extras = ("mean_abs",)  # a number that replay keeps beside each action

    def __init__(self, policy: nn.Linear) -> None:
        self.policy = policy

    @torch.no_grad()
    def act(self, obs: Tensor, task: Tensor, generator: torch.Generator, *, explore: bool) -> dict[str, Tensor]:
        mean = self.policy(obs)
        noise = torch.randn(mean.shape, generator=generator) if explore else torch.zeros_like(mean)
        return {"action": torch.tanh(mean + noise), "mean_abs": mean.abs().mean(-1)}

    def refresh_(self) -> None:
        """The weights are the learner's."""


class LinearAgent(L.LightningModule):
    """One linear layer and a squared loss, weighted by the reward."""

    def __init__(self, *, obs_dims: list[int], action_dims: list[int], lr: float) -> None:
        super().__init__()
        self.policy, self.lr = nn.Linear(max(obs_dims), max(action_dims)), lr
        self.register_buffer("mean_reward", torch.zeros(len(obs_dims)))

    def make_actor(self, *, own_weights: bool = False) -> LinearActor:
        return LinearActor(self.policy)

    def training_step(self, batch, batch_idx: int) -> dict[str, Tensor]:
        obs, action, reward = batch.obs[:, 0], batch.action[:, 0], batch.reward[:, 0]
        advantage = reward - self.mean_reward[batch.task]
        self.mean_reward[batch.task] += 0.01 * advantage
        error = (torch.tanh(self.policy(obs)) - action).square().sum(-1)
        self.log("error", error.mean(), batch_size=len(batch))
        self.log("mean_abs", batch.extras["mean_abs"][:, 0].nanmean(), batch_size=len(batch))
        loss = advantage.clamp(min=0) * error
        return {"loss": loss.mean(), "priority": loss.detach() + 1e-3, "index": batch.index}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=self.lr)
