"""Meta-World: all 50 tasks on today's MuJoCo, goals that follow the seed, success, exact state."""

import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch

from ezm_lightning.envs import MultiTaskEnv, metaworld, task_spec
from ezm_lightning.envs.sources import make_slots
from tests.envs.saved import continues_bit_for_bit

GOLDEN = Path(__file__).parents[1] / "golden" / "metaworld_reach.npz"
SOME = ["reach-v3", "door-lock-v3", "basketball-v3", "bin-picking-v3", "hammer-v3", "stick-pull-v3"]


@pytest.fixture
def package():
    """The package; a test that asks for it skips without."""
    return pytest.importorskip("metaworld", reason=f"Meta-World is missing: {metaworld.HOW_TO_INSTALL}")


def simulator(task):
    return make_slots(f"mw/{task}", 1, action_repeat=1, ignore_termination=False).simulators[0]


def test_dimensions_ranges_and_floors_need_no_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "metaworld", None)
    assert len(metaworld.known_tasks()) == 50
    for task in metaworld.known_tasks():
        spec = task_spec(f"mw/{task}")
        assert (spec.obs_dim, spec.action_dim, spec.max_episode_steps) == (39, 4, 500)
        assert spec.reward_range == (0, 10) and 0 <= spec.random_score < 5000 and spec.reports_success


def test_a_missing_package_says_what_to_type(monkeypatch):
    monkeypatch.setitem(sys.modules, "metaworld", None)
    with pytest.raises(ImportError, match="pip install --no-deps 'metaworld"):
        make_slots("mw/reach-v3", 1, action_repeat=1, ignore_termination=False)


def test_an_unknown_task_names_the_nearest():
    with pytest.raises(ValueError, match="unknown task mw/reech; nearest: reach"):
        task_spec("mw/reech")


def test_the_table_is_the_packages(package):
    from metaworld.env_dict import ENV_CLS_MAP

    assert sorted(ENV_CLS_MAP) == sorted(metaworld.known_tasks())


def test_a_weld_keeps_its_further_column():
    weld, other = 1, 0  # mjEQ_WELD, mjEQ_CONNECT
    model = types.SimpleNamespace(nmocap=1, eq_type=np.array([weld, other]), eq_data=np.full((2, 12), 7.0))
    pytest.importorskip("mujoco")
    metaworld.reset_mocap_welds(types.SimpleNamespace(model=model))
    assert model.eq_data[0].tolist() == [0, 0, 0, 0, 0, 0, -1, 0, 0, 0, 5, 7]
    assert model.eq_data[1].tolist() == [7] * 12


@pytest.mark.parametrize(("columns", "mended"), [(11, False), (12, True)])
def test_it_is_mended_only_where_it_must(columns, mended, monkeypatch):
    mujoco = pytest.importorskip("mujoco")
    monkeypatch.setattr(mujoco, "mjNEQDATA", columns)
    base = types.SimpleNamespace(reset_mocap_welds="its own")
    metaworld.mend(base)
    assert (base.reset_mocap_welds is metaworld.reset_mocap_welds) == mended


def test_welds_of_a_built_environment(package):
    model = metaworld.make_env("reach-v3").unwrapped.model
    welds = model.eq_data[model.eq_type == 1]
    assert len(welds) and (welds[:, :11] == metaworld.WELD).all()


@pytest.mark.parametrize("task", metaworld.known_tasks())
def test_every_task_steps_as_the_table_says(task, package):
    sim = simulator(task)
    sim.seed(0)
    generator = np.random.default_rng(0)
    for obs in (sim.reset(), sim.reset()):
        assert obs.shape == (39,) and np.isfinite(obs).all()
    for _ in range(5):
        step = sim.step(generator.uniform(-1, 1, 4))
        assert step.obs.shape == (39,) and 0 <= step.reward <= 10 and step.success in (False, True)


def test_close_to_a_trace_of_the_mujoco_that_it_asks_for(package):
    trace, env = np.load(GOLDEN), metaworld.make_env("reach-v3")
    obs, actions = env.reset(seed=0)[0], np.random.default_rng(0).uniform(-1, 1, (60, 4)).astype(np.float32)
    for t, action in enumerate(actions):
        assert np.abs(obs - trace["obs"][t]).max() < 2e-3
        obs, reward, *_ = env.step(action)
        assert abs(reward - trace["reward"][t]) < 5e-3


def test_a_seed_fixes_the_goals_and_leaves_the_global_generator_alone(package):
    def goals_and_steps(noise):
        np.random.seed(noise)
        before = np.random.get_state()[1].copy()
        slots = make_slots("mw/reach-v3", 2, action_repeat=1, ignore_termination=False)
        slots.seed([1, 2])
        seen = [slots.reset([0, 1]), slots.reset([0, 1])]
        seen += [slots.step(np.full((2, 4), 0.1 * step)).obs.copy() for step in range(10)]
        assert (np.random.get_state()[1] == before).all()
        return np.stack(seen)

    first = goals_and_steps(0)
    assert np.array_equal(first, goals_and_steps(1))
    assert len({tuple(goal) for goal in first[:2, :, 36:].reshape(4, 3)}) == 4


def test_the_scripted_policy_reaches_the_goal(package):
    from metaworld.policies import ENV_POLICY_MAP

    sim, policy = simulator("reach-v3"), ENV_POLICY_MAP["reach-v3"]()
    sim.seed(0)
    for _ in range(10):
        obs, successes = sim.reset(), []
        while not any(successes) and len(successes) < 100:
            step = sim.step(np.clip(policy.get_action(obs), -1, 1).astype(np.float64))
            obs = step.obs
            successes.append(step.success)
        assert successes[-1] and not successes[0]


def test_success_and_the_time_limit_in_the_batched_environment(package):
    env = MultiTaskEnv(["mw/reach-v3", "dmc/cartpole-balance"], action_repeat=5)
    td, ends = env.reset(), []
    for _ in range(100):
        step, td = env.step_and_maybe_reset(td.set("action", torch.zeros(2, 4)))
        ends.append(step["next", "truncated"][0].item())
    assert ends == [False] * 99 + [True] and step["next", "success"].shape == (2, 1)
    assert env.faults.sum() == 0


@pytest.mark.parametrize("task", SOME)
def test_continues_bit_for_bit(task, package):
    continues_bit_for_bit(f"mw/{task}")


@pytest.mark.slow
@pytest.mark.parametrize("task", sorted(set(metaworld.known_tasks()) - set(SOME)))
def test_all_others_continue_bit_for_bit(task, package):
    continues_bit_for_bit(f"mw/{task}")


def test_the_camera_stands_upright(package):
    env = metaworld.make_env("reach-v3")
    env.reset(seed=0)
    upwards = env.unwrapped.data.cam_xmat[metaworld.CAMERA].reshape(3, 3)[:, 1]
    assert upwards[2] > 0.5
