"""One warning where a task's targets are clipped, by hand and by loops."""

from __future__ import annotations

import warnings

import pytest
import torch

from ezm_lightning.clipped_targets import ClippedTargets, outside_by_task
from ezm_lightning.ops.support import Support
from ezm_lightning.types import Targets

REWARD, VALUE = Support(-2, 2), Support(-200, 200)
TASK = torch.tensor([0, 1])


def targets(reward, value=None, valid=None) -> Targets:
    """Of two windows of tasks 0 and 1, K = 2."""
    reward = torch.tensor(reward)
    valid = torch.ones(2, 2, dtype=torch.bool) if valid is None else torch.tensor(valid)
    value = torch.zeros(2, 3) if value is None else torch.tensor(value)
    nothing = torch.zeros(2, 3)
    flags = torch.ones(2, 3, dtype=torch.bool)
    return Targets(
        reward=reward, value=value, value_td=value, value_search=value, value_variance=nothing,
        action=nothing[..., None, None], action_weights=nothing[..., None], reward_valid=valid, value_valid=flags,
        policy_valid=flags, terminal=~flags, batch_size=[2],
    )  # fmt: skip


def watch() -> ClippedTargets:
    return ClippedTargets(["gym/Far-v0", "dmc/near"], reward_support=REWARD, value_support=VALUE)


def check(watch: ClippedTargets, *batches: Targets) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for update, batch in enumerate(batches):
            watch.check(batch, TASK, [0.5, 1.0], update=update)
    return [str(warning.message) for warning in caught]


def test_it_names_the_task_the_share_and_what_to_write():
    (line,) = check(watch(), targets([[-8.0, 1.0], [0.5, 2.0]]))
    assert line == (
        "gym/Far-v0: 50% of its reward targets lie outside [-2, 2] and are clipped (update 0, rewards × 0.5); "
        "start a new run with tasks.reward_scale={gym/Far-v0: 0.1} or with a wider tasks.reward_range"
    )


def test_it_warns_once_a_task_and_kind():
    far, fine = targets([[8.0, 1.0], [0.0, 0.0]]), targets([[1.0, 1.0], [0.0, 0.0]])
    deep = targets([[8.0, 8.0], [0.0, 0.0]], value=[[0.0, 0.0, 0.0], [0.0, -300.0, 0.0]])
    lines = check(watch(), fine, far, far, deep, deep)
    assert len(lines) == 2 and "its reward targets" in lines[0] and "update 1" in lines[0]
    assert lines[1].startswith("dmc/near: 33% of its value targets lie outside [-200, 200]")


def test_the_ends_of_the_support_and_what_is_not_valid_are_no_reason():
    assert check(watch(), targets([[2.0, -2.0], [0.0, 9.0]], valid=[[True, True], [True, False]])) == []


def test_shares_are_those_of_loops():
    g = torch.Generator().manual_seed(0)
    x, valid = 3 * torch.randn(40, 5, generator=g), torch.rand(40, 5, generator=g) < 0.7
    task = torch.randint(3, (40,), generator=g)  # of four
    expected = []
    for t in range(4):
        own = [x[b, k].item() for b in range(40) for k in range(5) if task[b] == t and valid[b, k]]
        expected.append(sum(not -2 <= r <= 2 for r in own) / max(len(own), 1))
    assert outside_by_task(x, valid, task, REWARD, 4).tolist() == pytest.approx(expected)
