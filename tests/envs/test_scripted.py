"""Policies written by hand: they solve their tasks, and a task without one is a line."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ezm_lightning.envs.multitask import MultiTaskEnv
from ezm_lightning.envs.scripted import scripted_policy
from ezm_lightning.evaluation.recording import Played, good_ones, record_episodes
from ezm_lightning.replay.minari_format import Episode
from tests.conftest import skip_without_simulators


def played(task: str, episodes: int, action_repeat: int) -> list[Played]:
    env = MultiTaskEnv([task], envs_per_task=episodes, action_repeat=action_repeat, seed=0)
    policies = [scripted_policy(task) for _ in range(episodes)]

    def act(td) -> torch.Tensor:
        return torch.from_numpy(np.stack([each(obs) for each, obs in zip(policies, td["obs"].numpy(), strict=True)]))

    return record_episodes(env, act)


def test_the_pole_is_swung_up() -> None:
    """Random actions earn 0 on the sparse task."""
    returns = [each.return_ for each in played("dmc/cartpole-swingup_sparse", 5, 2)]
    assert min(returns) > 400 and np.median(returns) > 600


def test_the_lander_lands() -> None:
    """Its episodes terminate: an observation more than actions, and an end that is no truncation."""
    task = "gym/LunarLander-v3?continuous=true"
    skip_without_simulators([task])
    found = played(task, 5, 1)
    assert np.mean([each.return_ for each in found]) > 200
    for each in found:
        each.episode.check("it", 8, 2)
        assert each.episode.terminated[-1] and not each.episode.truncated.any()


@pytest.mark.parametrize("name", ["reach-v3", "door-open-v3", "drawer-close-v3"])
def test_meta_world_brings_its_own(name: str) -> None:
    skip_without_simulators([f"mw/{name}"])
    assert all(each.success for each in played(f"mw/{name}", 3, 1))


def test_a_task_without_one_is_a_line() -> None:
    with pytest.raises(ValueError, match=r"dmc/walker-walk has no scripted policy; nearest: .*policy=MODULE.FUNCTION"):
        scripted_policy("dmc/walker-walk")


def outcome(reward: float, success: bool | None = None) -> Played:
    one = np.zeros((1, 1), np.float32)
    episode = Episode(np.zeros((2, 1), np.float32), one, np.full(1, reward, np.float32), one[0] > 0, one[0] == 0)
    return Played(episode, success)


def test_the_filter_keeps_what_is_near_the_median() -> None:
    """0.75 times it, 1.25 times where it is negative; and no failure."""
    assert [each.return_ for each in good_ones([outcome(r) for r in (4, 75, 76, 100, 200)])] == [75, 76, 100, 200]
    kept = good_ones([outcome(r) for r in (-126, -124, -100, -90, -80)])
    assert [each.return_ for each in kept] == [-124, -100, -90, -80]
    assert good_ones([outcome(0.0)] * 4) == []
    assert len(good_ones([outcome(10, True), outcome(10, False), outcome(10, None)])) == 2
