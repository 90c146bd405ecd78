"""Environments that count: every row's observation says which slot, episode and step it is."""

from __future__ import annotations

import torch
from tensordict import TensorDict
from torch import Tensor

from ezm_lightning.replay import Replay
from ezm_lightning.types import Batch

OBS_DIM, ACTION_DIM = 4, 2  # an observation is (slot, episode, step in the episode, 1)
SIZES = {"obs_dim": OBS_DIM, "action_dim": ACTION_DIM, "unroll_steps": 2, "td_steps": 2}
WINDOW = 5


def make_replay(num_tasks: int = 2, envs_per_task: int = 1, **changes) -> Replay:
    arguments = {"capacity": 40 * envs_per_task, "batch_size": 64, "extras": ["search_value"], **SIZES, **changes}
    return Replay(slot_task=torch.arange(num_tasks).repeat_interleave(envs_per_task), **arguments)


class Stream:
    """Counting environments in step; `ends(slot, episode, step)` says how a transition ends: "", "t", "u" or "tu"."""

    def __init__(self, slot_task: Tensor, ends) -> None:
        self.slot_task = slot_task
        self.ends = ends
        self.at = [(0, 0)] * len(slot_task)  # episode, step

    def obs(self) -> Tensor:
        return torch.tensor([(slot, *at, 1) for slot, at in enumerate(self.at)], dtype=torch.float32)

    def step(self) -> TensorDict:
        obs, n = self.obs(), len(self.at)
        ends = [self.ends(slot, *at) for slot, at in enumerate(self.at)]
        terminated, truncated = (torch.tensor([flag in end for end in ends])[:, None] for flag in "tu")
        self.at = [(episode, step + 1) for episode, step in self.at]
        after = self.obs()
        self.at = [
            (episode + 1, 0) if end else (episode, step) for (episode, step), end in zip(self.at, ends, strict=True)
        ]
        root = {
            "obs": obs,
            "action": -obs[:, :ACTION_DIM] / 1000,
            "search_value": obs[:, 2] / 2,
            "task": self.slot_task,
            "action_mask": torch.ones(n, ACTION_DIM, dtype=torch.bool),
        }
        done = {"terminated": terminated, "truncated": truncated, "done": terminated | truncated}
        return TensorDict({**root, "next": {"obs": after, "reward": obs[:, 2:3] + 0.5, **done}}, [n])


def endless(slot: int, episode: int, step: int) -> str:
    return ""


def fill(replay: Replay, steps: int, ends=endless) -> Stream:
    stream = Stream(replay.slot_task, ends)
    for _ in range(steps):
        replay.extend(stream.step())
    return stream


def random_ends(seed: int, mean_length: float):
    generator = torch.Generator().manual_seed(seed)

    def ends(slot: int, episode: int, step: int) -> str:
        if torch.rand((), generator=generator) * mean_length > 1:
            return ""
        return ["t", "u", "tu"][int(torch.randint(3, (), generator=generator))]

    return ends


def starts(batch: Batch) -> list[tuple[int, int, int]]:
    return [tuple(int(x) for x in obs[:3]) for obs in batch.obs[:, 0].tolist()]


def priorities(replay: Replay) -> dict[tuple[int, int, int], float]:
    """Priority ** exponent of every start that can be drawn."""
    replay.sampler.settle()
    rows = replay.buffer.storage[:]
    drawable = (replay.sampler.mass > 0).nonzero().flatten().tolist()
    return {tuple(int(x) for x in rows["obs"][r, :3].tolist()): replay.sampler.mass[r].item() for r in drawable}
