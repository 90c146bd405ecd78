"""The Control Suite as stepped here equals the suite itself."""

import numpy as np
import pytest
import torch

from ezm_lightning.envs import MultiTaskEnv
from ezm_lightning.envs.dmc import make, together
from ezm_lightning.envs.dmc.dims import DIMS
from ezm_lightning.envs.dmc.suite import SuiteTask
from ezm_lightning.envs.slots import to_box

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


def slots_of(task, seeds, **settings):
    slots = make(task, len(seeds), **({"action_repeat": 2, "ignore_termination": False} | settings))
    slots.seed(seeds)
    return slots


@pytest.mark.parametrize("task", DIMS)
def test_equals_the_suite(task):
    """Bit for bit, but for rewards of several slots at once, where NumPy's exp on arrays may differ in the last one."""
    seeds = [7, 8]
    slots, own, random = slots_of(task, seeds), [load(task, seed) for seed in seeds], np.random.default_rng(0)
    for _ in range(2):  # episodes
        obs = slots.reset(range(2))
        assert (obs.shape[1], len(slots.centre)) == DIMS[task]
        assert np.array_equal(obs, [all_of(each.reset()) for each in own])
        for action in random.uniform(-1, 1, (12, 2, len(slots.centre))):
            got = slots.step(action)
            controls = slots.controls(action)
            taken = [[each.step(control) for _ in range(2)] for each, control in zip(own, controls, strict=True)]
            assert got.steps == 4 and not got.faults and not got.termination.any() and not got.truncated.any()
            assert np.array_equal(got.obs, [all_of(last) for _, last in taken])
            rewards = [float(first.reward) + float(last.reward) for first, last in taken]
            np.testing.assert_allclose(got.reward, rewards, rtol=1e-15 if task in together.TASKS else 0, atol=0)
            for ours, theirs in zip(slots.simulators, own, strict=True):
                for field in ("qpos", "qvel", "qacc", "xpos", "sensordata"):
                    both = [getattr(each.physics.data, field) for each in (ours, theirs)]
                    assert np.array_equal(*both), field


@pytest.mark.parametrize("task", DIMS)
def test_tasks_together_are_all_whose_code_is_elementwise(task):
    slots, random = slots_of(task, range(3)), np.random.default_rng(0)
    slots.reset(range(3))  # targets and what else an episode draws
    batched = together.Together(slots.simulators[0].task, [each.physics for each in slots.simulators])

    def agrees():
        rewards = [float(each.task.get_reward(each.physics)) for each in slots.simulators]
        try:
            np.testing.assert_allclose(batched.rewards(), rewards, rtol=1e-15)
            np.testing.assert_array_equal(batched.observations(), [each.observe() for each in slots.simulators])
        except Exception:
            return False
        return np.shape(batched.rewards()) == (3,)

    found = True
    for scale in [0.01, 0.1, 0.5, 3.0] * 4:  # so that targets are met in some
        for each in slots.simulators:
            with each.physics.suppress_physics_errors(), each.physics.reset_context():
                each.physics.data.qpos[:] = scale * random.uniform(-1, 1, each.physics.model.nq)
                each.physics.data.qvel[:] = scale * random.uniform(-1, 1, each.physics.model.nv)
                each.physics.data.ctrl[:] = random.uniform(-1, 1, each.physics.model.nu)
        found = found and agrees()
    assert found == (task in together.TASKS)


def test_a_termination_is_the_suites():
    slots, own = slots_of("lqr-lqr_2_1", [7, 8]), load("lqr-lqr_2_1", seed=7)
    slots.reset([0, 1]), own.reset()
    for physics in (slots.simulators[0].physics, own.physics):
        with physics.reset_context():
            physics.data.qpos[:] = physics.data.qvel[:] = 0.0
    ended = own.step(np.zeros(1))
    got = slots.step(np.zeros((2, 1)))
    assert ended.last() and ended.discount == 0.0
    assert got.termination.tolist() == [True, False] and got.steps == 3 and not got.truncated.any()
    ignored = slots_of("lqr-lqr_2_1", [7], ignore_termination=True)
    ignored.reset([0])
    with ignored.simulators[0].physics.reset_context():
        ignored.simulators[0].physics.data.qpos[:] = ignored.simulators[0].physics.data.qvel[:] = 0.0
    assert ignored.step(np.zeros((1, 1))).steps == 2 and ignored.outcome.termination.all()


def test_a_reward_that_raises_is_a_fault_of_its_slot_alone(monkeypatch):
    slots = slots_of("acrobot-swingup", [1, 2])
    slots.reset([0, 1])
    monkeypatch.setattr(slots.simulators[1].task, "get_reward", lambda physics: 1 / 0)
    got = slots.step(np.zeros((2, 1)))
    assert list(got.faults) == [1] and isinstance(got.faults[1], ZeroDivisionError) and got.steps == 3


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
