"""Names, dimensions and sources of tasks."""

import subprocess
import sys
import types

import pytest

from ezm_lightning.envs import known_tasks, register_source, resolve_tasks, sources, task_spec
from ezm_lightning.envs.dmc.dims import DIMS
from ezm_lightning.envs.simulator import Simulator, SimulatorSource, Transition
from ezm_lightning.envs.sources import make_slots


class Line(Simulator):
    obs_dim, action_dim, max_episode_steps = 1, 1, 5

    def seed(self, seed):
        pass

    def reset(self):
        self.x = 0.0
        return [self.x]

    def step(self, action):
        self.x += float(action[0])
        return Transition([self.x], -abs(self.x), terminated=False)


@pytest.fixture
def own_sources(monkeypatch):
    monkeypatch.setattr(sources, "SOURCES", dict(sources.SOURCES))


def test_table_of_dimensions_is_the_suites():
    suite = pytest.importorskip("dm_control.suite")
    assert list(DIMS) == [f"{domain}-{task}" for domain, task in suite.ALL_TASKS]


def test_spec_of_a_suite_task():
    spec = task_spec("dmc/ball_in_cup-catch")
    assert (spec.obs_dim, spec.action_dim, spec.max_episode_steps, spec.success_score) == (8, 2, 1000, 1000.0)


def test_known_tasks_hold_both_sources():
    names = known_tasks()
    assert "dmc/cartpole-balance_sparse" in names
    assert "gym/HalfCheetah-v5" in names and "gym/Ant-v2" not in names


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("dmc/walker-wolk", "walker-walk"),
        ("walker-walk", "dmc/walker-walk"),
        ("dcm/walker-walk", "nearest: dmc"),
        ("os/walk", "neither TASKS"),
    ],
)
def test_unknown_names_tell_the_nearest(name, told):
    with pytest.raises(ValueError, match=told):
        task_spec(name)


@pytest.mark.parametrize(("names", "told"), [([], "no task"), (["dmc/walker-walk"] * 2, "once")])
def test_lists_that_name_nothing_or_twice_are_refused(names, told):
    with pytest.raises(ValueError, match=told):
        resolve_tasks(names)


def test_a_dict_of_simulators_is_a_source(own_sources):
    register_source("mine", {"line": Line})
    assert task_spec("mine/line") == sources.TaskSpec("mine/line", 1, 1, 5)
    with pytest.raises(ValueError, match="nearest: line"):
        task_spec("mine/lime")
    with pytest.raises(ValueError, match="taken"):
        register_source("dmc", {"line": Line})


def test_an_importable_module_is_a_source(own_sources, monkeypatch):
    module = types.ModuleType("line_module")
    module.__spec__ = types.SimpleNamespace()
    module.TASKS = {"line": Line}
    monkeypatch.setitem(sys.modules, "line_module", module)
    assert task_spec("line_module/line").obs_dim == 1


@pytest.mark.parametrize(
    ("package", "name", "told"),
    [("dm_control", "dmc/walker-walk", "pip install dm-control"), ("gymnasium", "gym/Hopper-v5", "pip install 'gym")],
)
def test_a_missing_simulator_tells_what_to_install(package, name, told, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    sources.load_source("gym").task_spec.cache_clear()
    with pytest.raises(ImportError, match=told):
        make_slots(name, 1, action_repeat=1, ignore_termination=False)


def test_observations_of_another_size_are_refused():
    class Liar(Line):
        obs_dim = 3

    slots = SimulatorSource("mine", {"liar": Liar}).make("liar", 1, action_repeat=1, ignore_termination=False)
    with pytest.raises(ValueError, match=r"mine/liar observes an array of shape \(1,\)"):
        slots.reset([0])


def test_names_need_no_simulator():
    code = (
        "import sys; from ezm_lightning.envs import task_spec; task_spec('dmc/walker-walk');"
        "print([m for m in ('torch', 'torchrl', 'mujoco', 'dm_control', 'gymnasium') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() in ("[]", "['torch']")
