"""Which windows can be drawn and what is in them, against episodes kept as Python lists."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import pytest
import torch
from tensordict import TensorDict

from ezm_lightning.replay import Replay
from ezm_lightning.types import Batch

from .counting import (
    ACTION_DIM,
    WINDOW,
    Stream,
    fill,
    make_replay,
    priorities,
    random_ends,
    starts,
)


@dataclass
class ListEpisode:
    obs: list[list[float]] = field(default_factory=list)  # one more than the others once the episode has ended
    action: list[list[float]] = field(default_factory=list)
    reward: list[float] = field(default_factory=list)
    search_value: list[float] = field(default_factory=list)
    number: list[int] = field(default_factory=list)  # of the transition, among the task's
    end: str = ""


class ListReplay:
    """Episodes as Python lists; forgets nothing, and says what may be drawn."""

    def __init__(self, slot_task: list[int], length: int, window: int | None) -> None:
        self.slot_task, self.length, self.window = slot_task, length, window
        self.episodes: list[list[ListEpisode]] = [[ListEpisode()] for _ in slot_task]
        self.collected = [0] * (max(slot_task) + 1)

    def extend(self, td: TensorDict) -> None:
        for slot, task in enumerate(self.slot_task):
            row, episode = td[slot], self.episodes[slot][-1]
            episode.obs.append(row["obs"].tolist())
            episode.action.append(row["action"].tolist())
            episode.reward.append(row["next", "reward"].item())
            episode.search_value.append(row["search_value"].item())
            episode.number.append(self.collected[task])
            self.collected[task] += 1
            if row["next", "done"].item():
                episode.end = "t" if row["next", "terminated"].item() else "u"
                episode.obs.append(row["next", "obs"].tolist())
                self.episodes[slot].append(ListEpisode())

    def drawable(self) -> dict[tuple[int, int, int], tuple[ListEpisode, int, int]]:
        """(slot, episode, step) -> (its episode, its step, its age)."""
        found = {}
        for slot, task in enumerate(self.slot_task):
            order = [(e, t) for e, episode in enumerate(self.episodes[slot]) for t in range(len(episode.obs))]
            for e, t in order[-self.length :]:
                episode = self.episodes[slot][e]
                if t + 1 >= len(episode.obs):
                    continue
                age = self.collected[task] - 1 - episode.number[t]
                if self.window is None or age < self.window:
                    found[(slot, e, t)] = (episode, t, age)
        return found


def check_windows(replay: Replay, oracle: ListReplay, batch: Batch) -> set[tuple[int, int, int]]:
    """Compares every window with the lists; returns the starts seen."""
    drawable = oracle.drawable()
    plain = {key: value.tolist() for key, value in batch.exclude("extras").to_tensordict().items()}
    plain |= {key: value.tolist() for key, value in batch.extras.items()}
    for b, start in enumerate(starts(batch)):
        assert start in drawable, start
        episode, t, age = drawable[start]
        assert plain["age"][b] == age
        assert plain["task"][b] == oracle.slot_task[start[0]]
        for j in range(WINDOW):
            exists = t + j < len(episode.obs)
            assert plain["valid"][b][j] == exists
            assert plain["final"][b][j] == (episode.end == "t" and t + j == len(episode.obs) - 1)
            assert plain["obs"][b][j] == episode.obs[min(t + j, len(episode.obs) - 1)]
            if t + j + 1 < len(episode.obs):
                assert plain["action"][b][j] == episode.action[t + j]
                assert plain["reward"][b][j] == episode.reward[t + j]
                assert plain["search_value"][b][j] == episode.search_value[t + j]
            elif episode.end:
                assert plain["action"][b][j] == [0.0] * ACTION_DIM
                assert plain["reward"][b][j] == 0.0
                assert math.isnan(plain["search_value"][b][j])
    return set(starts(batch))


@pytest.mark.parametrize(
    ("envs_per_task", "capacity", "window", "ier", "mean_length"),
    [
        (1, 23, None, True, 7.0),
        (2, 37, None, True, 4.0),
        (3, 60, 31, True, 9.0),
        (1, 30, 12, False, 1.5),
        (1, 5, None, True, 3.0),
        (2, 30, 4, True, 6.0),
        (2, 200, None, False, 300.0),
    ],
)
def test_a_long_stream_against_lists(envs_per_task, capacity, window, ier, mean_length):
    torch.manual_seed(0)
    replay = make_replay(3, envs_per_task, capacity=capacity, window=window, ier=ier, batch_size=150)
    oracle = ListReplay(replay.slot_task.tolist(), replay.writer.length, window)
    stream = Stream(replay.slot_task, random_ends(capacity, mean_length))
    for step in range(160):
        td = stream.step()
        replay.extend(td)
        oracle.extend(td)
        if step < 4 or step % 13:
            continue
        assert set(priorities(replay)) == set(oracle.drawable())
        batch = replay.sample()
        check_windows(replay, oracle, batch)
        replay.update_priority(batch.index, torch.rand(150) + 0.1)
    seen = set()
    while seen != set(oracle.drawable()):  # everything that may be drawn is drawn in the end
        seen |= check_windows(replay, oracle, replay.sample())
    assert replay.num_transitions.tolist() == oracle.collected


def test_windows_end_where_their_episode_does():
    replay = make_replay(1, batch_size=200)
    fill(replay, 9, lambda slot, episode, step: ["t", "u", "tu"][episode] if step == 2 else "")
    batch = replay.sample()
    last = batch.valid.sum(1) - 1
    assert torch.equal(batch.obs[torch.arange(200), last, 2], torch.full((200,), 3.0))  # o_0 o_1 o_2 and the final o_3
    episode = batch.obs[:, 0, 1]
    assert torch.equal(batch.final.any(1), (episode == 0) | (episode == 2))  # termination wins where both are set
    assert torch.equal(batch.final.long().argmax(1)[episode == 0], last[episode == 0])
    assert {s[1:] for s in starts(batch)} == {(e, t) for e in range(3) for t in range(3)}


def test_the_newest_row_waits_for_its_next_one():
    replay = make_replay(1)
    stream = fill(replay, 3)
    assert set(priorities(replay)) == {(0, 0, 0), (0, 0, 1)}
    replay.extend(stream.step())
    assert set(priorities(replay)) == {(0, 0, 0), (0, 0, 1), (0, 0, 2)}


def test_an_age_counts_the_transitions_of_all_processes():
    one, three = (make_replay(1, world_size=size) for size in (1, 3))
    ages = []
    for replay in (one, three):
        fill(replay, 9)
        batch = replay.sample()
        ages.append(dict(zip(starts(batch), batch.age.tolist(), strict=True)))
    assert ages[0][0, 0, 0] == 8 and ages[1] == {start: 3 * age for start, age in ages[0].items()}


def test_an_episode_cut_from_outside_ends_as_truncated():
    replay = make_replay(1, batch_size=100)
    stream = fill(replay, 4)
    stream.at = [(1, 0)]  # the collector was reset: the fifth observation never came back
    for _ in range(4):
        replay.extend(stream.step())
    batch = replay.sample()
    assert not batch.final.any()
    crossed = (batch.obs[:, :, 1] != batch.obs[:, :1, 1]) & batch.valid
    assert not crossed.any()
    first = batch.obs[:, 0, 1] == 0
    last = batch.valid.sum(1)[first] - 1
    assert (batch.obs[first][torch.arange(int(first.sum())), last, 2] == 4).all()  # its final observation is kept
