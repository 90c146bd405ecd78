"""Replay behind a real TorchRL collector."""

from __future__ import annotations

import pytest
import torch
from tensordict import TensorDict
from torch import Tensor
from torchrl.collectors import Collector
from torchrl.data import Binary, Bounded, Categorical, Composite, Unbounded
from torchrl.envs import EnvBase

from .counting import (
    ACTION_DIM,
    OBS_DIM,
    WINDOW,
    Stream,
    endless,
    make_replay,
    random_ends,
)


class CountingEnv(EnvBase):
    """Stream as a TorchRL environment."""

    def __init__(self, slot_task: Tensor) -> None:
        n = len(slot_task)
        super().__init__(batch_size=[n])
        self.task = slot_task
        self.at = torch.zeros(n, 2)
        num_tasks = int(slot_task.max()) + 1
        self.observation_spec = Composite(obs=Unbounded((n, OBS_DIM)), task=Categorical(num_tasks, (n,)), shape=(n,))
        self.action_spec = Bounded(-1, 1, (n, ACTION_DIM))
        self.reward_spec = Unbounded((n, 1))
        flags = {key: Binary(1, (n, 1), dtype=torch.bool) for key in ("done", "terminated", "truncated")}
        self.full_done_spec = Composite(flags, shape=(n,))

    def _set_seed(self, seed: int | None) -> None: ...

    def _out(self, **entries: Tensor) -> TensorDict:
        slot = torch.arange(len(self.at), dtype=torch.float32)[:, None]
        obs = torch.cat([slot, self.at, torch.ones_like(slot)], 1)
        return TensorDict({"obs": obs, "task": self.task, **entries}, self.batch_size)

    def _reset(self, td: TensorDict | None = None, **kwargs) -> TensorDict:
        fresh = torch.ones(len(self.at), dtype=torch.bool)
        if td is not None and "_reset" in td:
            fresh = td["_reset"].flatten()
        self.at = torch.where(fresh[:, None], torch.stack([self.at[:, 0] + 1, torch.zeros(len(fresh))], 1), self.at)
        no = torch.zeros(len(fresh), 1, dtype=torch.bool)
        return self._out(done=no, terminated=no.clone(), truncated=no.clone())

    def _step(self, td: TensorDict) -> TensorDict:
        reward = self.at[:, 1:] + 0.5
        self.at = self.at + torch.tensor([0.0, 1.0])
        end = self.at[:, 1:] >= 4 + self.task[:, None]
        terminated = end & (self.at[:, :1] % 2 == 0)
        return self._out(reward=reward, done=end, terminated=terminated, truncated=end & ~terminated)


def test_a_collector_fills_it():
    replay = make_replay(2, 2, batch_size=400)

    def policy(td: TensorDict) -> TensorDict:
        return td.set("action", td["obs"][:, :ACTION_DIM] / 10).set("search_value", td["obs"][:, 2] / 2)

    env = CountingEnv(replay.slot_task)
    settings = {"total_frames": -1, "auto_register_policy_transforms": False}
    collector = Collector(env, policy, frames_per_batch=replay.num_slots, **settings)
    for _, td in zip(range(30), collector, strict=False):
        replay.extend(td[:, 0])
    collector.shutdown()
    assert replay.num_transitions.tolist() == [60, 60]
    batch = replay.sample()
    slot, episode, step = batch.obs[..., 0], batch.obs[..., 1], batch.obs[..., 2]
    length = (4 + batch.task)[:, None]
    inside = step[:, :1] + torch.arange(WINDOW) <= length
    ended = episode[:, :1] < env.at[slot[:, 0].long(), :1]
    assert torch.where(ended, batch.valid == inside, batch.valid <= inside).all()
    assert ended.any() and not ended.all()
    assert torch.equal(slot // 2, batch.task[:, None].expand(-1, WINDOW).float())
    assert torch.where(batch.valid, episode == episode[:, :1], True).all()
    assert torch.where(batch.valid, step == step[:, :1] + torch.arange(WINDOW), True).all()
    assert torch.equal(batch.final, batch.valid & (step == length) & (episode % 2 == 0))
    transition = batch.valid[:, 1:]
    assert torch.where(transition, batch.reward[:, :-1] == step[:, :-1] + 0.5, True).all()
    assert len(replay) == 120


def stored(replay) -> dict:
    rows = replay.buffer.storage[:][replay.writer.filled()]
    return {key: rows[key].nan_to_num(-1.0) if key == "search_value" else rows[key] for key in replay.schema}


def test_roll_outs_are_stored_as_their_steps_are():
    """[T, n] of whoever stacks steps, [n, T] of TorchRL, one step at a time: the same rows."""
    steps = [Stream(make_replay().slot_task, random_ends(3, 4))]
    steps = [steps[0].step() for _ in range(12)]
    one, stacked, torchrl = make_replay(), make_replay(), make_replay()
    for step in steps:
        one.extend(step)
    stacked.extend(torch.stack(steps[:5], 0))
    stacked.extend(torch.stack(steps[5:], 0))
    rollout = torch.stack(steps, 1)
    rollout.names = [None, "time"]
    torchrl.extend(rollout)
    for other in (stacked, torchrl):
        assert all(torch.equal(stored(one)[key], value) for key, value in stored(other).items())
    with pytest.raises(
        ValueError, match=r'expected a roll-out \[T, 2\], or \[2, T\] with the last dimension named "time"'
    ):
        one.extend(torch.stack(steps, 1))


def test_an_environments_own_roll_out_is_taken():
    replay = make_replay()
    env = CountingEnv(replay.slot_task)
    td = env.rollout(9, lambda td: td.set("action", td["obs"][:, :ACTION_DIM] / 10), break_when_any_done=False)
    replay.extend(td)
    assert len(replay) == 18 and replay.num_transitions.tolist() == [9, 9]


def test_rows_without_a_search_have_no_search_value():
    replay = make_replay()
    stream = Stream(replay.slot_task, endless)
    for _ in range(6):
        replay.extend(stream.step().exclude("search_value"))
    assert stored(replay)["search_value"].eq(-1).all()
    assert replay.sample().extras["search_value"].isnan().all()
