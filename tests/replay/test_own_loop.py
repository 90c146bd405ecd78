"""Replay in somebody's own TorchRL loop: TorchRL's environment, a network of their own, extend, sample, priorities."""

from __future__ import annotations

import torch
from torch import nn
from torchrl.envs import StepCounter, TransformedEnv
from torchrl.envs.utils import step_mdp

from ezm_lightning.envs import MultiTaskEnv
from ezm_lightning.replay import Replay


def test_the_action_that_is_stored_is_the_one_applied():
    env = MultiTaskEnv(["dmc/cartpole-balance", "dmc/walker-walk"])
    action = torch.tensor([[1.5, 0.25, -0.5, 1, 1, 1], [-2.0, 0.25, -0.5, 1, -1, 3]])
    td = env.step(env.reset().set("action", action.clone()))
    for step, first in ((td, [1, 0, 0, 0, 0, 0]), (td.exclude("action_mask"), [1, 0.25, -0.5, 1, 1, 1])):
        replay = Replay(
            slot_task=[0, 1], obs_dim=24, action_dim=6, capacity=10, unroll_steps=1, td_steps=1, batch_size=2
        )
        replay.extend(step)
        assert replay.stored("action")[0].tolist() == [first, [-1, 0.25, -0.5, 1, -1, 1]]
    assert torch.equal(td["action"], action)
    env.close()


def test_a_loop_of_thirty_lines_learns_rewards_with_it():
    torch.manual_seed(0)
    env = TransformedEnv(
        MultiTaskEnv(["dmc/cartpole-balance"], envs_per_task=4, action_repeat=4, seed=0), StepCounter()
    )
    replay = Replay(slot_task=[0] * 4, obs_dim=5, action_dim=1, capacity=2_000, unroll_steps=1, td_steps=1,
                    batch_size=64, priority_exponent=0.6)  # fmt: skip
    network = nn.Sequential(nn.Linear(6, 64), nn.Tanh(), nn.Linear(64, 1))
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    losses, stored = [], 0
    td = env.reset()
    for step in range(250):
        td["action"] = torch.rand(4, 1) * 2 - 1
        td = env.step(td)
        replay.extend(td)
        stored += 4
        td = env.reset(step_mdp(td)) if td["next", "done"].any() else step_mdp(td)
        if step < 20:
            continue
        batch = replay.sample()
        predicted = network(torch.cat([batch.obs[:, 0], batch.action[:, 0]], -1)).squeeze(-1)
        error = predicted - batch.reward[:, 0]
        loss = (batch.weight * error.square()).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        replay.update_priority(batch.index, error.detach().abs() + 1e-6)
        losses.append(float(loss))
    env.close()
    assert len(replay) == stored == 1000
    assert sum(losses[-20:]) < 0.1 * sum(losses[:20])
    assert replay.sampler.mass.unique().numel() > 100  # the priorities are those of the loop
