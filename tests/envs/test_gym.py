"""Gymnasium environments through the batched environment."""

import numpy as np
import pytest
import torch

from ezm_lightning.envs import MultiTaskEnv, task_spec

gymnasium = pytest.importorskip("gymnasium")


@pytest.mark.parametrize("name", ["Hopper-v5", "Pendulum-v1"])
def test_equals_gymnasium(name):
    env, own = MultiTaskEnv([f"gym/{name}"]), gymnasium.make(name)
    env._groups[0].slots.seed([7])
    td = env.reset()
    assert np.array_equal(td["obs"][0].numpy(), own.reset(seed=7)[0].astype(np.float32))
    for action in torch.rand(60, 1, env.action_dims[0]) * 2 - 1:
        transition, td = env.step_and_maybe_reset(td.set("action", action))
        obs, reward, terminated, _, _ = own.step(action[0].numpy() * own.action_space.high)
        assert np.array_equal(transition["next", "obs"][0].numpy(), obs.astype(np.float32))
        assert transition["next", "reward"].item() == np.float32(reward)
        assert transition["next", "terminated"].item() == terminated
        if terminated:
            assert np.array_equal(td["obs"][0].numpy(), own.reset()[0].astype(np.float32))


def test_the_registered_time_limit_is_used():
    assert task_spec("gym/Pendulum-v1").max_episode_steps == 200
    env = MultiTaskEnv(["gym/Pendulum-v1"], action_repeat=150)
    td = env.reset()
    ends = []
    for _ in range(3):
        transition, td = env.step_and_maybe_reset(td.set("action", torch.zeros(1, 1)))
        ends.append(transition["next", "truncated"].item())
    assert ends == [False, True, False] and env.env_steps.tolist() == [350]


def test_ignored_termination_goes_on():
    env = MultiTaskEnv(["gym/Hopper-v5"], ignore_termination=True)
    td, told = env.reset(), 0
    for _ in range(150):
        transition, td = env.step_and_maybe_reset(td.set("action", torch.ones(1, 3)))
        assert not transition["next", "done"].any()
        told += int(transition["next", "termination"])
    assert told > 1


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("gym/HalfCheeta-v5", "nearest: HalfCheetah-v5"),
        ("gym/CartPole-v1", r"action space Discrete\(2\)"),
        ("gym/FrozenLake-v1", r"observation space Discrete\(16\)"),
        ("gym/Pendulum-v9", "Pendulum-v1"),
    ],
)
def test_unknown_ids_and_unfit_spaces_are_refused(name, told):
    with pytest.raises(ValueError, match=told):
        task_spec(name)


def test_a_missing_module_is_named():
    with pytest.raises(ImportError, match="no_such_module"):
        task_spec("gym/no_such_module:Reach-v0")
