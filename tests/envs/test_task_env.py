"""``ezm_lightning.make_env``: any task is a Gymnasium environment, with the same steps as in the batched one."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env

import ezm_lightning
from ezm_lightning.envs import MultiTaskEnv


@pytest.mark.parametrize("task", ["dmc/cartpole-swingup", "gym/Hopper-v5", "hb/h1-walk"])
def test_gymnasium_finds_nothing_wrong(task) -> None:
    env = ezm_lightning.make_env(task)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check_env(env, skip_render_check=True)


def test_an_episode_is_that_of_the_batched_environment() -> None:
    """Step by step, to the bit, from the same state of the simulator."""
    task, repeat = "gym/Hopper-v5", 2
    batched = MultiTaskEnv([task], envs_per_task=1, action_repeat=repeat, seed=0)
    env = ezm_lightning.make_env(task, action_repeat=repeat)
    td = batched.reset()
    env.reset()
    env._slots.set_state(batched.get_state()["slots"])
    generator = np.random.default_rng(0)
    for _ in range(100):
        action = generator.uniform(-1, 1, 3).astype(np.float32)
        td["action"] = torch.from_numpy(action)[None]
        stepped, td = batched.step_and_maybe_reset(td)
        obs, reward, terminated, truncated, _ = env.step(action)
        after = stepped["next"]
        np.testing.assert_array_equal(obs, after["obs"][0].numpy())
        assert np.float32(reward) == after["reward"].item()
        assert (terminated, truncated) == (after["terminated"].item(), after["truncated"].item())
        if terminated:
            break
    assert terminated  # random actions let the hopper fall
    batched.close()


def test_an_episode_ends_at_its_time_limit_and_seeds_repeat() -> None:
    env = ezm_lightning.make_env("dmc/cartpole-balance", action_repeat=4, seed=3)
    first, _ = env.reset()
    for decision in range(1, 251):
        _, reward, terminated, truncated, _ = env.step(np.zeros(1))
        assert 0 <= reward <= 4
        assert not terminated and truncated == (decision == 250)
    second, _ = env.reset()
    again, _ = env.reset(seed=3)
    assert (first != second).any() and np.array_equal(first, again)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"task": "dmc/walker-wlk"}, "nearest: .*walker-walk"),
        ({"task": "dmc/walker-walk", "action_repeat": 0}, "action_repeat=0 must be at least 1"),
    ],
)
def test_mistakes_are_one_line(arguments, said) -> None:
    with pytest.raises(ValueError, match=said):
        ezm_lightning.make_env(**arguments)


def test_a_wrong_action_is_refused() -> None:
    env = ezm_lightning.make_env("dmc/cartpole-balance")
    env.reset()
    for action in (np.zeros(2), np.array([np.nan])):
        with pytest.raises(ValueError, match=r"takes a finite action of shape \[1\]"):
            env.step(action)
