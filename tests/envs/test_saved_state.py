"""What a task saves of itself comes back as it was, or is refused by name when it is saved."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ezm_lightning.envs import MultiTaskEnv
from ezm_lightning.envs.saved_state import from_plain, to_plain
from tests.envs.test_odd import HERE, clean, rollout  # noqa: F401  (a fixture)


def test_arrays_in_a_state_come_back_as_they_were(tmp_path):
    env, other = (MultiTaskEnv([f"{HERE}/saves_arrays"], envs_per_task=2, seed=seed) for seed in (1, 2))
    rollout(env, 7)
    torch.save(env.get_state(), tmp_path / "state.pt")
    other.set_state(torch.load(tmp_path / "state.pt", weights_only=True))
    assert torch.equal(other.reset()["obs"], torch.from_numpy(env._obs))
    places = [[simulator.place for simulator in each._groups[0].slots.simulators] for each in (env, other)]
    assert np.array_equal(*places)


def test_every_type_of_array_survives():
    for array in (np.arange(6, dtype=">u2").reshape(2, 3), np.array(3.5), np.array("2026-01-01", "M8[D]"), np.zeros(0)):
        back = from_plain(to_plain({"x": array}, "state"))["x"]
        assert back.dtype == array.dtype and np.array_equal(back, array) and back.shape == array.shape
        assert back is not array and back.flags.writeable


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (np.random.default_rng(0), r"state\['x'\] is of type Generator, which a checkpoint cannot hold"),
        (np.array([None]), r"state\['x'\] is an array of type object"),
        ({"deep": [1, {2: object()}]}, r"state\['x'\]\['deep'\]\[1\]\[2\] is of type object"),
        ({(1, 2): 3}, r"state\['x'\] has the key \(1, 2\) of type tuple"),
        (range(3), "of type range"),
    ],
)
def test_what_a_checkpoint_cannot_hold_is_named(value, words):
    with pytest.raises(ValueError, match=words):
        to_plain({"x": value}, "state")


def test_a_state_that_cannot_be_saved_names_the_task():
    env = MultiTaskEnv([f"{HERE}/saves_object"])
    env.reset()
    with pytest.raises(
        ValueError, match=r"odd/saves_object: get_state\(\)\['deep'\]\['generator'\] is of type Generator"
    ):
        env.get_state()
