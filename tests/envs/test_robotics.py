"""gymnasium-robotics: its ids on today's MuJoCo, flattened observations, success, exact state."""

import importlib.util
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from ezm_lightning.envs import robotics, task_spec
from ezm_lightning.envs.sources import make_slots
from tests.envs.saved import continues_bit_for_bit

FAMILIES = {  # one of each robot, and of each way to say success
    "FetchReach-v4": (16, 4, 50),
    "FetchPickAndPlaceDense-v4": (31, 4, 50),
    "HandReach-v3": (93, 20, 50),
    "HandManipulateEggRotate_BooleanTouchSensors-v1": (167, 20, 100),
    "AntMaze_Medium_Diverse_GR-v5": (109, 8, 1000),
    "PointMaze_UMaze-v3": (8, 2, 300),
    "AdroitHandDoor-v1": (39, 28, 200),
    "AdroitHandRelocateSparse-v1": (39, 30, 200),
    "FrankaKitchen-v1": (93, 9, 280),
}


@pytest.fixture
def package():
    """The package; a test that asks for it skips without."""
    reason = f"gymnasium-robotics is missing: {robotics.HOW_TO_INSTALL}"
    return pytest.importorskip("gymnasium_robotics", reason=reason)


def simulator(task):
    return make_slots(f"gr/{task}", 1, action_repeat=1, ignore_termination=False).simulators[0]


@pytest.mark.parametrize(("task", "dims"), FAMILIES.items())
def test_dimensions_need_no_package(task, dims, monkeypatch):
    monkeypatch.setitem(sys.modules, "gymnasium_robotics", None)
    spec = task_spec(f"gr/{task}")
    assert (spec.obs_dim, spec.action_dim, spec.max_episode_steps) == dims and spec.reports_success
    assert len(robotics.known_tasks()) == 113


def test_a_missing_package_says_what_to_type(monkeypatch):
    monkeypatch.setitem(sys.modules, "gymnasium_robotics", None)
    with pytest.raises(ImportError, match=r"gr/FetchReach-v4 .*pip install 'ezm-lightning\[robotics\]'"):
        make_slots("gr/FetchReach-v4", 1, action_repeat=1, ignore_termination=False)


def test_an_unknown_id_names_the_nearest():
    with pytest.raises(ValueError, match="unknown task gr/FetchReach-v1; nearest: FetchReach-v4"):
        task_spec("gr/FetchReach-v1")


def test_the_table_holds_the_newest_ids_of_the_package(package):
    import gymnasium

    newest = {}
    for spec in gymnasium.registry.values():
        entry = str(spec.entry_point)
        if entry.startswith("gymnasium_robotics.envs.") and not entry.startswith("gymnasium_robotics.envs.mujoco."):
            newest[spec.name] = max(newest.get(spec.name, 0), spec.version)
    assert {f"{name}-v{version}" for name, version in newest.items()} == set(robotics.known_tasks())
    for task in robotics.known_tasks():
        assert gymnasium.spec(task).max_episode_steps == task_spec(f"gr/{task}").max_episode_steps


def test_joint_types_are_integers_once():
    mujoco = pytest.importorskip("mujoco")
    module = types.SimpleNamespace(mujoco=mujoco)
    robotics.mend(module)
    robotics.mend(module)
    types_of_joints = module.mujoco.mjtJoint
    assert module.mujoco.original is mujoco and module.mujoco.mj_step is mujoco.mj_step
    assert np.int32(2) in (types_of_joints.mjJNT_HINGE, types_of_joints.mjJNT_SLIDE)


def steps_as_the_table_says(task):
    sim = simulator(task)
    sim.seed(0)
    obs, generator = sim.reset(), np.random.default_rng(0)
    low, high = task_spec(f"gr/{task}").reward_range or (-np.inf, np.inf)
    assert obs.shape == (sim.obs_dim,) == (task_spec(f"gr/{task}").obs_dim,)
    for _ in range(5):
        step = sim.step(generator.uniform(-1, 1, sim.action_dim))
        assert step.obs.shape == obs.shape and np.isfinite(step.obs).all()
        assert low <= step.reward <= high and step.success in (False, True)


@pytest.mark.parametrize("task", FAMILIES)
def test_steps(task, package):
    steps_as_the_table_says(task)


@pytest.mark.slow
@pytest.mark.parametrize("task", sorted(set(robotics.known_tasks()) - set(FAMILIES)))
def test_all_others_step_and_continue_bit_for_bit(task, package):
    steps_as_the_table_says(task)
    continues_bit_for_bit(f"gr/{task}")


def test_observations_are_flattened_in_alphabetical_order(package):
    import gymnasium

    sim = simulator("FetchReach-v4")
    sim.seed(5)
    obs = sim.reset()
    own = gymnasium.make("FetchReach-v4").reset(seed=5)[0]
    assert np.array_equal(obs, np.concatenate([own["achieved_goal"], own["desired_goal"], own["observation"]]))


def test_success_is_the_packages(package):
    sim = simulator("FetchReach-v4")
    sim.seed(0)
    obs = sim.reset()
    for _ in range(40):  # a proportional controller; the action moves the gripper by 3 % of it
        step = sim.step(np.r_[(10 * (obs[3:6] - obs[:3])).clip(-1, 1), 0])
        obs = step.obs
        assert step.success == (np.linalg.norm(obs[3:6] - obs[:3]) < 0.05) == (step.reward == 0)
    assert step.success


def test_the_kitchen_succeeds_when_nothing_is_left(package):
    sim = simulator("FrankaKitchen-v1")
    sim.seed(0)
    sim.reset()
    assert not sim.step(np.zeros(9)).success
    sim.env.unwrapped.tasks_to_complete.clear()
    assert sim.step(np.zeros(9)).success


def test_a_maze_leaves_no_file_behind(package):
    assert not Path(simulator("PointMaze_UMaze-v3").env.unwrapped.tmp_xml_file_path).exists()


@pytest.mark.parametrize("task", FAMILIES)
def test_continues_bit_for_bit(task, package):
    continues_bit_for_bit(f"gr/{task}")


@pytest.mark.skipif(importlib.util.find_spec("gymnasium_robotics") is None, reason=robotics.HOW_TO_INSTALL)
def test_its_ids_work_by_the_name_of_the_package_too():
    spec = task_spec("gym/gymnasium_robotics:FetchReach-v4?reward_type=dense")
    assert (spec.obs_dim, spec.action_dim, spec.max_episode_steps, spec.reports_success) == (16, 4, 50, True)
