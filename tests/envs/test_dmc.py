"""The Control Suite as seen through the batched environment equals the suite itself."""

import numpy as np
import pytest
import torch

from ezm_lightning.envs import MultiTaskEnv
from ezm_lightning.envs.dmc import SuiteTask
from ezm_lightning.envs.dmc_dims import DIMS
from ezm_lightning.envs.simulator import to_box

suite = pytest.importorskip("dm_control.suite")


def flat(time_step):
    return np.concatenate([np.ravel(x) for x in time_step.observation.values()]).astype(np.float32)


@pytest.mark.parametrize(
    "task", ["cartpole-swingup", "walker-run", "ball_in_cup-catch", "acrobot-swingup", "hopper-hop", "quadruped-run"]
)
def test_equals_the_suite(task):
    env = MultiTaskEnv([f"dmc/{task}"], action_repeat=2)
    env._groups[0].slots.seed([7])
    domain, name = task.split("-")
    own = suite.load(domain, name, task_kwargs={"random": 7})
    box = own.action_spec()
    td = env.reset()
    assert np.array_equal(td["obs"][0].numpy(), flat(own.reset()))
    for action in torch.rand(20, 1, DIMS[task][1]) * 2 - 1:
        td = env.step(td.set("action", action))["next"]
        scaled = box.minimum + (action[0].numpy().astype(np.float64) + 1) * (box.maximum - box.minimum) / 2
        taken = [own.step(scaled) for _ in range(2)]
        np.testing.assert_allclose(td["obs"][0].numpy(), flat(taken[-1]), rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(td["reward"].item(), sum(step.reward for step in taken), rtol=1e-4, atol=1e-5)


def test_equals_the_suite_bit_for_bit_where_the_box_is_one():
    env, own = MultiTaskEnv(["dmc/cheetah-run"]), suite.load("cheetah", "run", task_kwargs={"random": 7})
    env._groups[0].slots.seed([7])
    td = env.reset()
    own.reset()
    for action in torch.rand(50, 1, 6) * 2 - 1:
        td = env.step(td.set("action", action))["next"]
        time_step = own.step(action[0].numpy().astype(np.float64))
        assert np.array_equal(td["obs"][0].numpy(), flat(time_step)) and td["reward"].item() == np.float32(
            time_step.reward
        )


def test_an_episode_is_1000_steps():
    env = MultiTaskEnv(["dmc/pendulum-swingup"], action_repeat=100)
    td, done = env.reset(), []
    for _ in range(11):
        transition, td = env.step_and_maybe_reset(td.set("action", torch.zeros(1, 1)))
        done.append(transition["next", "truncated"].item())
    assert done == [False] * 9 + [True, False] and env.env_steps.tolist() == [1100]


@pytest.mark.parametrize("task", [task for task in DIMS if not task.startswith("dog") or task.endswith("fetch")])
def test_dimensions_are_the_simulators(task):
    simulator = SuiteTask(task)
    simulator.seed(0)
    assert (np.shape(simulator.reset())[0], len(simulator.centre)) == DIMS[task]


def test_boxes():
    centre, half_width = to_box(np.array([-1, -0.8, 0, -np.inf, -1e10]), np.array([1, 0.8, 3, np.inf, 1e10]))
    np.testing.assert_allclose(centre, [0, 0, 1.5, 0, 0])
    np.testing.assert_allclose(half_width, [1, 0.8, 1.5, 1, 1])
