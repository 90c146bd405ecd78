"""Episodes for measuring, never for training: with their own seed, without exploration noise, full length."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tensordict import TensorDictBase
from torch import Tensor
from torchrl.envs import EnvBase

from ezm_lightning.acting import Actor, RandomActor, ZeroActor, decide

Act = Callable[[TensorDictBase], Tensor]


@dataclass(frozen=True)
class EpisodeReturns:
    """One full-length episode per slot, scored under both termination protocols; each field [slots]."""

    honoured: Tensor  # return up to the step of the task's own termination, included (the default score)
    ignored: Tensor  # return of the whole episode, also after a termination (the authors' protocol)
    length: Tensor  # decisions up to the task's own termination
    success: Tensor  # bool: the goal was reached up to the task's own termination; False if it is not reported


def evaluation_seed(seed: int) -> int:
    """The seed of evaluations of a run with ``seed``: their initial states differ from those of training."""
    return seed + 10_000


def floor_actors(action_dims: Sequence[int], action_dim: int) -> dict[str, Actor]:
    """The actors of the floors: "random" and "zero" actions of tasks with these widths, padded to ``action_dim``."""
    return {"random": RandomActor(action_dims, least_dim=action_dim), "zero": ZeroActor(action_dim)}


def play(env: EnvBase, actor: Actor, *, seed: int, device: torch.device | str = "cpu", **hooks: Any) -> EpisodeReturns:
    """One episode in every slot; ``seed`` gives the initial states and the actor's random numbers.

    ``device`` is the actor's; ``hooks`` are those of :func:`run_episodes`.
    """
    env.set_seed(seed)
    return run_episodes(env, chooser(actor, torch.Generator(device=device).manual_seed(seed)), **hooks)


def chooser(actor: Actor, generator: torch.Generator) -> Act:
    """The actor's actions without exploration; random numbers, such as a search's, come from the generator."""

    def act(td: TensorDictBase) -> Tensor:
        return decide(actor, td["obs"], td["task"], generator)

    return act


def run_episodes(
    env: EnvBase,
    act: Act,
    on_step: Callable[[Tensor], None] | None = None,
    on_reward: Callable[[Tensor, Tensor], None] | None = None,
) -> EpisodeReturns:
    """Plays one episode in every slot of ``env`` (made with ``ignore_termination=True``) to its time limit.

    ``on_step`` gets, before each decision, which slots are still playing [slots]. ``on_reward`` gets, after it, the
    rewards [slots] and which of them count, both up to the task's own termination.
    """
    slots = env.batch_size[0]
    honoured, ignored, length = torch.zeros(3, slots, dtype=torch.float64)
    playing, alive = torch.ones(2, slots, dtype=torch.bool)
    success = torch.zeros(slots, dtype=torch.bool)
    td = env.reset()
    while playing.any():
        if on_step is not None:
            on_step(playing)
        td["action"] = act(td)
        stepped, td = env.step_and_maybe_reset(td)
        result = stepped["next"]
        reward = result["reward"].squeeze(-1).double()
        to_end = result["reward_to_end"].squeeze(-1).double()
        if on_reward is not None:
            on_reward(to_end, playing & alive)
        ignored += reward * playing
        honoured += to_end * (playing & alive)
        length += playing & alive
        if "success" in result.keys():  # noqa: SIM118  (a TensorDict)
            success |= result["success"].squeeze(-1) & playing & alive
        alive &= ~result["termination"].squeeze(-1)
        playing &= ~result["done"].squeeze(-1)
    return EpisodeReturns(honoured, ignored, length, success)
