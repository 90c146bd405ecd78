"""Saving and loading, sizes and bad input."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tensordict import TensorDict
from torch import Tensor

from ezm_lightning.replay import Replay, replay_bytes
from ezm_lightning.replay.episodes import SavedReplay

from .counting import (
    OBS_DIM,
    SIZES,
    Stream,
    fill,
    make_replay,
    priorities,
    random_ends,
    starts,
)


def play(replay: Replay, stream: Stream, steps: int) -> list[TensorDict]:
    """Collects and learns for a while; returns all batches."""
    batches = []
    for _ in range(steps):
        replay.extend(stream.step())
        batch = replay.sample()
        batches.append(batch.to_tensordict())
        replay.update_priority(batch.index, batch.obs[:, 0, 2] % 5 + 0.1)
    return batches


def check_windows(replay: Replay) -> None:
    """Every window begins at a row that may be drawn and holds the rows of one slot and episode that follow it."""
    assert len(priorities(replay)) == len(replay) - int(replay._open.sum())  # all but the newest rows
    stored = {tuple(row[:3]) for row in replay.stored("obs")[0].long().tolist()}
    batch = replay.sample(torch.full((replay.num_tasks,), 200))
    for obs, valid in zip(batch.obs[..., :3].long().tolist(), batch.valid.sum(1).tolist(), strict=True):
        slot, episode, step = obs[0]
        follow = [(slot, episode, step + j) for j in range(len(obs))]
        assert [tuple(row) for row in obs[:valid]] == follow[:valid]
        assert valid == len(obs) or follow[valid] not in stored


def in_time(replay: Replay) -> list[Tensor]:
    """The observations of all rows of each slot, in order of time."""
    (obs,) = replay.stored("obs")
    slots = (obs[obs[:, 0] == slot] for slot in range(replay.num_slots))
    return [rows[(rows[:, 1] * 1000 + rows[:, 2]).argsort()] for rows in slots]


@pytest.mark.parametrize("steps", [5, 17, 100])
def test_loading_goes_on_bit_for_bit(tmp_path: Path, steps: int):
    ends = random_ends(3, 1e9)
    replay = make_replay(2, 2, capacity=60, batch_size=7)
    stream = fill(replay, steps, lambda slot, episode, step: "tu"[episode % 2] if step == 5 + slot else "")
    play(replay, stream, 5)
    replay.extend(stream.step())  # rows that have no priority yet
    replay.save(tmp_path)
    again = make_replay(2, 2, capacity=60, batch_size=7, seed=9)
    fill(again, 11, ends)
    again.load(tmp_path)
    twin = Stream(stream.slot_task, stream.ends)
    twin.at = list(stream.at)
    for here, there in zip(play(replay, stream, 40), play(again, twin, 40), strict=True):
        for key in sorted(here.keys(include_nested=True, leaves_only=True), key=str):
            assert torch.equal(here[key].nan_to_num(-1), there[key].nan_to_num(-1)), key
    assert torch.equal(replay.sampler.mass, again.sampler.mass)
    assert torch.equal(replay.num_transitions, again.num_transitions)


def test_only_filled_rows_are_saved_as_plain_tensors(tmp_path: Path):
    replay = make_replay(2, capacity=100_000)
    fill(replay, 10)
    replay.save(tmp_path / "deep" / "folder")
    files = sorted((tmp_path / "deep" / "folder").iterdir())
    assert sum(file.stat().st_size for file in files) < 60_000
    for file in files:
        torch.load(file, weights_only=True)
    assert torch.load(tmp_path / "deep" / "folder" / "obs.pt", weights_only=True).shape == (20, OBS_DIM)


def test_an_empty_replay_can_be_saved(tmp_path: Path):
    make_replay().save(tmp_path)
    replay = make_replay()
    fill(replay, 10)
    replay.load(tmp_path)
    assert len(replay) == 0
    fill(replay, 6)
    assert {start[2] for start in starts(replay.sample())} == set(range(5))


def test_loading_other_sizes_says_what_differs(tmp_path: Path):
    make_replay(2).save(tmp_path)
    with pytest.raises(ValueError, match=r"obs_dim is 4 there, 6 here; capacity is 40 there, 30 here"):
        make_replay(2, capacity=30, obs_dim=6).load(tmp_path)
    with pytest.raises(ValueError, match=r"slot_task is \[0, 1\] there, \[0, 1, 2\] here"):
        make_replay(3).load(tmp_path)


def test_replay_bytes_is_what_is_allocated():
    replay = make_replay(3, 2, capacity=999, obs_dim=51, action_dim=19)
    n = 6
    done = {key: torch.zeros(n, 1, dtype=torch.bool) for key in ("terminated", "truncated", "done")}
    td = {"obs": torch.zeros(n, 51), "action": torch.zeros(n, 19), "search_value": torch.zeros(n)}
    after = {"obs": torch.zeros(n, 51), "reward": torch.zeros(n, 1), **done}
    replay.extend(TensorDict({**td, "task": replay.slot_task, "next": after}, [n]))
    tensors = list(replay.buffer.storage._storage.values())
    tensors += [x for part in (replay.sampler, replay.writer) for x in vars(part).values() if isinstance(x, Tensor)]
    allocated = sum(x.untyped_storage().nbytes() for x in tensors)
    expected = replay_bytes(num_tasks=3, num_slots=n, obs_dim=51, action_dim=19, capacity=999)
    assert expected == pytest.approx(allocated, rel=0.05)


@pytest.mark.parametrize("steps", [17, 100])  # before and after the smaller ring has gone round
def test_a_larger_capacity_keeps_rows_and_priorities(tmp_path: Path, steps: int):
    small, large = make_replay(2, 2, capacity=60, batch_size=7), make_replay(2, 2, capacity=90, batch_size=7, seed=9)
    stream = fill(small, steps, lambda slot, episode, step: "tu"[episode % 2] if step == 5 + slot else "")
    play(small, stream, 5)
    small.save(tmp_path)
    large.load(tmp_path)
    assert priorities(large) == priorities(small) and len(large) == len(small)
    assert large.num_transitions.tolist() == small.num_transitions.tolist()
    twin = Stream(stream.slot_task, stream.ends)
    twin.at = list(stream.at)
    for here, there in zip(*(in_time(replay) for replay in (large, small)), strict=True):
        assert torch.equal(here, there)
    check_windows(large)
    before, length = len(small), small.writer.length
    for _ in range(length):
        large.extend(twin.step())
        check_windows(large)
    assert len(large) > before  # room for more, without loss
    large.save(tmp_path / "again")
    twice = make_replay(2, 2, capacity=90, batch_size=7)
    twice.load(tmp_path / "again")
    assert priorities(twice) == priorities(large)
    for here, there in zip(*(in_time(replay) for replay in (twice, large)), strict=True):
        assert torch.equal(here, there)
    saved = SavedReplay([tmp_path / "again"])
    for task in range(2):
        for segment in saved.segments_of(task):
            slot, episode, step = segment.rows(["obs"], [])["obs"][:, :3].long().unbind(1)
            assert slot.unique().numel() == episode.unique().numel() == 1 and (step.diff() == 1).all()
        assert sum(map(len, saved.segments_of(task))) >= 2 * length  # of two slots, and none of them empty


def test_a_smaller_capacity_is_refused(tmp_path: Path):
    make_replay(2, capacity=50).save(tmp_path)
    with pytest.raises(ValueError, match="capacity is 50 there, 40 here"):
        make_replay(2, capacity=40).load(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda td: td.exclude("action"), "action is missing"),
        (lambda td: td.exclude(("next", "terminated")), "terminated is missing"),
        (lambda td: td.exclude("next"), "reward is missing"),
        (lambda td: td.set("obs", torch.zeros(2, 9)), r"obs is \[2, 9\] torch.float32: replay stores \[2, 4\]"),
        (lambda td: td.set("obs", td["obs"].double()), "obs is .* torch.float64"),
        (lambda td: td.set(("next", "reward"), torch.zeros(2)), r"reward is \[2\] torch.float32"),
        (lambda td: td.set("task", torch.tensor([1, 0])), r"task is \[1, 0\], but the slots hold \[0, 1\]"),
        (lambda td: td.set(("next", "done"), torch.ones(2, 1, dtype=torch.bool)), "neither terminated nor truncated"),
        (lambda td: td.unsqueeze(1), r"batch_size \[2, 1\]"),
    ],
)
def test_a_step_that_does_not_fit_is_refused(change, message):
    replay = make_replay(2)
    stream = fill(replay, 4)
    with pytest.raises(ValueError, match=message):
        replay.extend(change(stream.step()))
    assert len(replay) == 8


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 1}, r"batch_size=1: must be at least 2 \(one window per task\)"),
        ({"batch_size": 0, "ier": False}, "batch_size=0: must be at least 1"),
        ({"capacity": 4}, r"capacity=4: must be at least 5 \(one window of unroll_steps=\d and td_steps=\d per slot\)"),
        ({"envs_per_task": 3, "capacity": 14}, "capacity=14: must be at least 15"),
        ({"window": 1}, "window=1: must be at least 2"),
        ({"unroll_steps": 0}, "unroll_steps=0"),
        ({"td_steps": 0}, "td_steps=0"),
        ({"priority_exponent": -1.0}, "priority_exponent=-1.0: must be at least 0"),
    ],
)
def test_sizes_that_cannot_work_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        make_replay(**changes)


@pytest.mark.parametrize("slot_task", [[], [0, 0, 1], [0, 1, 0, 1], [1, 1, 2, 2]])
def test_slots_are_grouped_by_task(slot_task):
    with pytest.raises(ValueError, match="slot_task"):
        Replay(slot_task=slot_task, capacity=40, batch_size=8, **SIZES)


def test_drawing_too_early_names_the_task():
    replay = make_replay(2)
    with pytest.raises(ValueError, match="task 0 has nothing to draw: 0 transitions"):
        replay.sample()
    fill(replay, 1, lambda slot, episode, step: "t" if slot == 0 else "")
    with pytest.raises(ValueError, match="task 1 has nothing to draw: 1 transitions"):
        replay.sample()
