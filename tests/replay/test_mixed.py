"""Batches with a share of demonstrations: counted per task, told apart by their ids, the same bits after a reload."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from ezm_lightning.replay.demonstrations import Demonstrations, digest
from ezm_lightning.replay.episodes import replay_of
from ezm_lightning.replay.minari_format import Episode
from ezm_lightning.replay.mixed import OLD, MixedReplay
from tests.replay.counting import ACTION_DIM, OBS_DIM, SIZES, Stream, endless, fill, make_replay

NAMES = ["a/zero", "a/one", "a/two", "a/three"]


def demonstration(number: int, length: int = 12, obs_dim: int = OBS_DIM) -> Episode:
    """An episode whose observation is (−1, number, step, 1 …): slots of what is collected are not negative."""
    obs = np.ones((length + 1, obs_dim), np.float32)
    obs[:, 0], obs[:, 1], obs[:, 2] = -1, number, np.arange(length + 1)
    return Episode(
        obs=obs,
        action=np.full((length, ACTION_DIM), 0.5, np.float32),
        reward=np.arange(length, dtype=np.float32),
        terminated=np.zeros(length, bool),
        truncated=np.arange(length) == length - 1,
    )


def mixed(batch_size: int = 64, share: float = 0.5, tasks: tuple[int, ...] = (0, 1, 3), **changes) -> MixedReplay:
    """Four tasks with 30 collected steps each; task 2 has no demonstration."""
    online = make_replay(4, batch_size=batch_size, **changes)
    fill(online, 30, lambda slot, episode, step: "u" if step == 9 else "")
    shown = Demonstrations({NAMES[task]: [demonstration(10 * task + i) for i in range(3)] for task in tasks})
    ier = {key: changes[key] for key in ("ier",) if key in changes}
    return shown.beside(online, NAMES, share=share, extras=["search_value"], seed=500, **SIZES, **ier)


def counts(batch) -> tuple[list[int], list[int]]:
    """Windows of each task: collected, demonstrated."""
    return tuple(torch.bincount(batch.task[mine], minlength=4).tolist() for mine in (~batch.demo, batch.demo))


def test_each_task_with_demonstrations_gives_its_share() -> None:
    """Test 7 of the specification."""
    for _ in range(3):
        assert counts(mixed().sample()) == ([8, 8, 16, 8], [8, 8, 0, 8])


def test_what_is_no_whole_window_goes_over_to_later_batches() -> None:
    replay = mixed(batch_size=66)
    batches = [counts(replay.sample()) for _ in range(8)]
    collected, shown = (np.array([batch[part] for batch in batches]).sum(0) for part in (0, 1))
    assert (collected + shown).tolist() == [132] * 4  # of 66 windows each task gets 16 or 17
    assert shown.tolist() == [66, 66, 0, 66]
    thirds = mixed(batch_size=4, share=0.3)
    assert sum(counts(thirds.sample())[1][0] for _ in range(100)) == 30


def test_windows_say_where_they_are_from() -> None:
    batch = mixed().sample()
    assert torch.equal(batch.obs[:, 0, 0] < 0, batch.demo)
    assert (batch.age[batch.demo] == OLD).all() and (batch.age[~batch.demo] < 30).all()
    assert torch.equal(batch.index % 2 == 1, batch.demo)
    own = batch[batch.demo]
    assert torch.equal((own.obs[:, 0, 1] / 10).floor().long(), own.task)  # the number of an episode says its task
    steps = own.obs[:, :, 2]
    assert (steps.diff(dim=1)[own.valid[:, 1:]] == 1).all() and own.valid[:, 1].all()
    assert own.extras["search_value"].isnan().all()
    assert ((own.reward == steps) | (steps == 12)).all()


def test_priorities_go_to_the_right_part() -> None:
    """Ids 2i and 2i + 1 are of different windows."""
    replay = mixed()
    replay.sample()
    before = [part.sampler.mass.clone() for part in (replay.online, replay.demos)]
    replay.update_priority(torch.tensor([2 * 8]), torch.tensor([7.0]))
    assert (replay.online.sampler.mass != before[0]).sum() == 1 and torch.equal(replay.demos.sampler.mass, before[1])
    replay.update_priority(torch.tensor([2 * 5 + 1]), torch.tensor([9.0]))
    assert (replay.demos.sampler.mass != before[1]).sum() == 1 and replay.demos.sampler.mass.max() == 9
    assert replay.online.sampler.mass.max() == 7


def test_a_share_of_one_draws_nothing_else_where_there_is_a_demonstration() -> None:
    assert counts(mixed(share=1.0).sample()) == ([0, 0, 16, 0], [16, 16, 0, 16])
    assert counts(mixed(share=0.0).sample()) == ([16] * 4, [0] * 4)
    every = mixed(share=1.0, tasks=(0, 1, 2, 3))
    generator = every.online.generator.get_state()
    assert every.sample().demo.all() and torch.equal(every.online.generator.get_state(), generator)


def test_one_pooled_buffer_is_mixed_too() -> None:
    batch = mixed(ier=False).sample()
    assert batch.demo.sum() == 32 and set(batch.task[batch.demo].tolist()) <= {0, 1, 3}


def test_what_is_collected_beside_it_is_drawn_as_ever() -> None:
    """With a share of 0 the batches are those of the replay alone, to the bit."""
    alone = make_replay(4)
    fill(alone, 30, lambda slot, episode, step: "u" if step == 9 else "")
    one, other = alone.sample(), mixed(share=0.0).sample()
    assert torch.equal(one.obs, other.obs) and torch.equal(2 * one.index, other.index)
    assert torch.equal(one.weight, other.weight)


def test_saved_and_loaded_it_draws_the_same(tmp_path) -> None:
    replay = mixed(batch_size=66)
    for _ in range(3):
        batch = replay.sample()
        replay.update_priority(batch.index, batch.reward[:, 0].abs() + 0.1)
    replay.save(tmp_path / "replay")
    again = mixed(batch_size=66)
    again.load(tmp_path / "replay")
    for _ in range(3):
        one, other = replay.sample(), again.sample()
        for key in ("obs", "index", "weight", "demo", "age"):
            assert torch.equal(getattr(one, key), getattr(other, key)), key


def test_what_was_collected_is_read_without_the_demonstrations(tmp_path) -> None:
    """By a replay alone, as ezm dataset export and other numbers of processes do; and the other way round."""
    replay = mixed()
    replay.save(tmp_path / "mixed")
    alone = make_replay(4)
    alone.load(tmp_path / "mixed")
    assert len(alone) == len(replay.online) == 120
    alone.adopt([tmp_path / "mixed"], rank=0, world_size=1)
    alone.save(tmp_path / "alone")
    replay.load(tmp_path / "alone")
    assert counts(replay.sample()) == ([8, 8, 16, 8], [8, 8, 0, 8])


def test_other_demonstrations_than_before_are_refused(tmp_path) -> None:
    mixed().save(tmp_path / "replay")
    with pytest.raises(ValueError, match=r"demos.paths: these demonstrations \(\w{12}\) are not those") as error:
        mixed(tasks=(0, 1)).load(tmp_path / "replay")
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=r"demos.paths: these demonstrations \(\w{12}\) are not those"):
        mixed(tasks=(0, 1)).adopt([tmp_path / "replay"], rank=0, world_size=1)
    mixed().adopt([tmp_path / "replay"], rank=0, world_size=1)


def test_their_memory_is_planned_as_it_is_taken() -> None:
    """Every slot has room for the longest one, so that one task with many episodes costs each of the others."""
    shown = Demonstrations({NAMES[0]: [demonstration(i) for i in range(130)], NAMES[1]: [demonstration(0, length=40)]})
    rows = replay_of(list(shown.episodes.values()), **SIZES)
    planned = shown.nbytes(obs_dim=OBS_DIM, action_dim=ACTION_DIM)
    stored = sum(x.nbytes for x in rows.buffer.storage._storage.values(True, True))
    assert stored <= planned <= 1.5 * stored


def test_the_digest_sees_every_transition() -> None:
    one = demonstration(1)
    for changed in (
        dataclasses.replace(one, obs=one.obs + 1),
        dataclasses.replace(one, action=one.action / 2),
        dataclasses.replace(one, reward=one.reward + 1),
        dataclasses.replace(one, terminated=one.truncated, truncated=one.terminated),
    ):
        assert digest([changed]) != digest([one])
    assert digest([demonstration(1)]) == digest([one])


def test_observations_are_balanced_between_the_two() -> None:
    """As many of a task's demonstrations as were collected, evenly spread; fewer where there are fewer."""
    obs, task = mixed(capacity=100).observations()
    shown = obs[:, 0] < 0
    assert torch.bincount(task[~shown]).tolist() == [33] * 4  # 30 transitions and 3 final observations
    assert torch.bincount(task[shown], minlength=4).tolist() == [33, 33, 0, 33]
    assert set(obs[shown & (task == 1)][:, 1].tolist()) == {10.0, 11.0, 12.0}
    online = make_replay(4, capacity=100)
    Stream(online.slot_task, endless)
    fill(online, 60)
    few = Demonstrations({NAMES[0]: [demonstration(0)]}).beside(online, NAMES, share=0.5, extras=[], **SIZES)
    assert (few.observations()[0][:, 0] < 0).sum() == 13
