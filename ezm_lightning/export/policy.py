"""The policy as a graph, without a search: observation, task and noise in, an action out."""

from __future__ import annotations

import torch
from torch import Tensor

from ezm_lightning.export.graph import GraphModule
from ezm_lightning.export.search import check_float32
from ezm_lightning.model import PackedModel
from ezm_lightning.ops import squashed_gaussian


class PolicyModule(GraphModule):
    """The policy of a packed model for any number of rows. Noise [B, A] of zeros gives its mean, normal noise a sample.

    Raises ValueError for weights that are not float32.
    """

    def __init__(self, packed: PackedModel) -> None:
        check_float32(packed)
        rows = 2  # any number but 0 and 1, which torch.export treats as constants
        super().__init__(
            packed,
            inputs={
                "obs": packed.obs_mask.new_zeros(rows, packed.obs_mask.shape[1]),
                "task": torch.zeros(rows, dtype=torch.int64),
                "noise": packed.action_mask.new_zeros(rows, packed.action_mask.shape[1]),
            },
            outputs=["best_action"],
            draws={"noise": {"draw": "zero"}},
            batch=None,
        )

    def forward(self, obs: Tensor, task: Tensor, noise: Tensor) -> tuple[Tensor]:
        """The action [B, A]: tanh(mean + σ·noise), clipped to ±0.999, zero where masked."""
        model = self.model()
        mean, log_std = model.policy(model.represent_policy(obs, task)[1])
        return (squashed_gaussian.sample(mean, log_std, noise, model.action_mask[task]),)
