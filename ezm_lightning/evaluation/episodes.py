"""Episodes for measuring, never for training: seeded by themselves, no exploration noise, full length."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tensordict import TensorDictBase
from torch import Tensor
from torchrl.envs import EnvBase

from ezm_lightning.acting import Actor, RandomActor, ZeroActor

Act = Callable[[TensorDictBase], Tensor]


@dataclass(frozen=True)
class EpisodeReturns:
    """One full-length episode per slot, scored under both termination protocols; each field [slots]."""

    honoured: Tensor  # return up to and with the step of the task's own termination (the default score)
    ignored: Tensor  # return of the whole episode, played on through terminations (the authors' protocol)
    length: Tensor  # decisions up to the task's own termination
    success: (
        Tensor  # bool: the goal held after a decision, up to the task's own termination; False where none is reported
    )


def evaluation_seed(seed: int) -> int:
    """That of the initial states which a run with ``seed`` is evaluated on: others than its training begins with."""
    return seed + 10_000


def floor_actors(action_dims: Sequence[int], action_dim: int) -> dict[str, Actor]:
    """Who plays the floors: "random" and "zero" actions of tasks with these widths, padded to ``action_dim``."""
    return {"random": RandomActor(action_dims, least_dim=action_dim), "zero": ZeroActor(action_dim)}


def play(env: EnvBase, actor: Actor, *, seed: int, device: torch.device | str = "cpu", **hooks: Any) -> EpisodeReturns:
    """One episode in every slot, whose initial states and whose actor's randomness are those of ``seed``.

    ``device`` is the actor's; ``hooks`` are those of :func:`run_episodes`.
    """
    env.set_seed(seed)
    return run_episodes(env, chooser(actor, torch.Generator(device=device).manual_seed(seed)), **hooks)


def chooser(actor: Actor, generator: torch.Generator) -> Act:
    """The actor's actions without exploration; its randomness, such as a search's, is the generator's."""
    return lambda td: actor.act(td["obs"], td["task"], generator, explore=False)["action"]


def run_episodes(
    env: EnvBase,
    act: Act,
    on_step: Callable[[Tensor], None] | None = None,
    on_reward: Callable[[Tensor, Tensor], None] | None = None,
) -> EpisodeReturns:
    """Plays one episode in every slot of ``env`` (made with ``ignore_termination=True``) to its time limit.

    ``on_step`` sees, before each decision, which slots are still playing [slots]; ``on_reward``, after it, the rewards
    [slots] and which of them count, up to the task's own termination.
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
        if on_reward is not None:
            on_reward(reward, playing & alive)
        ignored += reward * playing
        honoured += result["reward_to_end"].squeeze(-1).double() * (playing & alive)
        length += playing & alive
        if "success" in result.keys():  # noqa: SIM118  (a TensorDict)
            success |= result["success"].squeeze(-1) & playing & alive
        alive &= ~result["termination"].squeeze(-1)
        playing &= ~result["done"].squeeze(-1)
    return EpisodeReturns(honoured, ignored, length, success)
