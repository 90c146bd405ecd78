"""Gymnasium environments through the batched environment."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from ezm_lightning.envs import MultiTaskEnv, task_spec
from ezm_lightning.envs import gym as gym_source
from ezm_lightning.envs.gym_task import GymTask
from ezm_lightning.envs.rendering import Camera
from ezm_lightning.envs.spec import TaskSpec

gymnasium = pytest.importorskip("gymnasium")
mujoco = pytest.importorskip("mujoco")


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


class Point(gymnasium.Env):
    """Reaches a goal after ``steps`` steps; its observations are a Dict."""

    action_space = gymnasium.spaces.Box(-1, 1, (1,))
    observation_space = gymnasium.spaces.Dict(
        {
            "place": gymnasium.spaces.Box(-9, 9, (1,)),
            "goal": gymnasium.spaces.Dict(
                {"z": gymnasium.spaces.Box(-9, 9, (1,)), "a": gymnasium.spaces.Box(-9, 9, (2,))}
            ),
        }
    )

    def __init__(self, steps=3, key="success"):
        self.steps, self.key = steps, key

    def observed(self):
        goal = {"z": np.array([3.0], np.float32), "a": np.array([1, 2], np.float32)}
        return {"place": np.array([self.t], np.float32), "goal": goal}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self.observed(), {}

    def step(self, action):
        self.t += 1
        return self.observed(), 1.0, False, False, {self.key: np.float32(self.t == self.steps)}


class Broken(Point):
    def step(self, action):
        raise AssertionError("joint is not part of the model")


class OwnGenerator(Point):
    """Draws from a generator of NumPy's older kind."""

    def reset(self, *, seed=None, options=None):
        result = super().reset(seed=seed)
        self.np_random = np.random.RandomState(seed)
        return result


class Rebuilds(gymnasium.Env):
    """Builds its MuJoCo model anew at every reset; becomes unstable in its third step."""

    xml = (
        "<mujoco><worldbody><body pos='0 0 1'><joint name='j' type='slide'/><geom size='.1'/></body></worldbody>"
        "<actuator><motor joint='j' ctrlrange='-1 1'/></actuator></mujoco>"
    )
    action_space = gymnasium.spaces.Box(-1, 1, (1,))
    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (1,))

    def __init__(self):
        self.model = mujoco.MjModel.from_xml_string(self.xml)
        self.data = mujoco.MjData(self.model)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        Rebuilds.__init__(self)
        self.t = 0
        return self.data.qpos.astype(np.float32), {}

    def step(self, action):
        self.t += 1
        if self.t == 3:
            self.data.qvel[0] = np.nan
        self.data.ctrl[:] = action
        mujoco.mj_step(self.model, self.data)
        return self.data.qpos.astype(np.float32), 1.0, False, False, {}


class Keeps(Rebuilds):
    """Sets the positions at a reset, as many environments do, and leaves MuJoCo's counters as they are."""

    later = 0

    def reset(self, *, seed=None, options=None):
        gymnasium.Env.reset(self, seed=seed)
        self.data.qpos[:] = self.data.qvel[:] = 0
        mujoco.mj_forward(self.model, self.data)
        self.t, self.later = 10 * self.later, 1  # only the first episode becomes unstable
        return self.data.qpos.astype(np.float32), {}


class Hesitates(Point):
    """Its first reset fails."""

    def reset(self, *, seed=None, options=None):
        self.seeds = [*getattr(self, "seeds", []), seed]
        if len(self.seeds) == 1:
            raise OSError("the simulator is not there yet")
        return super().reset(seed=seed)


class SaysAtItsEnd(Point):
    """As Stable-Baselines3 reads it: only the last step says whether it was a success."""

    def step(self, action):
        obs, reward, *_ = super().step(action)
        return obs, reward, self.t == 3, False, {"is_success": True} if self.t == 3 else {}


class Counts(gymnasium.ObservationWrapper):
    """Adds the number of observations so far to each of them."""

    def __init__(self, env):
        super().__init__(env)
        self.observation_space, self.count = gymnasium.spaces.Box(-np.inf, np.inf, (12,)), 0

    def observation(self, observation):
        self.count += 1
        return np.append(observation, self.count)


def counting(**_):
    return Counts(gymnasium.make("Hopper-v5"))


def inner_limit(**_):
    return gymnasium.make("Pendulum-v1")


@pytest.fixture
def ids():
    """Ids of the environments above, registered for one test."""
    before, spec_of = dict(gymnasium.registry), gym_source.task_spec
    gymnasium.register("Point-v0", entry_point=Point, max_episode_steps=7)
    gymnasium.register("Broken-v0", entry_point=Broken)
    gymnasium.register("OwnGenerator-v0", entry_point=OwnGenerator, max_episode_steps=7)
    gymnasium.register("Rebuilds-v0", entry_point=Rebuilds, max_episode_steps=7)
    gymnasium.register("SaysAtItsEnd-v0", entry_point=SaysAtItsEnd, max_episode_steps=7)
    gymnasium.register("Counting-v0", entry_point=counting, max_episode_steps=7)
    gymnasium.register("Outer-v0", entry_point=inner_limit, max_episode_steps=500)
    spec_of.cache_clear()
    yield
    gymnasium.registry.clear()
    gymnasium.registry.update(before)
    spec_of.cache_clear()


def test_a_dict_of_observations_is_flattened_its_keys_in_alphabetical_order(ids):
    env = MultiTaskEnv(["gym/Point-v0"])
    td = env.reset()
    assert td["obs"].tolist() == [[1, 2, 3, 0]]
    assert env.step(td.set("action", torch.zeros(1, 1)))["next", "obs"].tolist() == [[1, 2, 3, 1]]


@pytest.mark.parametrize("key", ["success", "is_success"])
def test_success_is_read_from_the_steps_information(ids, key):
    env = MultiTaskEnv([f"gym/Point-v0?key={key}"], action_repeat=2)
    td, seen = env.reset(), []
    for _ in range(3):
        td = env.step(td.set("action", torch.zeros(1, 1)))["next"]
        seen.append(td["success"].item())
    assert seen == [False, True, False]


def test_without_success_in_it_there_is_none(ids):
    assert not task_spec("gym/Point-v0?key=other").reports_success
    assert not task_spec("gym/Pendulum-v1").reports_success


def test_arguments_of_an_id():
    assert gym_source._parsed("A-v0?a=true&b=0.5&c=word&d=[1,2]") == (
        "A-v0",
        {"a": True, "b": 0.5, "c": "word", "d": [1, 2]},
    )
    full, short = (task_spec(f"gym/Ant-v5?include_cfrc_ext_in_observation={flag}") for flag in ("true", "false"))
    assert full.obs_dim == 105 and short.obs_dim == 27


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("gym/Pendulum-v1?g", "name=value&name=value behind the '\\?', got 'g'"),
        ("gym/Pendulum-v1?gg=1", "unexpected keyword argument 'gg'.*arguments follow a '\\?'"),
        ("gym/Broken-v0", "gym/Broken-v0 cannot be stepped: AssertionError: joint is not part of the model"),
    ],
)
def test_what_an_environment_refuses_is_one_line(ids, name, told):
    with pytest.raises(ValueError, match=told) as caught:
        task_spec(name)
    assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore:.*latest versioned environment")
def test_the_time_limit_is_that_of_the_id_asked_for(ids):
    assert task_spec("gym/Outer-v0").max_episode_steps == 500
    assert task_spec("gym/Point-v0").max_episode_steps == 7
    assert task_spec("gym/Pendulum").max_episode_steps == 200


@pytest.mark.parametrize("task", ["Point-v0", "OwnGenerator-v0", "Counting-v0", "Outer-v0", "Hopper-v5"])
def test_an_environment_that_may_hide_state_starts_anew(ids, task):
    """So does one with a wrapper that may: a count, or the time limit of another id."""
    simulator = gym_source.make(task, 1, action_repeat=1, ignore_termination=False).simulators[0]
    simulator.seed(0)
    simulator.reset()
    assert (simulator.get_state() is None) == (task != "Hopper-v5")


@pytest.mark.filterwarnings("ignore")
def test_a_simulation_that_a_reset_builds_anew_is_the_one_watched(ids):
    env = MultiTaskEnv(["gym/Rebuilds-v0"], max_fault_share=1.0)
    td = env.reset()
    for _ in range(3):
        td = env.step(td.set("action", torch.ones(1, 1)))["next"]
    assert td["truncated"].item() and env.faults.tolist() == [1]
    simulator = env._groups[0].slots.simulators[0]
    simulator.camera = camera = Camera(*simulator.simulation)
    simulator.reset()
    assert simulator.simulation[1] is simulator.env.unwrapped.data is not camera.data and simulator.camera is None


def task_of(env) -> GymTask:
    """``env`` as a simulator, which has been seeded with 5."""
    obs_dim = 1 if isinstance(env, Rebuilds) else 4
    task = GymTask(TaskSpec("gym/Mine-v0", obs_dim, 1, 7), env)
    task.seed(5)
    return task


def test_an_instability_ends_with_its_episode_whatever_the_reset_leaves():
    task = task_of(Keeps())
    task.reset()
    with pytest.raises(FloatingPointError, match="unstable"):
        for _ in range(3):
            task.step(np.zeros(1))
    task.reset()
    for _ in range(3):
        assert task.step(np.zeros(1)).reward == 1


def test_a_failed_reset_keeps_the_seed():
    task = task_of(Hesitates())
    with pytest.raises(OSError, match="not there yet"):
        task.reset()
    task.reset()
    task.reset()
    assert task.env.seeds == [5, 5, None]


def test_success_that_only_the_end_tells_is_warned_of(ids):
    env = MultiTaskEnv(["gym/SaysAtItsEnd-v0"])
    assert not env.task_specs[0].reports_success
    td = env.reset()
    with pytest.warns(UserWarning, match="gym/SaysAtItsEnd-v0 says only when an episode ends whether it succeeded"):
        for _ in range(3):
            td = env.step(td.set("action", torch.ones(1, 1)))["next"]


SAYS_ONCE = """
import warnings
from ezm_lightning.envs import MultiTaskEnv
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("default")
    MultiTaskEnv(["gym/HalfCheetah-v5"], envs_per_task=3).close()
(said,) = (str(warning.message) for warning in caught if "MuJoCo" in str(warning.message))
assert said.startswith("MuJoCo: compiler attribute 'settotalmass' is deprecated"), said
with warnings.catch_warnings():
    warnings.simplefilter("error")  # an error in MuJoCo's call would end the process
    MultiTaskEnv(["gym/HalfCheetah-v5"]).close()
"""


def test_what_mujoco_warns_of_is_said_once_and_written_nowhere(tmp_path: Path) -> None:
    """HalfCheetah's file has an attribute that MuJoCo warns of whenever a model is built from it. In a process of its
    own: the handler is set once."""
    done = subprocess.run([sys.executable, "-c", SAYS_ONCE], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.iterdir()) == []
