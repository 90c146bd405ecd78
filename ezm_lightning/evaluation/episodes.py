"""Episodes for measuring, never for training: seeded by themselves, no exploration noise, full length."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from tensordict import TensorDictBase
from torch import Tensor
from torchrl.envs import EnvBase

from ezm_lightning.model import Inference
from ezm_lightning.ops import squashed_gaussian
from ezm_lightning.planner import Planner

Act = Callable[[TensorDictBase], Tensor]


@dataclass(frozen=True)
class EpisodeReturns:
    """One full-length episode per slot, scored under both termination protocols; each field [slots]."""

    honoured: Tensor  # return up to the task's own termination (the default score)
    ignored: Tensor  # return of the whole episode, played on through terminations (the authors' protocol)
    length: Tensor  # decisions up to the task's own termination


def planner_act(planner: Planner, model: Inference, seed: int) -> Act:
    """The greedy plan of ``model`` with its own generator: evaluating does not change training."""
    device = model.action_mask.device
    generator = torch.Generator(device=device).manual_seed(seed)

    def act(td: TensorDictBase) -> Tensor:
        noise = planner.sample_noise(model, len(td), generator, explore=False)
        return planner(model, td["obs"].to(device), td["task"].to(device), noise).best_action.cpu()

    return act


def policy_act(model: Inference, seed: int, *, sample: bool) -> Act:
    """The policy alone, without a search: its mean, or one draw a decision from a generator of its own."""
    device = model.action_mask.device
    generator = torch.Generator(device=device).manual_seed(seed)

    @torch.no_grad()
    def act(td: TensorDictBase) -> Tensor:
        obs, task = td["obs"].to(device), td["task"].to(device)
        mean, log_std = model.policy(model.initial_inference(obs, task).policy_input)
        noise = torch.randn(mean.shape, generator=generator, device=device) if sample else torch.zeros_like(mean)
        return squashed_gaussian.sample(mean, log_std, noise, model.action_mask[task]).cpu()

    return act


def random_act(env: EnvBase, seed: int) -> Act:
    """Uniform actions in [−1, 1]: the random floor."""
    generator = torch.Generator().manual_seed(seed)
    return lambda td: torch.rand(env.action_spec.shape, generator=generator) * 2 - 1


def zero_act(env: EnvBase) -> Act:
    """Zero actions: the do-nothing floor."""
    return lambda td: torch.zeros(env.action_spec.shape)


def run_episodes(env: EnvBase, act: Act, on_step: Callable[[Tensor], None] | None = None) -> EpisodeReturns:
    """Plays one episode in every slot of ``env`` (made with ``ignore_termination=True``) to its time limit.

    ``on_step`` sees, before each decision, which slots are still playing [slots].
    """
    slots = env.batch_size[0]
    honoured, ignored, length = torch.zeros(3, slots, dtype=torch.float64)
    playing, alive = torch.ones(2, slots, dtype=torch.bool)
    td = env.reset()
    while playing.any():
        if on_step is not None:
            on_step(playing)
        td["action"] = act(td)
        stepped, td = env.step_and_maybe_reset(td)
        result = stepped["next"]
        reward = result["reward"].squeeze(-1).double()
        ignored += reward * playing
        honoured += reward * (playing & alive)
        length += playing & alive
        alive &= ~result["termination"].squeeze(-1)
        playing &= ~result["done"].squeeze(-1)
    return EpisodeReturns(honoured, ignored, length)
