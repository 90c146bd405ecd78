"""Odd environments: each mistake is one line that names the task, what came and what was expected."""

from __future__ import annotations

import os
import warnings

import numpy as np
import pytest
import torch

from ezm_lightning.acting import ZeroActor
from ezm_lightning.envs import MultiTaskEnv, register_source, sources, task_spec
from ezm_lightning.envs import gym as gym_source
from ezm_lightning.envs.checks import EndedByTask, good_rows, unusable
from ezm_lightning.envs.slots import Slots, SlotsStep, to_box
from ezm_lightning.envs.spec import TaskSpec
from ezm_lightning.evaluation.episodes import chooser, run_episodes
from tests.envs import odd

gymnasium = pytest.importorskip("gymnasium")
HERE = "tests.envs.odd"


@pytest.fixture(autouse=True)
def clean(monkeypatch):
    """What a test registers is forgotten after it, and the working folder is this one again."""
    before, folder = dict(gymnasium.registry), os.getcwd()
    monkeypatch.setattr(sources, "SOURCES", dict(sources.SOURCES))
    gym_source.task_spec.cache_clear()
    yield
    gymnasium.registry.clear()
    gymnasium.registry.update(before)
    gym_source.task_spec.cache_clear()
    os.chdir(folder)


def task(environment, **options) -> str:
    gymnasium.register("Odd-v0", entry_point=environment, **{"max_episode_steps": 50, **options})
    return "gym/Odd-v0"


def rollout(env, steps):
    td, out = env.reset(), []
    for _ in range(steps):
        action = torch.rand(env.action_spec.shape) * 2 - 1
        transition, td = env.step_and_maybe_reset(td.set("action", action))
        out.append(transition)
    return torch.stack(out)


REFUSED = {  # how a Gymnasium environment is, and what the one line says
    "four values": (odd.stepping(odd.observed, 0.5, False, {}), "step returned 4 values, Gymnasium's are obs, r"),
    "three values": (odd.stepping(odd.observed, 0.5, False), "step returned 3 values, Gymnasium's are obs, reward"),
    "an array": (odd.stepping().step and type("A", (odd.Odd,), {"step": lambda self, a: np.zeros(3)}),
                 r"step returned an array of shape \(3,\), Gymnasium's are"),
    "None": (type("N", (odd.Odd,), {"step": lambda self, a: None}), "step returned a NoneType, Gymnasium's are"),
    "narrow": (odd.stepping(lambda env: env.observe()[:1], 0.5, False, False, {}),
               r"gym/Odd-v0 observes an array of shape \(1,\), its obs_dim is 3"),
    "a column": (odd.stepping(lambda env: env.observe()[:, None], 0.5, False, False, {}), r"of shape \(3, 1\), its"),
    "a number": (odd.stepping(0.0, 0.5, False, False, {}), r"observes an array of shape \(\), its obs_dim is 3"),
    "no observation": (odd.stepping(None, 0.5, False, False, {}), r"observes an array of shape \(\), its obs_dim is 3"),
    "words": (odd.stepping(["a", "b", "c"], 0.5, False, False, {}), "observes an array of type <U1, numbers are expec"),
    "complex numbers": (odd.stepping(np.zeros(3, complex), 0.5, False, False, {}), "of type complex128, numbers"),
    "ragged": (odd.stepping([[1, 2], [3]], 0.5, False, False, {}), "observes 2 values, no array of 3 numbers"),
    "two rewards": (odd.stepping(odd.observed, np.zeros(2), False, False, {}), r"the reward has the shape \(2,\), one"),
    "no reward": (odd.stepping(odd.observed, None, False, False, {}), "the reward is None of type NoneType, a number"),
    "a word as reward": (odd.stepping(odd.observed, "0.5", False, False, {}), "the reward is '0.5' of type str, a"),
    "a dict as reward": (odd.stepping(odd.observed, {"a": 1}, False, False, {}), "the reward is {'a': 1} of type dict"),
    "a word as end": (odd.stepping(odd.observed, 0.5, "False", False, {}), "terminated is 'False' of type str, Tr"),
    "half an end": (odd.stepping(odd.observed, 0.5, 0.5, False, {}), "terminated is 0.5 of type float, True or False"),
    "two ends": (odd.stepping(odd.observed, 0.5, False, np.zeros(2, bool), {}), r"truncated has the shape \(2,\), Tr"),
    "no info": (odd.stepping(odd.observed, 0.5, False, False, None), "the info of a step is a NoneType, a dict is exp"),
    "old reset": (odd.OldReset, r"reset returned an array of shape \(3,\) \(old Gym API\), Gymnasium's are obs, info"),
    "old seeding": (type("S", (odd.Odd,), {"reset": lambda self: np.zeros(3)}), "cannot be stepped: TypeError: .*seed"),
    "argument": (odd.NeedsArgument, r"gym/Odd-v0 cannot be built: TypeError: .*'path'.*arguments follow a '\?'"),
    "no spaces": (odd.NoSpaces, "gym/Odd-v0 cannot be built: "),
    "no key": (odd.DictLacksKey, r"gym/Odd-v0: observes \['here'\], its space is Dict"),
    "no action": (odd.boxed([], []), r"action space Box\(\[\], \[\].*only a Box with one axis"),
    "crossed bounds": (odd.boxed([1, 0], [0, 1]), "gym/Odd-v0 cannot be built: ValueError: Box all low values"),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("how", REFUSED)
def test_a_gymnasium_environment_of_another_form_is_refused_at_once(how):
    environment, words = REFUSED[how]
    with pytest.raises(ValueError, match=words) as said:
        task_spec(task(environment))
    assert str(said.value).startswith("gym/Odd-v0") and "\n" not in str(said.value)
    assert "faults within" not in str(said.value)


@pytest.mark.parametrize("value", [np.array([0.5]), np.float32(0.5), torch.tensor(0.5), [0.5], np.array([[0.5]])])
@pytest.mark.parametrize("end", [np.array([True]), np.bool_(True), 1, torch.tensor(True), 1.0])
def test_one_number_in_an_array_counts_as_that(value, end):
    env = MultiTaskEnv([task(odd.stepping(odd.observed, value, end, False, {}))])
    after = rollout(env, 1)["next"]
    assert after["reward"].item() == 0.5 and after["terminated"].item() and not after["truncated"].item()
    assert env.faults.tolist() == [0]


def test_observations_as_lists_integers_and_tensors_are_taken():
    for obs in ([1, 2, 3], np.array([1, 2, 3], np.uint8), torch.tensor([1.0, 2, 3]), (1, 2.0, np.float32(3))):
        gym_source.task_spec.cache_clear()
        gymnasium.registry.pop("Odd-v0", None)
        env = MultiTaskEnv([task(odd.stepping(obs, 1, False, False, {}))])
        assert rollout(env, 1)["next", "obs"].tolist() == [[[1, 2, 3]]]


@pytest.mark.filterwarnings("ignore")
def test_another_width_in_mid_episode_is_a_fault_and_never_spread():
    env = MultiTaskEnv([task(odd.NarrowLater)], max_fault_share=0.5)
    steps = rollout(env, 12)
    assert env.faults.tolist() == [3]
    assert steps["next", "truncated"].flatten().nonzero().flatten().tolist() == [3, 7, 11]
    assert torch.equal(steps["next", "obs"][3], steps["obs"][3])  # the last good one


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("size", [1e30, -1e25, 1e19, np.inf, np.nan])
def test_an_observation_that_the_network_cannot_take_is_a_fault(monkeypatch, size):
    monkeypatch.setattr(odd.Huge, "size", size)
    env = MultiTaskEnv([task(odd.Huge)], max_fault_share=0.5)
    with pytest.warns(UserWarning, match="gym/Odd-v0: FloatingPointError: the observation is (not finite|too large)"):
        steps = rollout(env, 7)
    assert env.faults.tolist() == [1] and steps["next", "obs"].abs().max() <= 1


def test_large_numbers_that_can_be_used_are():
    obs, reward = np.array([[1e17, -1e18]], np.float32), np.array([-1e17], np.float32)
    faults = {}
    assert good_rows(obs, reward, faults).all() and faults == {}
    assert unusable(obs) is None and "nan" in str(unusable([0, np.nan]))


@pytest.mark.parametrize(
    ("low", "high", "dtype", "seen"),
    [
        ([5, -np.inf], [np.inf, -3], np.float32, ([5, -5], [7, -3])),
        ([-np.inf, -np.inf], [np.inf, np.inf], np.float64, ([-1, -1], [1, 1])),
        ([0.1, -7.3], [0.7, 0.2], np.float64, ([0.1, -7.3], [0.7, 0.2])),
        ([-0.1, 3], [9e8, 3], np.float32, ([-0.1, 3], [9e8, 3])),
        ([0, -3], [255, 2], np.int64, ([0, -3], [255, 2])),
        ([-3.4e38, 0], [1e10, 3.4e38], np.float32, ([-1, 0], [1, 2])),
    ],
)
def test_actions_lie_inside_every_kind_of_box_and_reach_its_ends(low, high, dtype, seen):
    environment = odd.boxed(low, high, dtype)
    env = MultiTaskEnv([task(environment)])
    td = env.reset()
    environment.seen.clear()
    for value in (-1.0, 1.0, 0.0, 0.3, -0.7, 1 / 3):
        td = env.step(td.set("action", torch.full((1, 2), value)))["next"]
    assert env.faults.tolist() == [0]
    for end, got in zip(seen, environment.seen, strict=False):
        np.testing.assert_allclose(np.asarray(got, np.float64), np.array(end, dtype).astype(float), rtol=1e-6)


def test_the_box_from_minus_1_to_1_passes_actions_bit_for_bit():
    centre, half_width = to_box(np.array([-1.0, -np.inf, 0]), np.array([1.0, np.inf, np.inf]))
    assert centre.tolist() == [0, 0, 1] and half_width.tolist() == [1, 1, 1]
    with pytest.raises(ValueError, match="dimension 1 of its action space has the bounds nan"):
        to_box(np.array([0, np.nan]), np.ones(2))


ENDED = {
    "step": (odd.Exits, "ended the process: licence expired"),
    "reset": (odd.ExitsAtReset, r"ended the process: sys.exit\(3\)"),
    "built": (odd.ExitsWhenBuilt, r"ended the process: sys.exit\(None\)"),
}


@pytest.mark.parametrize("where", ENDED)
def test_an_environment_that_exits_is_named(where):
    environment, words = ENDED[where]
    with pytest.raises(EndedByTask, match=f"gym/Odd-v0 {words}") as said:
        task_spec(task(environment))
    assert said.value.status == 1


@pytest.mark.parametrize("num_threads", [0, 2])
def test_one_that_exits_in_the_middle_is_named_too(num_threads):
    env = MultiTaskEnv([task(odd.ExitsLater)], envs_per_task=2, num_threads=num_threads)
    with pytest.raises(EndedByTask, match="gym/Odd-v0 ended the process: no more licences"):
        rollout(env, 10)


def test_close_may_raise():
    with pytest.warns(UserWarning, match=r"gym/Odd-v0 cannot be closed: RuntimeError: viewer already closed \(odd.py"):
        assert task_spec(task(odd.CloseRaises)).obs_dim == 3


@pytest.mark.parametrize("limit", [float("inf"), 0, 2.5])
def test_a_registered_time_limit_is_a_whole_number(limit):
    name = task(odd.Odd)
    gymnasium.registry["Odd-v0"].max_episode_steps = limit
    with pytest.raises(ValueError, match="gym/Odd-v0: max_episode_steps must be a whole number of at least 1, got"):
        task_spec(name)


def test_an_id_with_a_vectorised_version_alone_says_so():
    gymnasium.register("Odd-v0", vector_entry_point=odd.Odd)
    with pytest.raises(ValueError, match=r"gym/Odd-v0 has only a vectorised version .*not supported$"):
        task_spec("gym/Odd-v0")


TASKS = {  # a task of odd.TASKS, and what is said where it is built
    "no_obs_dim": "has no obs_dim .a whole number; so are obs_dim, action_dim, max_episode_steps",
    "forgets": "cannot be built: AttributeError|has no obs_dim",
    "no_step": "has no step method; a simulator writes seed, reset, step",
    "saves_only": "has get_state without set_state: a run could not be resumed",
    "gym": "builds a Odd, no ezm_lightning.envs.Simulator; a Gymnasium environment is gym/tests.envs.odd:ID",
    "number": "is a int, a Simulator class or what builds one is expected",
    "refuses": r"cannot be built: OSError: no display \(odd.py, line \d+\)",
    "shared": "the same simulator was built twice",
    "endless": "max_episode_steps must be a whole number of at least 1, got inf",
    "unlimited": "max_episode_steps must be a whole number of at least 1, got None",
    "zero": "max_episode_steps must be a whole number of at least 1, got 0",
    "half": "max_episode_steps must be a whole number of at least 1, got 2.5",
    "yes": "max_episode_steps must be a whole number of at least 1, got True",
}


@pytest.mark.parametrize("name", TASKS)
def test_a_task_of_ones_own_that_cannot_be_built_says_why(name):
    with pytest.raises(ValueError, match=f"{HERE}/{name}:? ({TASKS[name]})") as said:
        MultiTaskEnv([f"{HERE}/{name}"], envs_per_task=2)
    assert "\n" not in str(said.value)


@pytest.mark.parametrize(
    ("name", "words"),
    [("tuple", "step returned 3 values, a Transition is expected"), ("nothing", "returned a NoneType, a Transition")],
)
def test_a_step_that_returns_something_else_is_refused_at_once(name, words):
    env = MultiTaskEnv([f"{HERE}/{name}"])
    with pytest.raises(ValueError, match=f"{HERE}/{name}: .*{words}"):
        rollout(env, 1)


MODULES = {
    "TASKS = {'case': Reach}": r"cannot be imported: NameError: name 'Reach' is not defined \(odd_\d.py, line 1\)",
    "def f(:\n  pass": r"cannot be imported: SyntaxError: .*\(odd_\d.py, line 1\)",
    "import no_such_module": r"cannot be imported: ModuleNotFoundError: No module named 'no_such_module' \(odd_\d.py",
    "1 / 0": "cannot be imported: ZeroDivisionError: division by zero",
    "raise SystemExit('no licence')": "ended the process: no licence",
    "TASKS = ['case']": "TASKS is a list; a dict from names to Simulator classes is expected",
    "x = 1": "is a module without tasks",
    "def task_spec(task): return task['x']\nmake = known_tasks = list": "case cannot be built: TypeError: .*line 1",
    "def task_spec(task): return (1, 2)\nmake = known_tasks = list": "task_spec returned a tuple, a TaskSpec",
}


@pytest.mark.parametrize("number", range(len(MODULES)))
def test_a_mistake_in_the_module_of_a_task_is_one_line(tmp_path, monkeypatch, number):
    text, words = list(MODULES.items())[number]
    (tmp_path / f"odd_{number}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises((ValueError, ImportError), match=words) as said:
        task_spec(f"odd_{number}/case")
    assert str(said.value).startswith(f"odd_{number}") and "\n" not in str(said.value)


def test_a_module_without_tasks_names_the_task_that_sounds_like_it():
    with pytest.raises(ValueError, match=r"mujoco is a module without tasks.*; nearest: gym/Ant-v"):
        task_spec("mujoco/ant")
    with pytest.raises(ValueError, match="nearest: dmc/walker-walk"):
        task_spec("dm_control/walker-walk")


@pytest.mark.parametrize("repeat", [1, 2, 3])
def test_each_repeat_gets_the_same_action(repeat):
    odd.ChangesAction.given.clear()
    env = MultiTaskEnv([f"{HERE}/changes_action"], action_repeat=repeat)
    td = env.reset()
    for value in (0.5, -0.25):
        action = torch.full((1, 2), value)
        td = env.step(td.set("action", action))["next"]
        assert action.tolist() == [[value, value]]
    assert odd.ChangesAction.given == [0.5] * repeat + [-0.25] * repeat


def evaluated(name, repeat, slots=2):
    env = MultiTaskEnv([name], envs_per_task=slots, action_repeat=repeat, ignore_termination=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        returns = run_episodes(env, chooser(ZeroActor(max(env.action_dims)), torch.Generator()))
    assert env.faults.tolist() == [0]
    return returns


@pytest.mark.parametrize("repeat", [1, 2, 5])
def test_a_return_ends_with_the_step_that_terminates(repeat):
    returns = evaluated(task(odd.PaysAfterItsEnd), repeat)
    assert returns.honoured.tolist() == [1, 1] and returns.ignored.tolist() == [50, 50]


@pytest.mark.parametrize("repeat", [1, 2, 5])
@pytest.mark.parametrize("environment", [odd.RefusesAfterItsEnd, odd.RefusesWithinRepeats])
def test_an_environment_that_is_not_played_on_ends_there_without_a_fault(environment, repeat):
    returns = evaluated(task(environment), repeat, slots=20)
    assert returns.honoured.tolist() == returns.ignored.tolist() == [environment.end / 2] * 20


@pytest.mark.filterwarnings("ignore")
def test_a_failure_before_the_end_stays_a_fault():
    class Fails(odd.RefusesAfterItsEnd):
        def step(self, action):
            result = super().step(action)
            return *result[:2], False, *result[3:]  # it ends without a word

    env = MultiTaskEnv([task(Fails)], ignore_termination=True, max_fault_share=1.0)
    run_episodes(env, chooser(ZeroActor(2), torch.Generator()))
    assert env.faults.tolist() == [1]


def test_simulators_stepped_together_earn_up_to_their_end_too():
    """The same of rewards that are computed for all slots at once."""
    from ezm_lightning.envs.slots import PhysicsSlots

    class Counting(PhysicsSlots):
        def seed(self, seeds): ...

        def reset(self, rows):
            self.elapsed[list(rows)] = 0
            return np.zeros((len(rows), 1))

        def controls(self, action):
            return action

        def act(self, row, control):
            if row == 1 and self.elapsed[row] == 3:
                raise RuntimeError("not after the end")

        def judge(self, rows):
            return np.ones(self.num_slots), self.elapsed == 2  # in its third step

        def observe(self):
            return self.elapsed[:, None].astype(float)

    class Source:
        task_spec = staticmethod(lambda task: TaskSpec("count/it", 1, 1, 10))
        make = staticmethod(lambda task, n, **options: Counting(TaskSpec("count/it", 1, 1, 10), n, **options))
        known_tasks = staticmethod(lambda: ["it"])

    register_source("count", Source())
    for repeat in (1, 2, 4):
        returns = evaluated("count/it", repeat)
        assert returns.honoured.tolist() == [3, 3] and returns.ignored[0] == 10 and returns.ignored[1] == 3
    after = rollout(MultiTaskEnv(["count/it"], envs_per_task=2, action_repeat=4, ignore_termination=True), 1)["next"]
    assert after["done"].flatten().tolist() == [False, True]  # what has failed after its end is not played on


def test_slots_of_ones_own_are_not_spread_either():
    class Narrow(Slots):
        def seed(self, seeds): ...

        def reset(self, rows):
            return np.zeros((len(rows), 3))

        def begin(self, action):
            self.outcome = SlotsStep(np.zeros((2, 1)), np.zeros(2), np.zeros(2, bool), np.zeros(2, bool), 2)
            return [0, 1]

        def advance(self, row): ...

        def settle(self):
            return []

    class Source:
        task_spec = staticmethod(lambda task: TaskSpec("own/it", 3, 1, 10))
        make = staticmethod(lambda *arguments, **options: Narrow())
        known_tasks = staticmethod(lambda: ["it"])

    register_source("own", Source())
    env = MultiTaskEnv(["own/it"], envs_per_task=2)
    with pytest.raises(ValueError, match=r"own/it observes arrays \[2 × 1\], \[2 × 3\] are expected"):
        rollout(env, 1)


def test_a_task_starts_from_the_same_states_whichever_others_are_there():
    names = ["dmc/cartpole-balance", "dmc/cartpole-swingup", f"{HERE}/good"]
    whole = MultiTaskEnv(names, envs_per_task=2, seed=5)
    first = {name: whole.reset()["obs"][2 * i : 2 * i + 2] for i, name in enumerate(names)}
    whole.set_seed(5)
    first = whole.reset()["obs"]
    for chosen in ([1], [2, 0], [2]):
        part = MultiTaskEnv([names[i] for i in chosen], envs_per_task=2, places=chosen)
        part.set_seed(5)
        obs = part.reset()["obs"]
        for row, i in enumerate(chosen):
            width = whole.obs_dims[i]
            assert torch.equal(obs[2 * row : 2 * row + 2, :width], first[2 * i : 2 * i + 2, :width])
