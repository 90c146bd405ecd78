"""Episodes kept whole: what an actor sees, does and is paid, and which of them are good enough to learn from."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from tensordict import TensorDictBase
from torchrl.envs import EnvBase

from ezm_lightning.evaluation.episodes import Act
from ezm_lightning.replay.minari_format import Episode

LEAST_SHARE = 0.75  # of the median return


@dataclass(frozen=True)
class Played:
    """An episode, and whether the goal held after any of its decisions; None where the task does not say."""

    episode: Episode
    success: bool | None

    @property
    def return_(self) -> float:
        return float(self.episode.reward.astype(np.float64).sum())


def record_episodes(env: EnvBase, act: Act) -> list[Played]:
    """Plays one episode in every slot of ``env``, to the task's own termination or its time limit; by slot."""
    td, steps = env.reset(), []
    slots = env.batch_size[0]
    playing, lengths = torch.ones(slots, dtype=torch.bool), torch.zeros(slots, dtype=torch.int64)
    while playing.any():
        td["action"] = act(td)
        stepped, td = env.step_and_maybe_reset(td)
        steps.append(stepped.clone())
        lengths += playing
        playing &= ~stepped["next"]["done"].squeeze(-1)
    roll: Any = torch.stack(steps)  # [T, slots]
    tasks = env.slot_task.tolist()
    widths = [(env.obs_dims[task], env.action_dims[task]) for task in tasks]
    reports = [env.task_specs[task].reports_success for task in tasks]
    return [
        Played(_episode(steps, *width), bool(steps["next"]["success"].any()) if says else None)
        for steps, width, says in zip(
            (roll[:length, slot] for slot, length in enumerate(lengths.tolist())), widths, reports, strict=True
        )
    ]


def _episode(steps: TensorDictBase, obs_dim: int, action_dim: int) -> Episode:
    """The episode of a slot's steps [N], at its task's own widths."""
    after = steps["next"]
    return Episode(
        obs=torch.cat([steps["obs"], after["obs"][-1:]])[:, :obs_dim].numpy(),
        action=steps["action"][:, :action_dim].numpy(),
        reward=after["reward"].squeeze(-1).numpy(),
        terminated=after["terminated"].squeeze(-1).numpy(),
        truncated=(after["truncated"] & ~after["terminated"]).squeeze(-1).numpy(),
    )


def good_ones(played: Sequence[Played]) -> list[Played]:
    """The episodes whose return is above 0.75 times the median (1.25 times, if the median is negative), and that have
    succeeded, if the task reports success (Newt's filter)."""
    median = statistics.median(episode.return_ for episode in played)
    least = median * (LEAST_SHARE if median >= 0 else 2 - LEAST_SHARE)
    return [episode for episode in played if episode.return_ > least and episode.success is not False]
