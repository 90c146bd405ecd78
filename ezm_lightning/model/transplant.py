"""A trained world model's weights in the model of other tasks: wider observations, new task embeddings."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ezm_lightning.model.world_model import WorldModel

EMBEDDING, FIRST_LAYER = "task_embedding.weight", "representation.0.weight"
STATISTICS = ("obs_norm.mean", "obs_norm.var", "obs_norm.count")


def transplanted(weights: Mapping[str, Tensor], model: WorldModel, rows: Tensor) -> dict[str, Tensor]:
    """The state that ``model``, of new tasks, takes over from the ``weights`` of a model of others.

    ``rows`` [T, E] are the first embeddings of the new tasks. Columns that the old observations have not are zero in
    the first layer, so that the function of the old ones stays the same; their statistics are those of a dimension
    never seen, and so are each task's own. Everything else must have the same shape. A wider action has no such form:
    the dynamics' layer norm is over [latent, embedding, action], and further entries would move its mean and variance.
    """
    fresh = model.state_dict()
    state = {name: value.clone() for name, value in weights.items()}
    state[EMBEDDING] = rows.to(state[EMBEDDING])
    old = state[FIRST_LAYER].shape[1] - rows.shape[1] * model.embeds[0]
    more = fresh[FIRST_LAYER].shape[1] - state[FIRST_LAYER].shape[1]
    if more:
        first = state[FIRST_LAYER]
        state[FIRST_LAYER] = torch.cat([first[:, :old], first.new_zeros(len(first), more), first[:, old:]], 1)
    for name in STATISTICS:
        if fresh[name].dim() == 1:
            state[name] = torch.cat([state[name], fresh[name][len(state[name]) :]])
        else:
            state[name] = fresh[name].clone()
    return state


def mean_row(table: Tensor) -> Tensor:
    """The mean [E] of a table's rows [T, E], cut to norm 1 as every embedding is."""
    return clipped(clipped(table).mean(0))


def clipped(rows: Tensor) -> Tensor:
    """Rows [..., E] whose norm is at most 1."""
    return rows / rows.norm(dim=-1, keepdim=True).clamp(min=1)
