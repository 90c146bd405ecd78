"""The 23 tasks natively: against traces of the original, as TorchRL environments, saved and restored."""

import shutil

import numpy as np
import pytest
import torch
from torchrl.envs.utils import check_env_specs

from ezm_lightning.envs import MultiTaskEnv, resolve_tasks
from ezm_lightning.envs.humanoidbench import TASKS, contacts, make, rewards
from ezm_lightning.envs.humanoidbench.rewards import MAZE_CHECKPOINTS, Features
from tests.golden import HOW_TO_MAKE_TRACES, TRACES
from tests.golden.humanoidbench import check_file, main

FILES = [path for name in ("golden", "golden_branches") for path in sorted((TRACES / name).glob("*.npz"))]
NAMES = [f"hb/{task}" for task in TASKS]

pytestmark = pytest.mark.filterwarnings("ignore:.*differ from HumanoidBench")
needs_traces = pytest.mark.skipif(not FILES, reason=f"no traces of HumanoidBench: {HOW_TO_MAKE_TRACES}")


@needs_traces
@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_traces_of_the_original_repeat(path, humanoid_assets):
    checks = check_file(path)
    rounding = checks["reward"][1]
    assert max(rounding.values()) <= 1e-12
    for name in checks.keys() - {"reward"}:
        steps, errors = checks[name]
        assert steps > 0
        assert {key: error for key, error in errors.items() if error > rounding.get(key, 0.0)} == {}


@needs_traces
@pytest.mark.parametrize("field", ["reward", "obs", "info_move", "terminated"])
def test_the_command_sees_one_changed_number(field, tmp_path, capsys, humanoid_assets):
    arrays = dict(np.load(TRACES / "golden" / "h1-walk.npz"))
    arrays[field] = arrays[field].copy()
    arrays[field].flat[-1] = ~arrays[field].flat[-1] if field == "terminated" else arrays[field].flat[-1] + 1e-9
    np.savez(tmp_path / "h1-walk.npz", **arrays)
    assert main([str(tmp_path), "--assets", str(humanoid_assets)]) == 1
    assert f"{field} 1" in capsys.readouterr().out


def test_the_command_refuses_what_it_cannot_check(tmp_path, capsys):
    assert main([str(tmp_path / "nowhere")]) == 1
    assert "no such directory" in capsys.readouterr().err
    np.savez(tmp_path / "h1-walk.npz", obs=np.zeros(3))
    assert main([str(tmp_path)]) == 1
    assert "lacks qpos" in capsys.readouterr().err


def features(m: int = 1, **changes) -> Features:
    """A robot that stands upright at rest in the origin."""
    widths = {
        "qpos": 26, "qvel": 25, "actuator_force": 19, "com_vel": 3, "imu": 3, "pelvis_xpos": 3, "pelvis_xmat": 9,
        "pelvis_xquat": 4, "left_hand": 3, "chair_xpos": 3, "goal": 3, "direction": 2,
    }  # fmt: skip
    fields = {name: np.zeros((m, width)) for name, width in widths.items()}
    fields |= {name: np.zeros(m) for name in ("left_foot_z", "right_foot_z")}
    fields |= {"head_z": np.full(m, 1.7), "torso_zz": np.ones(m)}
    fields |= {"touched": np.zeros(m, bool), "stage": np.zeros(m, np.int64)}
    return Features(**{**fields, **changes})


def test_standing_still_without_force_pays_one():
    assert rewards.stand(features())[0] == 1.0
    assert rewards.walk(features())[0] == pytest.approx(1 / 6)
    assert rewards.walk(features(com_vel=np.array([[1.0, 0, 0]])))[0] == 1.0
    assert rewards.run(features(com_vel=np.array([[2.5, 0, 0]])))[0] == pytest.approx((5 * 0.5 + 1) / 6)
    tired = features(actuator_force=np.full((1, 19), 10.0))
    assert rewards.stand(tired)[0] == pytest.approx(0.8)


def test_a_touch_costs_nine_tenths():
    free, hit = features(), features(touched=np.ones(1, bool))
    for reward in (rewards.hurdle, rewards.pole):
        assert reward(hit)[0] == pytest.approx(0.1 * reward(free)[0])


def test_the_maze_pays_each_checkpoint_once_and_turns():
    f, bonuses, directions = features(), [], []
    for x, y in [*MAZE_CHECKPOINTS[:4], (6, 6), (6, 6)]:
        f.pelvis_xpos[0, :2] = x, y
        bonuses.append(rewards.maze(f)[1]["stage_convert_reward"].item())
        directions.append(f.direction[0].tolist())
    assert bonuses == [100, 200, 300, 400, 0, 0]
    assert directions == [[1, 0], [0, 1], [1, 0], [0, 1], [0, 1], [0, 1]]
    assert rewards.maze(f)[1]["move"] == 1.0  # at the last checkpoint nothing is asked of the velocity


def test_reach_pays_by_the_distance_of_the_hand():
    near = features(left_hand=np.array([[0.04, 0, 0]]), pelvis_xmat=np.eye(3).reshape(1, 9))
    assert rewards.reach(near)[0] == 5 + 5 + 10
    assert rewards.reach(features(left_hand=np.array([[3.0, 0, 0]]), qvel=np.full((1, 25), 2.0)))[0] == -0.01


@pytest.mark.parametrize(
    ("pairs", "fallen"),
    [
        ([], False),
        ([(0, 7), (7, 8), (8, 3)], False),  # floor-sphere, sphere-board, board-robot
        ([(0, 3)], True),  # the robot on the floor
        ([(0, 8)], True),  # the board on the floor
        ([(3, 7)], True),  # the robot on the sphere
    ],
)
def test_balance_ends_by_what_touches(pairs, fallen):
    assert contacts.fallen(sphere=7, board=8)(np.array(pairs, np.int32).reshape(-1, 2)) is fallen


def test_a_pole_may_stand_on_the_floor():
    poles = np.array([False, False, True])
    assert not contacts.pole(poles)(np.array([[0, 2], [0, 1]]))
    assert contacts.pole(poles)(np.array([[0, 1], [1, 2]]))


def test_names_and_dimensions(humanoid_assets):
    specs = resolve_tasks(NAMES)
    assert len(specs) == 23
    assert {(s.obs_dim, s.action_dim) for s in specs} == {(51, 19), (151, 61), (157, 61), (164, 61), (177, 61)}
    assert all(spec.random_score is not None and spec.success_score > spec.random_score for spec in specs)
    with pytest.raises(ValueError, match="h1-walk"):
        resolve_tasks(["hb/h1-wlak"])


@pytest.fixture
def everything(humanoid_assets):
    """All 23 tasks in one environment."""
    made = []

    def make_env(**arguments) -> MultiTaskEnv:
        made.append(MultiTaskEnv(NAMES, **arguments))
        return made[-1]

    yield make_env
    for env in made:
        env.close()


def random_actions(env: MultiTaskEnv, steps: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.rand(env.action_spec.shape, generator=generator) * 2 - 1 for _ in range(steps)]


def test_a_mixed_batch_of_all_tasks(everything):
    env = everything(num_threads=2)
    assert env.observation_spec["obs"].shape == (23, 177) and env.action_spec.shape == (23, 61)
    check_env_specs(env)
    td = env.reset()
    assert (td["obs"][:9, 51:] == 0).all() and not td["action_mask"][:9, 19:].any()


def test_threads_and_repeats_change_nothing(humanoid_assets):
    """Slots of a task on any thread, some of which end before their action's last repeat."""
    arguments = {"envs_per_task": 5, "action_repeat": 3, "seed": 1}
    envs = [MultiTaskEnv(["hb/h1-walk", "hb/h1-maze"], num_threads=threads, **arguments) for threads in (0, 3)]
    tds, ended = [env.reset() for env in envs], 0
    for action in random_actions(envs[0], 40):
        steps = [env.step_and_maybe_reset(td.set("action", action)) for env, td in zip(envs, tds, strict=True)]
        (one, _), (other, _) = steps
        for key in ("obs", "reward", "terminated", "truncated"):
            assert torch.equal(one["next", key], other["next", key])
        ended += int(one["next", "done"].sum())
        tds = [td for _, td in steps]
    assert torch.equal(envs[0].env_steps, envs[1].env_steps) and 40 * 15 * 0.9 < envs[0].env_steps[0] < 40 * 15
    assert ended > 5


def test_state_continues_bit_for_bit(everything):
    env, other = everything(seed=1), everything(seed=2, num_threads=2)
    td = env.reset()
    for action in random_actions(env, 25):  # some fall and begin anew
        _, td = env.step_and_maybe_reset(td.set("action", action))
    other.set_state(env.get_state())
    there = other.reset()
    assert torch.equal(td["obs"], there["obs"])
    for action in random_actions(env, 25):
        mine, td = env.step_and_maybe_reset(td.set("action", action))
        theirs, there = other.step_and_maybe_reset(there.set("action", action))
        for key in ("obs", "reward", "done"):
            assert torch.equal(mine["next", key], theirs["next", key])
        assert torch.equal(td["obs"], there["obs"])


def test_seeds_cover_goal_and_placement(humanoid_assets):
    names = ["hb/h1hand-reach", "hb/h1hand-sit_hard"]
    np.random.seed(0)
    first = MultiTaskEnv(names, seed=3).reset()["obs"]
    np.random.seed(1)
    assert torch.equal(first, MultiTaskEnv(names, seed=3).reset()["obs"])
    assert not torch.equal(first, MultiTaskEnv(names, seed=4).reset()["obs"])


def test_time_limit_and_repeats(humanoid_assets):
    slots = make("h1-crawl", 2, action_repeat=3, ignore_termination=False)
    slots.reset([0, 1])
    slots.elapsed[:] = 998, 0
    result = slots.step(np.zeros((2, 19)))
    assert result.steps == 2 + 3
    assert result.truncated.tolist() == [True, False] and not result.termination.any()


def test_a_wrong_action_names_the_task(humanoid_assets):
    slots = make("h1-walk", 2, action_repeat=1, ignore_termination=False)
    with pytest.raises(ValueError, match=r"hb/h1-walk takes actions \[2, 19\], got \[2, 18\]"):
        slots.step(np.zeros((2, 18)))
    env = MultiTaskEnv(["hb/h1-walk"])
    td = env.reset()
    with pytest.raises(ValueError, match="hb/h1-walk"):
        env.step(td.set("action", torch.full((1, 19), torch.nan)))


def test_a_task_with_hands_needs_assets(monkeypatch):
    monkeypatch.setenv("HUMANOID_BENCH_ASSETS", "builtin")
    with pytest.raises(FileNotFoundError, match="ezm fetch hb"):
        make("h1hand-walk", 1, action_repeat=1, ignore_termination=False)


def test_an_incomplete_folder_names_what_is_missing(humanoid_assets, tmp_path, monkeypatch):
    shutil.copytree(humanoid_assets, tmp_path / "assets", copy_function=shutil.copyfile)
    for folder in [tmp_path / "assets", *(tmp_path / "assets").rglob("*")]:
        folder.chmod(0o755)
    (tmp_path / "assets" / "h1" / "assets" / "pelvis.stl").unlink()
    monkeypatch.setenv("HUMANOID_BENCH_ASSETS", str(tmp_path / "assets"))
    with pytest.raises(FileNotFoundError, match=r"pelvis\.stl"):
        make("h1-walk", 1, action_repeat=1, ignore_termination=False)
