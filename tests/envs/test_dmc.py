"""The Control Suite as stepped here equals the suite itself."""

import numpy as np
import pytest
import torch

from ezm_lightning.envs import MultiTaskEnv
from ezm_lightning.envs.dmc import SuiteTask
from ezm_lightning.envs.dmc_dims import DIMS
from ezm_lightning.envs.simulator import to_box

suite = pytest.importorskip("dm_control.suite")
PhysicsError = pytest.importorskip("dm_control.rl.control").PhysicsError


def load(task, seed):
    """The suite's own environment, without the GL contexts that heightfield tasks make at a reset."""
    own = suite.load(*task.split("-"), task_kwargs={"random": 0})  # as ours: LQR draws its model here
    own.physics.__class__ = type("Physics", (type(own.physics),), {"contexts": None})
    own.task.random.seed(seed)
    return own


def all_of(time_step):
    return np.concatenate([np.ravel(x) for x in time_step.observation.values()])


@pytest.mark.parametrize("task", DIMS)
def test_equals_the_suite_bit_for_bit(task):
    simulator, own, random = SuiteTask(task), load(task, seed=7), np.random.default_rng(0)
    simulator.seed(7)
    for _ in range(2):  # episodes
        obs = simulator.reset()
        assert (np.shape(obs)[0], len(simulator.centre)) == DIMS[task]
        assert np.array_equal(obs, all_of(own.reset()))
        for action in random.uniform(-1, 1, (12, simulator.action_dim)):
            got = simulator.advance(action, 2, True)
            taken = [own.step(simulator.centre + simulator.half_width * action) for _ in range(2)]
            assert np.array_equal(got.obs, all_of(taken[-1]))
            assert got.reward == float(taken[0].reward) + float(taken[1].reward) and got.steps == 2
            for field in ("qpos", "qvel", "qacc", "xpos", "sensordata"):
                ours, theirs = (getattr(each.physics.data, field) for each in (simulator, own))
                assert np.array_equal(ours, theirs), field


def test_a_termination_is_the_suites():
    simulator, own = SuiteTask("lqr-lqr_2_1"), load("lqr-lqr_2_1", seed=7)
    simulator.reset(), own.reset()
    for physics in (simulator.physics, own.physics):
        with physics.reset_context():
            physics.data.qpos[:] = physics.data.qvel[:] = 0.0
    ended = own.step(np.zeros(1))
    got = simulator.advance(np.zeros(1), 2, True)
    assert ended.last() and ended.discount == 0.0 and got.terminated and got.steps == 1 and not got.truncated


def test_an_invalid_state_raises_as_in_the_suite():
    told = []
    for physics in (SuiteTask("walker-walk").physics, load("walker-walk", seed=0).physics):
        physics.data.qvel[0] = np.nan
        with pytest.raises(PhysicsError) as error:
            physics.step(3)
        told.append(str(error.value))
    assert told[0] == told[1]


@pytest.mark.parametrize(
    "key",
    [
        "torso",
        ("torso", "z"),
        ["torso", "left_foot"],
        (["torso", "left_foot"], "x"),
        (slice(1, None), ["x", "z"]),
        ("torso", slice(None, 2)),
        ("torso", 1),
        ("torso", True),
        (1, [True, False, True]),
        np.array([2, 3]),
    ],
    ids=str,
)
def test_names_remembered_are_the_suites(key):
    both = SuiteTask("walker-walk").physics, load("walker-walk", seed=0).physics  # named arrays live as long as these
    named, theirs = (physics.named.data.xpos for physics in both)
    named["torso", 1], named[1, [1, 0, 1]]  # equal as keys of a dict to those with True
    for _ in range(2):  # resolved, remembered
        assert np.array_equal(named[key], theirs[key])


def test_an_episode_is_1000_steps():
    env = MultiTaskEnv(["dmc/pendulum-swingup"], action_repeat=100)
    td, done = env.reset(), []
    for _ in range(11):
        transition, td = env.step_and_maybe_reset(td.set("action", torch.zeros(1, 1)))
        done.append(transition["next", "truncated"].item())
    assert done == [False] * 9 + [True, False] and env.env_steps.tolist() == [1100]


def test_boxes():
    centre, half_width = to_box(np.array([-1, -0.8, 0, -np.inf, -1e10]), np.array([1, 0.8, 3, np.inf, 1e10]))
    np.testing.assert_allclose(centre, [0, 0, 1.5, 0, 0])
    np.testing.assert_allclose(half_width, [1, 0.8, 1.5, 1, 1])
