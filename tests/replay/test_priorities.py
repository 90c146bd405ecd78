"""Shares, priorities and importance weights of the draws."""

from __future__ import annotations

import math

import pytest
import torch

from ezm_lightning.replay.priorities import Priorities, flat_rows

from .counting import (
    fill,
    make_replay,
    priorities,
    starts,
)


def test_tasks_share_every_batch_equally_and_the_remainder_goes_round():
    replay = make_replay(4, 2, batch_size=10)
    fill(replay, 20)
    counts = torch.stack([replay.sample().task.bincount(minlength=4) for _ in range(6)])
    assert counts.sum(1).tolist() == [10] * 6
    assert counts[:2].tolist() == [[3, 3, 2, 2], [2, 2, 3, 3]]
    assert counts.sum(0).tolist() == [15] * 4


def test_draws_are_proportional_to_priority():
    exponent, rows = 0.7, 30
    replay = make_replay(2, batch_size=2000, priority_exponent=exponent)
    fill(replay, rows + 1)
    slot, step = torch.arange(2).repeat_interleave(rows), torch.arange(rows).repeat(2)
    priority = torch.rand(2 * rows, generator=torch.Generator().manual_seed(1)) * 5
    priority[step % 7 == 0] = 0.0  # the first among them
    replay.update_priority(step * 2 + slot, priority)
    counts = torch.zeros(2, rows)
    for _ in range(50):
        batch = replay.sample()
        counts.index_put_((batch.task, batch.obs[:, 0, 2].long()), torch.ones(2000), accumulate=True)
    mass = torch.where(priority > 0, priority**exponent, 0.0).view(2, rows)
    expected = 50_000 * mass / mass.sum(1, keepdim=True)
    assert (counts[expected == 0] == 0).all()
    positive = expected > 0
    chi_square = ((counts - expected) ** 2 / expected)[positive].sum().item()
    freedom = int(positive.sum()) - 2
    assert abs(chi_square - freedom) < 4 * math.sqrt(2 * freedom)


def test_no_priority_is_never_drawn_among_a_million_rows():
    replay = make_replay(1, capacity=1_000_000, batch_size=5000)
    sampler, total = replay.sampler, 1_000_000
    sampler._rng = torch.Generator().manual_seed(0)
    generator = torch.Generator().manual_seed(2)
    sampler.mass.copy_(torch.rand(total, generator=generator, dtype=torch.float64) * 10.0 ** -(torch.arange(total) % 9))
    sampler.mass[torch.rand(total, generator=generator) < 0.5] = 0.0
    sampler.mass[:1000] = 0.0
    sampler.mass[-1000:] = 0.0
    sampler.priorities.recount_()
    for _ in range(10):
        row, _ = sampler._draw(sampler.equal_counts(5000))
        assert (sampler.mass[row] > 0).all()


@pytest.mark.parametrize("uniform", [0.0, 0.5, 1 - 2.0**-53])
def test_the_ends_of_the_uniform_numbers_hit_rows_with_priority(monkeypatch, uniform: float):
    replay = make_replay(2, capacity=10, batch_size=4)
    sampler = replay.sampler
    monkeypatch.setattr(torch, "rand", lambda *size, generator, dtype: torch.full(size, uniform, dtype=dtype))
    for masses in ([5e-324], [1e-300], [0.1, 0.2, 0.3], [1e-9, 1e9, 1e-9]):
        for edge in (0, 4, 10 - len(masses)):
            sampler.mass.zero_()
            for task in (0, 10):
                sampler.mass[task + edge : task + edge + len(masses)] = torch.tensor(masses, dtype=torch.float64)
            sampler.priorities.recount_()
            row, _ = sampler._draw(sampler.equal_counts(4))
            assert (sampler.mass[row] > 0).all()
            assert (row // 10).tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize("width", [1, 127, 128, 129, 1000])
def test_blocks_draw_what_one_running_sum_draws(width: int):
    generator = torch.Generator().manual_seed(width)
    priorities = Priorities(num_groups=3, width=width)
    for _ in range(5):
        row = torch.randint(3 * width, (50,), generator=generator).unique()
        priorities.write_(row, torch.randint(5, (len(row),), generator=generator).double())
        priorities.write_(torch.tensor([0, width, 2 * width]), torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64))
        mass, uniform = priorities.mass.view(3, width), torch.rand(3, 400, generator=generator, dtype=torch.float64)
        assert torch.equal(priorities.draw(uniform), flat_rows(mass, uniform))
        assert torch.equal(priorities.largest(), mass.amax(1))
        assert torch.equal(priorities.totals()[:, 0], mass.sum(1))


def test_importance_weights_by_hand():
    replay = make_replay(2, batch_size=4000, weight_exponent=0.5, priority_exponent=1.0)
    fill(replay, 4)
    #                           task 0         task 1         ids are counter * num_slots + slot
    replay.update_priority(torch.tensor([0, 2, 4, 1, 3, 5]), torch.tensor([1.0, 4.0, 150.0, 9.0, 9.0, 16.0]))
    batch = replay.sample()
    weight = dict(zip(starts(batch), batch.weight.tolist(), strict=True))
    # (N P)^-1/2 over the largest of the task in the batch: sqrt(p_min / p), at least 0.1
    assert weight == {
        (0, 0, 0): 1.0,
        (0, 0, 1): 0.5,
        (0, 0, 2): pytest.approx(0.1),
        (1, 0, 0): 1.0,
        (1, 0, 1): 1.0,
        (1, 0, 2): 0.75,
    }
    assert batch.weight.dtype == torch.float32


def test_the_largest_weight_of_a_task_is_one_in_every_batch():
    replay = make_replay(2, batch_size=3)  # one task draws two windows, the other one
    fill(replay, 30)
    replay.update_priority(torch.arange(58), torch.rand(58, generator=torch.Generator().manual_seed(0)) + 0.5)
    for _ in range(20):
        batch = replay.sample()
        assert [batch.weight[batch.task == task].max().item() for task in range(2)] == [1.0, 1.0]


def test_exponent_zero_draws_evenly_but_nothing_without_priority():
    replay = make_replay(1, batch_size=500, priority_exponent=0.0)
    fill(replay, 4)
    replay.update_priority(torch.arange(3), torch.tensor([0.0, 1.0, 100.0]))
    assert priorities(replay) == {(0, 0, 1): 1.0, (0, 0, 2): 1.0}


def test_new_rows_get_the_largest_priority_their_task_has_now():
    replay = make_replay(2)
    stream = fill(replay, 3)
    assert set(priorities(replay).values()) == {1.0}
    replay.update_priority(torch.tensor([0, 1]), torch.tensor([7.0, 0.25]))
    replay.update_priority(torch.tensor([0]), torch.tensor([3.0]))
    replay.update_priority(torch.tensor([3]), torch.tensor([0.5]))
    replay.extend(stream.step())
    now = priorities(replay)
    assert now[0, 0, 2] == 3.0  # not 7, the record
    assert now[1, 0, 2] == 0.5
    replay.update_priority(torch.tensor([1, 3, 5]), torch.zeros(3))
    replay.extend(stream.step())
    assert priorities(replay)[1, 0, 3] == 1.0  # a task without any priority starts again


def test_priorities_of_overwritten_rows_are_ignored():
    replay = make_replay(1, capacity=10)
    stream = fill(replay, 11)
    batch = replay.sample()
    for _ in range(6):
        replay.extend(stream.step())
    before = priorities(replay)
    replay.update_priority(batch.index, torch.full((64,), 5.0))
    after = priorities(replay)
    drawn = set(starts(batch))
    assert any(start not in after for start in drawn)
    assert after == {start: 5.0 if start in drawn else before[start] for start in before}
    replay.update_priority(torch.tensor([16, 17, 10**9]), torch.full((3,), 9.0))  # the newest row, and none
    assert priorities(replay) == after


@pytest.mark.parametrize("bad", [-1.0, math.nan, math.inf])
def test_priorities_are_finite_and_not_negative(bad):
    replay = make_replay(1)
    fill(replay, 5)
    before = priorities(replay)
    with pytest.raises(ValueError, match=r"priority (-1.0|nan|inf) is not a finite number"):
        replay.update_priority(torch.tensor([0, 1]), torch.tensor([1.0, bad]))
    with pytest.raises(ValueError, match="give one for each"):
        replay.update_priority(torch.tensor([0, 1]), torch.tensor([1.0]))
    assert priorities(replay) == before


def test_only_the_newest_transitions_of_a_task_are_drawn():
    replay = make_replay(2, 2, capacity=200, window=13, batch_size=500)
    fill(replay, 50, lambda slot, episode, step: "u" if step == 4 + slot else "")
    ages = replay.sample().age
    assert ages.max() == 12
    assert len(replay) == 26


def test_without_ier_all_tasks_are_one_buffer():
    replay = make_replay(3, batch_size=3000, ier=False)
    fill(replay, 11)
    slot, step = torch.arange(3).repeat_interleave(10), torch.arange(10).repeat(3)
    replay.update_priority(step * 3 + slot, torch.tensor([1.0, 2.0, 3.0])[slot])
    batch = replay.sample()
    share = batch.task.bincount(minlength=3) / 3000
    assert torch.allclose(share, torch.tensor([1.0, 2.0, 3.0]) / 6, atol=0.03)
    assert torch.allclose(batch.weight, 1 / (batch.task + 1.0))
    assert len(make_replay(3, batch_size=2, ier=False).slot_task) == 3  # fewer windows than tasks is fine
