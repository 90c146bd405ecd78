"""Which value to believe: the share of TD by age, and by the disagreement of the value heads."""

import numpy as np
import torch
from torch import Tensor, nn

from ezm_lightning.types import Batch
from ezm_lightning.value_mix import AgeShare, SearchShare, TDShare, VarianceShare
from tests.windows import windows


def shares(share: nn.Module, batch: Batch, variance: Tensor, valid: Tensor | None = None, step: int = 0) -> Tensor:
    return share(batch, variance, torch.ones_like(variance, dtype=torch.bool) if valid is None else valid, step)


def test_td_and_search_share():
    batch = windows([5, 5], [False] * 2)
    assert (shares(TDShare(), batch, torch.rand(2, 3)) == 1).all()
    assert (shares(SearchShare(), batch, torch.rand(2, 3)) == 0).all()


def test_age_share():
    """Before the start everything is TD; then the newest three transitions."""
    batch = windows([5] * 5, [False] * 5)  # ages 0 … 4
    share, variance = AgeShare(start_step=100, newest=3), torch.rand(5, 3)
    assert shares(share, batch, variance, step=99).flatten().tolist() == [1] * 5
    assert shares(share, batch, variance, step=100).flatten().tolist() == [1, 1, 1, 0, 0]
    assert (AgeShare().start_step, AgeShare().newest) == (50_000, 200_000)


def test_variance_share_by_hand():
    """Percentiles 5 and 95 of 0 … 20 are 1 and 19."""
    variance = torch.arange(21.0).view(7, 3)
    batch = windows([5] * 7, [False] * 7, task=torch.zeros(7, dtype=torch.int64))
    share = VarianceShare(num_tasks=2)
    expected = ((variance - 1) / 18).clamp(0, 1)
    torch.testing.assert_close(shares(share, batch, variance), expected)
    assert share.range.extremes.tolist() == [[1, 19], [0, 0]] and share.range.seen.tolist() == [True, False]


def test_variance_share_tracks_each_task_slowly_over_valid_positions():
    """A plain loop with numpy; garbage in invalid positions, tasks missing from some batches."""
    g, share = torch.Generator().manual_seed(0), VarianceShare(num_tasks=4, momentum=0.1)
    extremes: dict[int, np.ndarray] = {}
    for tasks in ([0, 0, 1, 1], [0, 2, 2, 2], [1, 1, 1, 2], [0, 0, 0, 0]):
        batch = windows([5] * 4, [False] * 4, task=torch.tensor(tasks))
        variance = torch.rand(4, 3, generator=g) * (batch.task[:, None] + 1)
        valid = torch.rand(4, 3, generator=g) < 0.8
        valid[:, 0] = True
        ours = shares(share, batch, torch.where(valid, variance, 1e6), valid)
        for t in set(tasks):
            entries = variance[(batch.task == t)[:, None] & valid].numpy()
            now = np.percentile(entries, [5, 95])
            extremes[t] = extremes[t] + 0.1 * (now - extremes[t]) if t in extremes else now
        for b, t in enumerate(tasks):
            low, high = extremes[t]
            expected = np.clip((variance[b].numpy() - low) / (high - low), 0, 1)
            np.testing.assert_allclose(ours[b][valid[b]], expected[valid[b].numpy()], atol=1e-4)
    for t in range(3):
        np.testing.assert_allclose(share.range.extremes[t], extremes[t], atol=1e-5)
    assert share.range.extremes[3].tolist() == [0, 0] and not share.range.seen[3]


def test_variance_share_of_equal_variances_is_finite():
    batch = windows([5] * 2, [False] * 2, task=torch.zeros(2, dtype=torch.int64))
    ours = shares(VarianceShare(num_tasks=1), batch, torch.full((2, 3), 0.7))
    assert ours.isfinite().all() and (ours >= 0).all() and (ours <= 1).all()


def test_variance_share_forgets_an_outlier():
    batch = windows([5] * 7, [False] * 7, task=torch.zeros(7, dtype=torch.int64))
    share, variance = VarianceShare(num_tasks=1, momentum=0.1), torch.arange(21.0).view(7, 3)
    shares(share, batch, variance * 100)
    for _ in range(150):
        ours = shares(share, batch, variance)
    torch.testing.assert_close(ours, ((variance - 1) / 18).clamp(0, 1), atol=1e-2, rtol=0)


def test_extremes_travel_in_the_state_dict():
    batch = windows([5] * 3, [False] * 3)
    share, other = VarianceShare(num_tasks=3), VarianceShare(num_tasks=3)
    shares(share, batch, torch.rand(3, 3))
    other.load_state_dict(share.state_dict())
    assert torch.equal(other.range.extremes, share.range.extremes) and other.range.seen.all()
