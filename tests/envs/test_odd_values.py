"""Values of environments that look usable and are not: each is refused in one short line."""

from __future__ import annotations

import decimal
import io
import warnings

import numpy as np
import pytest
import torch

from ezm_lightning.envs import MultiTaskEnv, TaskSpec, register_source, task_spec
from ezm_lightning.envs.saved_state import to_plain
from ezm_lightning.envs.slots import to_box
from tests.envs import odd
from tests.envs.test_odd import clean, rollout, task  # noqa: F401  (a fixture)

gymnasium = pytest.importorskip("gymnasium")
spaces = gymnasium.spaces


class BadText(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


def resetting(*result):
    class Env(odd.Odd):
        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            return result

    return Env


def of_space(observation_space, observe):
    class Env(odd.Odd):
        def __init__(self, render_mode=None):
            super().__init__()
            self.observation_space = observation_space

        def observe(self):
            return observe(self)

    return Env


def stepping(reward=0.5, terminated=False, obs=odd.observed, info=None):
    return odd.stepping(obs, reward, terminated, False, info or {})


PAIR = spaces.Dict({"a": spaces.Box(-1, 1, (2,), np.float64), "b": spaces.Box(-1, 1, (2,), np.float64)})
REFUSED = {
    "masked reward": (stepping(np.ma.masked), "the reward is masked, one number is expected"),
    "masked end": (stepping(terminated=np.ma.masked), "terminated is masked, True or False is expected"),
    "masked observation": (stepping(obs=np.ma.array([1.0, 2, 3], mask=[0, 1, 0])), "observes a masked array, 3 num"),
    "a number of many digits": (stepping(10**400), r"the reward is 1000+\.\.\. of type int, a number is expected"),
    "of more digits than Python prints": (stepping(10**5000), "the reward is a int of type int, a number is expected"),
    "a long word": (stepping("x" * 500), r"the reward is 'xxx+\.\.\. of type str"),
    "a decimal": (stepping(decimal.Decimal("0.5")), r"the reward is Decimal\('0.5'\) of type Decimal"),
    "an empty reward": (stepping(np.array([])), r"the reward has the shape \(0,\), one number"),
    "an object": (stepping(obs=np.array([1.0, None, 3.0])), "observes an array of type object, numbers are expected"),
    "success in words": (stepping(info={"success": "yes"}), r"info\['success'\] is 'yes' of type str, True or False"),
    "no success": (stepping(info={"is_success": None}), r"info\['is_success'\] is None of type NoneType"),
    "info of a reset": (resetting(np.zeros(3), None), "the info of a reset is a NoneType, a dict is expected"),
    "one value of a reset": (resetting(np.zeros(3)), "reset returned 1 value, Gymnasium's are obs, info"),
    "entries of other shapes": (
        of_space(PAIR, lambda env: {"a": np.zeros(3), "b": np.zeros(1)}),
        r"the observation\['a'\] has the shape \(3,\), its space has \(2,\)",
    ),
    "a nested entry": (
        of_space(spaces.Dict({"in": PAIR}), lambda env: {"in": {"a": np.zeros(2), "b": 0.5}}),
        r"the observation\['in'\]\['b'\] has the shape \(\), its space has \(2,\)",
    ),
    "a column as entry": (
        of_space(PAIR, lambda env: {"a": np.zeros((2, 1)), "b": np.zeros(2)}),
        r"the observation\['a'\] has the shape \(2, 1\)",
    ),
    "an image": (of_space(spaces.Box(0, 255, (8, 8, 3), np.uint8), odd.observed), "only a Box with one axis"),
    "an error without a text": (odd.stepping(lambda env: (_ for _ in ()).throw(BadText())), "stepped: BadText: Bad"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("how", REFUSED)
def test_a_value_of_another_kind_is_refused_in_a_short_line(how):
    environment, words = REFUSED[how]
    with pytest.raises(ValueError, match=words) as said:
        task_spec(task(environment))
    text = str(said.value)
    assert text.startswith("gym/Odd-v0") and text.count("gym/Odd-v0") == 1
    assert "\n" not in text and len(text) < 250


@pytest.mark.filterwarnings("ignore")
def test_an_entry_that_changes_its_shape_later_is_a_fault():
    def observe(env):
        narrow = getattr(env, "t", 0) == 4
        return {"a": np.zeros(3 if narrow else 2), "b": np.zeros(1 if narrow else 2)}

    env = MultiTaskEnv([task(of_space(PAIR, observe))], max_fault_share=0.5)
    rollout(env, 10)
    assert env.faults.tolist() == [2]


@pytest.mark.parametrize("error", [MemoryError(), BadText(), RuntimeError("two\nlines"), StopIteration(3)])
def test_the_warning_of_a_fault_is_one_line_whatever_is_raised(error):
    class Raises(odd.Odd):
        def step(self, action):
            if self.t == 2:
                raise error
            return super().step(action)

    env = MultiTaskEnv([task(Raises)], max_fault_share=0.5)
    with pytest.warns(UserWarning) as said:
        rollout(env, 3)
    assert env.faults.tolist() == [1]
    assert [type(error).__name__ in str(warning.message) for warning in said] == [True]
    assert "\n" not in str(said[0].message)


def test_numbers_too_large_for_float32_are_a_fault_without_further_noise():
    for size, at in ((1e300, "reset"), (-1e300, "step")):
        gymnasium.registry.pop("Odd-v0", None)

        class Large(odd.Odd):
            def reset(self, *, seed=None, options=None):
                super().reset(seed=seed)
                return np.full(3, size if at == "reset" else 0.0), {}  # noqa: B023

            def step(self, action):
                return np.full(3, size), 0.5, False, False, {}  # noqa: B023

        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)
            warnings.simplefilter("ignore", UserWarning)
            env = MultiTaskEnv([task(Large)], max_fault_share=0.0)
            with pytest.raises(ValueError, match=r"gym/Odd-v0.*FloatingPointError: the (first )?observation"):
                rollout(env, 1)


@pytest.mark.parametrize(
    ("low", "high"), [(np.inf, np.inf), (-np.inf, -np.inf), (np.inf, -np.inf), (0.0, np.nan), (2.0, 1.0)]
)
def test_an_interval_without_a_number_is_refused(low, high):
    with pytest.raises(ValueError, match=f"dimension 1 of its action space has the bounds {low} and {high}"):
        to_box(np.array([-1.0, low]), np.array([1.0, high]))


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        *(("reward_range", value, "reward_range must be two finite numbers, the first below the second, got")
          for value in ((1, 0), (1, 1), (0, np.nan), (0, np.inf), (0, 1, 2), (1,), "ab", 3, {"a": 1})),
        *(("reports_success", value, "reports_success must be True or False, got") for value in ("yes", 1, None)),
        ("max_episode_steps", 10**9, "max_episode_steps=1000000000 is above 1_000_000"),
        ("max_episode_steps", -5, "max_episode_steps must be a whole number of at least 1, got -5"),
        ("obs_dim", np.nan, "obs_dim must be a whole number of at least 1, got nan"),
        ("action_dim", True, "action_dim must be a whole number of at least 1, got True"),
    ],
)  # fmt: skip
def test_a_task_of_ones_own_says_sensible_things_of_itself(field, value, words):
    register_source("mine", {"task": type("Mine", (odd.Good,), {field: value})})
    with pytest.raises(ValueError, match=f"mine/task: {words}"):
        task_spec("mine/task")


def test_bounds_of_rewards_may_be_written_as_a_list_or_an_array():
    specs = [TaskSpec("a/b", 1, np.int64(1), 10, reward_range=bounds) for bounds in ([0, 1], np.array([0, 1]), (0, 1))]
    assert specs[0] == specs[1] == specs[2] and specs[0].reward_range == (0.0, 1.0)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (1 << 3000, r"state\['x'\] is a whole number of 3001 bits"),
        ({"numpy array": 5}, r"state\['x'\] has the key 'numpy array' alone"),
        ({"numpy number": [1, 2, 3]}, r"state\['x'\] has the key 'numpy number' alone"),
        (np.ma.array([1, 2], mask=[0, 1]), r"state\['x'\] is a masked array"),
    ],
)
def test_what_could_not_be_read_back_is_refused_when_it_is_saved(value, words):
    with pytest.raises(ValueError, match=words):
        to_plain({"x": value}, "state")


def test_the_longest_whole_number_that_is_saved_can_be_read():
    file = io.BytesIO()
    torch.save(to_plain({"x": [(1 << 2000) - 1, -(1 << 2000) + 1]}, "state"), file)
    file.seek(0)
    assert torch.load(file, weights_only=True)["x"] == [(1 << 2000) - 1, -(1 << 2000) + 1]
