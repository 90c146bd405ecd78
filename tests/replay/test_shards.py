"""Another number of processes takes the replay over: every transition with its episode, priority and age."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ezm_lightning.replay import Replay

from .counting import Stream, fill, make_replay, random_ends

STEPS = 60


def numbered(replay: Replay, shard: int, steps: int) -> None:
    """Fills a shard whose slots carry numbers of their own: 10 · shard + slot."""
    stream = Stream(replay.slot_task, random_ends(shard, 12))
    for _ in range(steps):
        td = stream.step()
        for obs in (td["obs"], td["next", "obs"]):
            obs[:, 0] += 10 * shard
        replay.extend(td)


def held(replays: list[Replay]) -> dict[tuple[int, ...], dict[str, float]]:
    """Every stored row, by (slot, episode, step) as it was collected."""
    found = {}
    for replay in replays:
        replay.sampler.settle()
        rows, filled = replay.buffer.storage[:], replay.writer.filled()
        for at in filled.tolist():
            row = rows[at]
            key = tuple(int(x) for x in row["obs"][:3])
            assert key not in found
            found[key] = {
                "task": int(row["task"]),
                "reward": float(row["reward"]),
                "closing": bool(row["closing"]),
                "mass": float(replay.sampler.mass[at]),
                "age": float(replay.num_transitions[row["task"]] - 1 - row["env_step"]) * len(replays),
            }
    return found


def shards(count: int, folder: Path, **changes) -> tuple[list[Replay], list[Path]]:
    replays, folders = [], []
    for shard in range(count):
        replay = make_replay(2, 2, batch_size=16, capacity=400, **changes)
        numbered(replay, shard, STEPS)
        for _ in range(20):
            batch = replay.sample()
            replay.update_priority(batch.index, torch.rand(len(batch), dtype=torch.float64) + 0.1)
        replay.save(folder / f"rank{shard}")
        replays.append(replay)
        folders.append(folder / f"rank{shard}")
    return replays, folders


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1), (2, 3), (3, 2)])
def test_nothing_is_lost(tmp_path: Path, before: int, after: int) -> None:
    old, folders = shards(before, tmp_path)
    new = [make_replay(2, 2, batch_size=16, capacity=1200, seed=5) for _ in range(after)]
    for rank, replay in enumerate(new):
        replay.adopt(folders, rank=rank, world_size=after)
    there, here = held(old), held(new)
    added = set(here) - set(there)
    assert set(there) <= set(here)
    assert len(added) <= 4 * before  # the final observations of episodes that were running
    for key, row in there.items():
        assert (here[key]["task"], here[key]["reward"], here[key]["closing"]) == (
            row["task"],
            row["reward"],
            row["closing"],
        )
        assert abs(here[key]["age"] - row["age"]) <= before + after
        if row["mass"] > 0:
            assert here[key]["mass"] == pytest.approx(row["mass"])
    sizes = [len(replay) for replay in new]
    assert max(sizes) - min(sizes) <= 2 * 12 * 4  # dealt out evenly, but for an episode a slot
    collected = [sum(int(replay.num_transitions.sum()) for replay in each) for each in (old, new)]
    assert collected[0] - after * 2 < collected[1] <= collected[0]


def test_windows_stay_inside_an_episode_and_the_run_goes_on(tmp_path: Path) -> None:
    _, folders = shards(2, tmp_path)
    replay = make_replay(2, 2, batch_size=64, capacity=1200)
    replay.adopt(folders, rank=0, world_size=1)
    fill(replay, 30, random_ends(7, 12))
    for _ in range(30):
        batch = replay.sample()
        for obs, valid in zip(batch.obs, batch.valid, strict=True):
            rows = obs[valid]
            assert (rows[:, :2] == rows[0, :2]).all()
            assert (rows[1:, 2] - rows[:-1, 2] == 1).all()
        assert (batch.age >= 0).all()
    replay.save(tmp_path / "again")
    twin = make_replay(2, 2, batch_size=64, capacity=1200)
    twin.load(tmp_path / "again")
    assert len(twin) == len(replay)


def test_a_slot_without_room_keeps_the_newest(tmp_path: Path) -> None:
    _, folders = shards(3, tmp_path)
    replay = make_replay(2, 2, batch_size=16, capacity=100)
    replay.adopt(folders, rank=0, world_size=1)
    ages = [row["age"] for row in held([replay]).values()]
    assert len(replay) <= 200 and max(ages) < 3 * STEPS * 2
    assert sum(ages) / len(ages) < 3 * STEPS
