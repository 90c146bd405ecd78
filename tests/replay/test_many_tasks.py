"""What a replay of 200 unlike tasks costs, and that short episodes do not crowd out long ones."""

from __future__ import annotations

import pytest
import torch

from ezm_lightning.replay import replay_bytes
from tests.replay.counting import fill, make_replay

LENGTHS = {25: 26, 50: 2, 100: 61, 200: 10, 250: 10, 500: 62, 1000: 29}  # decisions of an episode: tasks of Newt


def test_a_row_of_newts_widths_takes_619_bytes() -> None:
    sizes = {"obs_dim": 128, "action_dim": 16, "extras": ["search_value"]}
    assert replay_bytes(num_tasks=1, num_slots=1, capacity=1, **sizes) == 619
    assert replay_bytes(num_tasks=200, num_slots=200, capacity=50_000, **sizes) == 6_190_000_000


def test_drawing_by_trajectory_would_prefer_short_episodes_forty_to_one() -> None:
    """Each task collects as many decisions; a trajectory of each has the same chance. Here every task has."""
    trajectories = sum(tasks / length for length, tasks in LENGTHS.items())
    assert sum(LENGTHS.values()) == 200
    assert 100 / 25 / trajectories == pytest.approx(2.07, abs=0.005)
    assert 100 / 1000 / trajectories == pytest.approx(0.052, abs=0.0005)
    replay = make_replay(num_tasks=2, capacity=200, batch_size=64)
    fill(replay, 150, lambda slot, episode, step: "u" if step == (4 if slot == 0 else 99) else "")
    assert torch.bincount(replay.sample().task).tolist() == [32, 32]
