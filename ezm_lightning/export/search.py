"""The whole search as one graph: observation, task and noise in, the entries of a ``SearchOutput`` out."""

from __future__ import annotations

from dataclasses import fields

import torch
from torch import Tensor

from ezm_lightning.export.graph import Draw, GraphModule
from ezm_lightning.model import PackedModel
from ezm_lightning.planner import Planner, PlannerNoise
from ezm_lightning.types import SearchOutput


class SearchModule(GraphModule):
    """A planner's search with a packed model for ``batch`` roots per call; the number is fixed in the graph.

    Inputs are ``obs`` [B, D] float32, ``task`` [B] int64 and the four tensors of ``PlannerNoise``. Raises ValueError
    for ``batch`` below 1, and for weights that are not float32.
    """

    def __init__(self, planner: Planner, packed: PackedModel, *, batch: int = 1) -> None:
        if batch < 1:
            raise ValueError(f"batch={batch} must be at least 1")
        check_float32(packed)
        noise = planner.sample_noise(packed, batch, torch.Generator(), explore=False)
        obs, task = packed.obs_mask.new_zeros(batch, packed.obs_mask.shape[1]), torch.zeros(batch, dtype=torch.int64)
        super().__init__(
            packed,
            inputs={"obs": obs, "task": task, **vars(noise)},
            outputs=[field.name for field in fields(SearchOutput) if field.name != "batch_size"],
            draws=draws_of(planner, packed),
            batch=batch,
        )
        self.planner = planner

    def forward(self, obs: Tensor, task: Tensor, *noise: Tensor) -> tuple[Tensor, ...]:
        """The entries of the plan in the order of ``outputs``."""
        plan = self.planner.entries(self.model(), obs, task, *noise)
        return tuple(plan[name] for name in self.outputs)


def draws_of(planner: Planner, packed: PackedModel) -> dict[str, Draw]:
    """How the noise of a greedy search is drawn (``Planner.sample_noise`` without exploration)."""
    draws: dict[str, Draw] = {
        "root": {"draw": "normal", "zero_candidates": int(planner.mean_candidate)},
        "node": {"draw": "normal", "zero_candidates": 0},
        "gumbel": {"draw": "zero"},
        "heads": {"draw": "distinct", "of": packed.num_value_heads},
    }
    assert list(draws) == [field.name for field in fields(PlannerNoise)]
    return draws


def check_float32(packed: PackedModel) -> None:
    """Raises ValueError for a model that is not on the CPU in float32, the only type of the graphs."""
    if packed.dtype != torch.float32 or packed.action_mask.device.type != "cpu":
        raise ValueError(f"export needs float32 weights on the CPU, not {packed.dtype} on {packed.action_mask.device}")
