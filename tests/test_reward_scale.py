"""The reward scale of a task: by hand, by loops, and that the learner sees the same problem in any unit."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tensordict import TensorDict

from ezm_lightning.reward_scale import COST_MARGIN, REWARD_MARGIN, TaskRewardScale, fitting_scale, scaled_limits
from tests.test_module import make_module  # noqa: F401  (a fixture)

SUPPORTS = {"reward_range": [-2, 2], "value_range": [-200, 200]}
PENDULUM = 16.2736044


def make(scale, ranges=None, **changes) -> TaskRewardScale:
    names = [f"task/{index}" for index in range(len(scale))]
    arguments = {"scale": scale, "step_ranges": ranges or [None] * len(scale), "action_repeat": 2, **SUPPORTS}
    return TaskRewardScale(names, **{**arguments, **changes})


def step(task: list[int], reward: list[float]) -> TensorDict:
    """A vector step of as many slots."""
    n = len(task)
    return TensorDict({"task": torch.tensor(task), "next": {"reward": torch.tensor(reward)[:, None]}}, [n])


@pytest.mark.parametrize(
    ("bounds", "limits", "expected"),
    [
        ((-2 * PENDULUM, 0.0), (-2.0, 2.0), 1 / PENDULUM),
        ((0.0, 2.0), (-2.0, 2.0), 1.0),
        ((-0.2, 200.0), (-2.0, 2.0), 0.01),
        ((-4.0, 1.0), (-1.0, 2.0), 0.25),
        ((-4.0, 1.0), (0.0, 2.0), 2.0),  # a support that has no negative side cannot be met on it
        ((0.0, 0.0), (-2.0, 2.0), 1.0),
    ],
)
def test_the_scale_that_fits_by_hand(bounds, limits, expected):
    assert fitting_scale(bounds, limits) == pytest.approx(expected)


@given(st.floats(-1e4, -1e-4), st.floats(1e-4, 1e4), st.floats(-500, -0.1), st.floats(0.1, 500))
def test_scaled_bounds_lie_in_the_limits_and_reach_one(low, high, least, most):
    s = fitting_scale((low, high), (least, most))
    assert s * low >= least * (1 + 1e-9) and s * high <= most * (1 + 1e-9)
    assert math.isclose(s * low, least) or math.isclose(s * high, most)


@pytest.mark.parametrize(
    ("repeat", "discount", "supports", "expected"),
    [
        (2, 0.99, {}, (-2.0, 2.0)),
        (1, 0.99, {}, (-1.0, 1.0)),  # at most 1 a simulator step
        (4, 0.99, {}, (-2.0, 2.0)),  # the reward's support holds no more
        (2, 0.995, {}, (-1.0, 1.0)),  # nor the value's: 1 / (1 − 0.995) = 200
        (2, 1.0, {}, (-2.0, 2.0)),
        (1, 0.99, {"reward_range": [-1, 402], "value_range": [-10, 1100]}, (-0.1, 1.0)),
    ],
)
def test_the_limits_by_hand(repeat, discount, supports, expected):
    assert scaled_limits(repeat, discount, **{**SUPPORTS, **supports}) == pytest.approx(expected)


def test_a_given_scale_comes_before_a_known_range_and_that_before_the_warm_up():
    scale = make([0.5, None, None], [(0, 10), (-PENDULUM, 0), None])
    scale.watch_(step([0, 1, 2, 2], [9.0, -9.0, -4.0, 5.0]))
    scale.fix_()
    found = min(2 / (REWARD_MARGIN * 5), 2 / (COST_MARGIN * 4))
    assert scale.scale.tolist() == pytest.approx([0.5, 1 / PENDULUM, found])
    assert [row["source"] for row in scale.rows()] == ["given", "known range", "warm-up"]
    assert (scale.rows()[2]["lowest"], scale.rows()[2]["highest"]) == (-4, 5)


@pytest.mark.parametrize(
    ("rewards", "expected"),
    [([4.6, -4.3], 2 / (5 * 4.6)), ([-30.0, -0.1], 2 / (3 * 30.0)), ([0.0, 0.0], 1.0), ([1e-3, 0.0], 400.0)],
)
def test_the_found_scale_by_hand(rewards, expected):
    scale = make([None])
    for reward in rewards:
        scale.watch_(step([0], [reward]))
    scale.fix_()
    assert scale.scale.item() == pytest.approx(expected)


def test_what_is_seen_is_what_loops_see():
    generator = torch.Generator().manual_seed(0)
    scale, lows, highs = make([None] * 3), [0.0] * 3, [0.0] * 3
    for _ in range(20):
        task, reward = torch.randint(3, (5,), generator=generator), torch.randn(5, generator=generator)
        scale.watch_(step(task.tolist(), reward.tolist()))
        for t, r in zip(task.tolist(), reward.tolist(), strict=True):
            lows[t], highs[t] = min(lows[t], r), max(highs[t], r)
    assert scale.seen.tolist() == [pytest.approx(pair) for pair in zip(lows, highs, strict=True)]


def test_a_batch_is_scaled_as_loops_do_it(make_batch):
    batch, s = make_batch(), [0.5, 3.0, 1.0]
    raw = batch.reward.clone()
    scaled = make(s)(batch)
    for row in range(len(batch)):
        for j in range(batch.reward.shape[1]):
            assert scaled.reward[row, j] == raw[row, j] * s[int(batch.task[row])]
    assert torch.equal(batch.reward, raw)  # what replay handed out stays
    assert torch.equal(scaled.obs, batch.obs) and torch.equal(scaled.index, batch.index)


def test_scales_of_1_leave_no_trace(make_batch):
    batch, scale = make_batch(), make([1.0, 1.0, 1.0])
    assert scale(batch) is batch and not scale.state_dict()


def test_a_scale_that_is_to_be_found_is_not_used(make_batch):
    with pytest.raises(ValueError, match="still to be found"):
        make([1.0, None, 1.0])(make_batch())


def test_after_the_warm_up_nothing_moves_it():
    scale = make([None])
    scale.watch_(step([0], [1.0]))
    scale.fix_()
    before = scale.scale.clone()
    scale.watch_(step([0], [100.0]))
    scale.fix_()
    assert torch.equal(scale.scale, before) and scale.seen.tolist() == [[0, 1]]


def test_two_ranks_agree():
    ranks = [make([None, 2.0]), make([None, 2.0])]
    ranks[0].watch_(step([0], [3.0]))
    ranks[1].watch_(step([0], [-7.0]))
    everywhere = torch.stack([rank.seen * torch.tensor([-1.0, 1.0]) for rank in ranks])
    for rank in ranks:
        rank.fix_(lambda x: everywhere)
        assert rank.seen[0].tolist() == [-7, 3]
        assert rank.scale.tolist() == pytest.approx([min(2 / (COST_MARGIN * 7), 2 / (REWARD_MARGIN * 3)), 2.0])


def test_a_checkpoint_keeps_what_was_found():
    scale, later = make([None]), make([None])
    scale.watch_(step([0], [5.0]))
    scale.fix_()
    later.load_state_dict(scale.state_dict())
    later.fix_()
    assert torch.equal(later.scale, scale.scale) and later.rows() == scale.rows()


def test_another_scale_than_the_checkpoints_is_refused():
    before = make([0.25, 1.0])
    with pytest.raises(ValueError, match=r"tasks.reward_scale of task/0 is 0.5, the checkpoint's is 0.25"):
        make([0.5, 1.0]).load_state_dict(before.state_dict())


@pytest.mark.parametrize(("now", "said"), [(0.5, "0.5"), (None, "to be measured")])
def test_another_scale_than_that_of_a_checkpoint_without_any_is_refused(now, said):
    with pytest.raises(ValueError, match=rf"task/1 is {said}, the checkpoint's is 1: write .tasks.reward_scale="):
        make([1.0, now]).check_saved(None)
    make([1.0, 1.0]).check_saved(None)


@pytest.mark.parametrize("wrong", [0.0, -1.0, math.inf, math.nan])
def test_a_scale_that_is_not_positive_is_refused(wrong):
    with pytest.raises(ValueError, match=r"tasks.reward_scale of task/1=.* must be a number above 0"):
        make([1.0, wrong])


def test_a_task_in_another_unit_is_the_same_to_the_learner(make_module, make_batch):  # noqa: F811
    """Rewards ten thousand times as large with a scale as much smaller: the same losses, gradients and priorities."""
    unit = torch.tensor([1.0, 1e4, 0.25])
    steps = []
    for factor in (torch.ones(3), unit):
        batch = make_batch()
        batch.reward = batch.reward * factor[batch.task][:, None]
        module = make_module(reward_scale=make((1 / factor).tolist()))
        out = module.training_step(batch, 0)
        out["loss"].backward()
        steps.append((out, [p.grad for p in module.parameters() if p.grad is not None]))
    (out, gradients), (out_of_unit, gradients_of_unit) = steps
    torch.testing.assert_close(out, out_of_unit)
    torch.testing.assert_close(gradients, gradients_of_unit)
