"""The original package through the Gymnasium source: what is put right from outside; itself where it is installed."""

import importlib.util
import subprocess
import sys
import types
import warnings

import numpy as np
import pytest
import torch

from ezm_lightning.envs import MultiTaskEnv, task_spec
from ezm_lightning.envs import gym as gym_source
from ezm_lightning.envs.sources import make_slots
from tests.golden import HOW_TO_MAKE_TRACES, TRACES

gymnasium = pytest.importorskip("gymnasium")
mujoco = pytest.importorskip("mujoco")

from ezm_lightning.envs.humanoidbench import original  # noqa: E402

installed = pytest.mark.skipif(
    importlib.util.find_spec("humanoid_bench") is None, reason=f"humanoid_bench is missing: {original.HOW_TO_INSTALL}"
)


class Coin(gymnasium.Env):
    """Draws its observation from the global generator, as humanoid_bench's resets do."""

    observation_space = action_space = gymnasium.spaces.Box(-1, 1, (2,))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.array([np.random.uniform(), self.np_random.uniform()]), {}


@pytest.fixture
def no_package(monkeypatch):
    """humanoid_bench cannot be imported."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "humanoid_bench"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "humanoid_bench", None)
    monkeypatch.setattr(gymnasium, "registry", {"Pendulum-v1": gymnasium.spec("Pendulum-v1")})


def test_a_missing_package_says_how_to_install_it(no_package):
    for id_ in ("h1hand-cube-v0", "h1-walk-v0", "g1-door-v0", "h1simplehand-push-v0"):
        with pytest.raises(ImportError, match="pip install --no-deps -e humanoid-bench"):
            gym_source._make(id_)


@pytest.mark.parametrize("id_", ["Pendulum-v1", "h1-walk-v1", "h2-walk-v0", "my-h1-walk-v0", "digit-walk-v0"])
def test_other_ids_leave_it_alone(id_):
    assert gym_source._maker(id_) is gymnasium.make


def test_an_id_that_another_package_registered_leaves_it_alone(monkeypatch):
    entry = types.SimpleNamespace(entry_point="my_robots:Walk")
    monkeypatch.setitem(gymnasium.registry, "h1-swim-v0", entry)
    assert gym_source._maker("h1-swim-v0") is gymnasium.make
    entry.entry_point = "humanoid_bench.env:HumanoidEnv"
    assert gym_source._maker("h1-swim-v0") is original.make


def test_fields_that_mujoco_gave_up_are_dropped():
    kept = {"mjmodel": ["body_pos", "geom_size"], "mjdata": ["qpos", "xmat"]}
    gone = {"mjmodel": ["flex_evpair"], "mjdata": ["qM", "D_colind"]}
    sizes = {name: dict.fromkeys(kept[name] + gone[name], ("n",)) for name in kept}
    structs = {
        "mjmodel": types.SimpleNamespace(body_pos=0, geom_size=0),
        "mjdata": types.SimpleNamespace(qpos=0, xmat=0),
    }
    original._drop_absent_fields(sizes, structs)
    assert {name: list(fields) for name, fields in sizes.items()} == kept


def test_structs_are_of_this_mujoco():
    structs = original._structs()
    assert hasattr(structs["mjmodel"], "body_pos") and hasattr(structs["mjdata"], "qpos")


def test_the_kitchen_keeps_the_default_class_of_the_scene(tmp_path):
    assert original._main_class(tmp_path) == {}
    folder, scene = tmp_path / original.KETTLE, tmp_path / "envs" / "kitchen.xml"
    folder.mkdir(parents=True)
    scene.parent.mkdir()
    kettle, chain = folder / "kettle_asset.xml", folder / "kettle_chain.xml"
    kettle.write_text('<mujocoinclude><default class="kettle"><geom group="4"/></default></mujocoinclude>')
    chain.write_text(
        '<mujocoinclude><body name="kettle" childclass="kettle"><geom type="sphere" size="0.1"/></body></mujocoinclude>'
    )
    scene.write_text(
        f"""<mujoco><include file="{kettle}"/>
        <worldbody><geom type="sphere" size="0.1"/><include file="{chain}"/></worldbody></mujoco>"""
    )
    with pytest.raises(ValueError, match="cannot be renamed"):
        mujoco.MjModel.from_xml_path(str(scene))
    model, data = original._simulation(types.SimpleNamespace(fullpath=str(scene)))
    assert model.geom_group.tolist() == [4, 4] and data.geom_xpos.shape == (2, 3)


def test_the_stand_in_keeps_quiet_until_it_is_used(monkeypatch):
    monkeypatch.delitem(sys.modules, original.POLICIES, raising=False)
    original._stub_policies()
    stub = sys.modules[original.POLICIES]
    assert importlib.util.find_spec(original.POLICIES) is not None  # raises ValueError for a module without a spec
    with pytest.raises(ImportError, match="need JAX"):
        stub.TorchModel(3)
    original._stub_policies()
    assert sys.modules[original.POLICIES] is stub
    monkeypatch.delitem(sys.modules, original.POLICIES)


def test_jax_itself_is_not_replaced(monkeypatch):
    monkeypatch.setattr(original, "_has", lambda module: False)
    before = sys.modules.get("jax")
    monkeypatch.setitem(sys.modules, "humanoid_bench", None)
    with pytest.raises(ImportError):
        original.load()
    assert sys.modules.get("jax") is before
    monkeypatch.delitem(sys.modules, original.POLICIES, raising=False)


def test_a_seed_covers_what_is_drawn_globally_and_disturbs_nobody():
    one, other = original.OwnNumpyRandom(Coin()), original.OwnNumpyRandom(Coin())
    np.random.seed(123)
    first = [one.reset(seed=7)[0], one.reset()[0]]
    other.reset(seed=8)
    np.random.seed(5)
    assert np.array_equal([other.reset(seed=7)[0], other.reset()[0]], first)
    assert np.random.uniform() == np.random.RandomState(5).uniform()
    assert first[0][0] == np.random.RandomState(7).uniform() and first[0][0] != first[1][0]


def test_unseeded_environments_draw_apart():
    draws = {original.OwnNumpyRandom(Coin()).reset()[0][0] for _ in range(4)}
    assert len(draws) == 4


def test_a_failing_reset_gives_the_generator_back(monkeypatch):
    env = original.OwnNumpyRandom(Coin())
    monkeypatch.setattr(env.env, "reset", lambda **_: 1 / 0)
    np.random.seed(5)
    with pytest.raises(ZeroDivisionError):
        env.reset(seed=1)
    assert np.random.uniform() == np.random.RandomState(5).uniform()
    assert not original._RESETTING.locked()


def test_g1_and_other_robots_are_not_mixed(monkeypatch):
    monkeypatch.setattr(original, "_BUILT", {"h1", "h1hand"})
    original._refuse_mixture("h1touch")
    with pytest.raises(ValueError, match="got g1, h1, h1hand; run the g1 tasks in a run of their own"):
        original._refuse_mixture("g1")
    monkeypatch.setattr(original, "_BUILT", {"g1"})
    original._refuse_mixture("g1")
    with pytest.raises(ValueError, match="got g1, h1"):
        original._refuse_mixture("h1")


@installed
@pytest.mark.parametrize(
    ("id_", "obs_dim", "action_dim", "steps"),
    [
        ("h1hand-cube-v0", 181, 61, 500),
        ("h1hand-kitchen-v0", 97, 61, 500),
        ("h1-walk-v0", 51, 19, 1000),
        ("h1touch-door-v0", None, None, 1000),
    ],
)
def test_dimensions(id_, obs_dim, action_dim, steps, capsys):
    spec = task_spec(f"gym/{id_}")
    assert spec.max_episode_steps == steps and obs_dim in (None, spec.obs_dim) and action_dim in (None, spec.action_dim)
    assert capsys.readouterr().out == ""


@installed
@pytest.mark.parametrize(
    ("id_", "told"),
    [
        ("h1-wlak-v0", "nearest: h1-walk-v0"),
        ("h1-cube-v0", "has no scene for h1-cube-v0; nearest: .*h1hand-cube-v0"),
    ],
)
def test_what_does_not_exist_names_the_nearest(id_, told):
    with pytest.raises(ValueError, match=told):
        task_spec(f"gym/{id_}")


def rollout(seed: int, num_threads: int = 0) -> torch.Tensor:
    """Observations and rewards of 25 steps of three tasks, two of which place things at random; some episodes end."""
    names = ["gym/h1hand-cube-v0", "gym/h1hand-sit_hard-v0", "gym/h1hand-reach-v0"]
    env = MultiTaskEnv(names, envs_per_task=2, seed=seed, num_threads=num_threads)
    generator, td, seen = torch.Generator().manual_seed(1), env.reset(), []
    for _ in range(25):
        action = torch.rand(env.num_slots, 61, generator=generator) * 2 - 1
        transition, td = env.step_and_maybe_reset(td.set("action", action))
        seen.append(torch.cat([td["obs"], transition["next", "reward"], transition["next", "done"]], -1))
    env.close()
    return torch.stack(seen)


@installed
def test_a_seed_fixes_resets_and_steps():
    np.random.seed(5)
    first = rollout(seed=3)
    assert np.random.uniform() == np.random.RandomState(5).uniform()
    assert torch.equal(first, rollout(seed=3)) and torch.equal(first, rollout(seed=3, num_threads=2))
    assert not torch.equal(first, rollout(seed=4))


@installed
def test_episodes_start_anew_on_resume():
    slots = make_slots("gym/h1-walk-v0", 1, action_repeat=1, ignore_termination=False)
    slots.reset([0])
    state = slots.get_state()
    assert state[0]["simulator"] is None and slots.set_state(state) == [0]


@installed
@pytest.mark.parametrize("task", ["h1-walk", "h1hand-reach", "h1hand-sit_hard"])
def test_repeats_traces_made_without_this_project(task):
    file = TRACES / "golden" / f"{task}.npz"
    if not file.is_file():
        pytest.skip(f"no traces of HumanoidBench: {HOW_TO_MAKE_TRACES}")
    trace = np.load(file)
    if str(trace["mujoco_version"]) != mujoco.__version__:
        pytest.skip(f"the trace is of MuJoCo {trace['mujoco_version']}")
    env = original.make(f"{task}-v0", max_episode_steps=-1, disable_env_checker=True)
    for run, seed in enumerate(trace["seed"][:2]):
        assert np.array_equal(env.reset(seed=int(seed))[0], trace["obs"][run, 0])
        for t, action in enumerate(trace["action"][run]):
            obs, reward, terminated, _, _ = env.step(action)
            assert np.array_equal(obs, trace["obs"][run, t + 1]) and terminated == trace["terminated"][run, t]
            assert abs(reward - trace["reward"][run, t]) < 1e-12  # np.exp rounds as the processor's vectors do


@installed
def test_g1_runs_in_a_process_of_its_own():
    code = "from ezm_lightning.envs import task_spec; print(task_spec('gym/g1-walk-v0').action_dim)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "37\n", done.stderr


@installed
def test_nothing_warns():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        original.make("h1-stand-v0", max_episode_steps=-1, disable_env_checker=True).reset(seed=0)


@installed
def test_the_recorded_traces_are_those_of_the_tests(tmp_path, monkeypatch):
    """Recording works, and its files say the same as those made without this project."""
    from tests.golden import record_humanoidbench
    from tests.golden.humanoidbench import check_file

    monkeypatch.setattr(record_humanoidbench, "STEPS", 5)
    assert record_humanoidbench.main([str(tmp_path), "h1-maze"]) == 0
    checks = check_file(tmp_path / "h1-maze.npz")
    rounding = checks["reward"][1]
    assert checks.keys() >= {"reward", "trajectory"} and max(rounding.values()) <= 1e-12
    assert all(error <= rounding.get(name, 0.0) for name, error in checks["trajectory"][1].items())
    file = TRACES / "golden" / "h1-maze.npz"
    if file.is_file():
        expected, recorded = np.load(file), np.load(tmp_path / "h1-maze.npz")
        assert np.array_equal(expected["qpos"][:4, :6], recorded["qpos"][:4])


def test_recording_needs_the_package(no_package, tmp_path, capsys):
    from tests.golden import record_humanoidbench

    assert record_humanoidbench.main([str(tmp_path), "h1-walk"]) == 1
    assert "pip install" in capsys.readouterr().err
