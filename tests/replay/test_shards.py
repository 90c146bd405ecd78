"""Another number of processes takes the replay over: every transition with its episode, priority and age."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ezm_lightning.replay import Replay
from ezm_lightning.replay.shards import read_shard, segments

from .counting import Stream, fill, make_replay, priorities, random_ends

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
    old, folders = shards(before, tmp_path, priority_exponent=0.6)
    new = [make_replay(2, 2, batch_size=16, capacity=1200, seed=5, priority_exponent=0.6) for _ in range(after)]
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


def test_an_extra_that_was_not_saved_is_unknown(tmp_path: Path) -> None:
    _, folders = shards(1, tmp_path)
    replay = make_replay(2, 2, batch_size=16, capacity=1200, extras=["search_value", "doubt"])
    replay.adopt(folders, rank=0, world_size=1)
    value, doubt = replay.stored("search_value", "doubt")
    assert doubt.isnan().all() and not value.isnan().all()


def test_the_end_of_a_running_episode_has_the_number_of_the_next_transition(tmp_path: Path) -> None:
    (replay,), folders = shards(1, tmp_path)
    running = [segment for segment in segments([read_shard(folder) for folder in folders]) if segment.place[-1] == -1]
    assert running
    for segment in running:
        rows = segment.rows(replay.schema, replay.extras)
        assert rows["env_step"][-1] == replay.num_transitions[segment.task] > rows["env_step"][-2]


def test_a_final_observation_alone_is_not_taken_over(tmp_path: Path) -> None:
    """A ring of 7 rows with episodes of 4, after 8 transitions: the oldest row is the end of a lost episode."""
    old, new = make_replay(1, capacity=7, batch_size=8), make_replay(1, capacity=12, batch_size=8)
    fill(old, 8, lambda slot, episode, step: "u" if step == 2 else "")
    old.save(tmp_path)
    new.adopt([tmp_path], rank=0, world_size=1)
    assert old.stored("closing")[0].sum() == 2 and new.stored("closing")[0].sum() == 2  # one of them of the running
    assert len(old) == len(new) == len(priorities(new)) == 5


@pytest.mark.parametrize("ier", [True, False])
def test_rows_without_a_priority_get_the_largest_of_their_group(tmp_path: Path, ier: bool) -> None:
    old, new = (make_replay(2, 2, capacity=120, batch_size=8, ier=ier) for _ in range(2))
    stream = fill(old, 30, lambda slot, episode, step: "u" if step == 9 else "")
    index = torch.arange(40 * 4)
    old.sample()
    old.update_priority(index, 0.001 + 0.002 * (index % 4 > 1).double())  # of slots 0 and 1, and of 2 and 3
    for _ in range(4):
        old.extend(stream.step())
    old.save(tmp_path)
    new.adopt([tmp_path], rank=0, world_size=1)
    found = priorities(new)
    assert len(found) == 34 * 4
    for (slot, episode, step), mass in found.items():
        known = episode < 3
        assert mass == pytest.approx(0.003 if slot > 1 or not (known or ier) else 0.001), (slot, episode, step)


def test_a_slot_without_room_keeps_the_newest(tmp_path: Path) -> None:
    _, folders = shards(3, tmp_path)
    replay = make_replay(2, 2, batch_size=16, capacity=100)
    replay.adopt(folders, rank=0, world_size=1)
    ages = [row["age"] for row in held([replay]).values()]
    assert len(replay) <= 200 and max(ages) < 3 * STEPS * 2
    assert sum(ages) / len(ages) < 3 * STEPS
