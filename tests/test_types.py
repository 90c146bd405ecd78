"""Records: what crosses rooms can be sliced, moved and joined, and its time alignment holds."""

import torch

from ezm_lightning.types import Batch, SearchOutput


def test_a_batch_is_sliced_over_windows(make_batch):
    batch = make_batch()
    assert isinstance(batch, Batch) and len(batch) == 6
    part = batch[torch.tensor([4, 1])]
    assert torch.equal(part.obs, batch.obs[[4, 1]]) and part.task.tolist() == [1, 1]
    assert batch.to(torch.float64).obs.dtype == torch.float64


def test_a_search_output_folds_into_windows():
    """Row b·(K+1) + k is position k of window b."""
    flat = SearchOutput(
        best_action=torch.arange(12.0)[:, None].expand(-1, 2),
        search_value=torch.arange(12.0),
        action_weights=torch.zeros(12, 3),
        candidates=torch.zeros(12, 3, 2),
        qvalues=torch.zeros(12, 3),
        visit_counts=torch.zeros(12, 3, dtype=torch.int64),
        root_value=torch.zeros(12),
        root_value_variance=torch.zeros(12),
        batch_size=[12],
    )
    folded = flat.reshape(4, 3)
    assert folded.search_value[2].tolist() == [6, 7, 8]
    assert folded.candidates.shape == (4, 3, 3, 2) and folded.best_action[2, 1].tolist() == [7, 7]
