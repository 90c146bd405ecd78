"""A trained world model's weights in a model of other tasks, with wider observations and new task embeddings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from ezm_lightning.model.task_embedding import Id, cut
from ezm_lightning.model.world_model import WorldModel
from ezm_lightning.ops.masks import width_masks

EMBEDDING, FIRST_LAYER = "task_embedding.", "representation.0.weight"
STATISTICS = ("obs_norm.mean", "obs_norm.var", "obs_norm.count")


def transplanted(weights: Mapping[str, Tensor], model: WorldModel, rows: Tensor) -> dict[str, Tensor]:
    """The state that ``model``, of new tasks, takes from the ``weights`` of a model of other tasks.

    ``rows`` [T, E] are the first embeddings of the new tasks, which ``model`` knows by their index. New columns of the
    observation are zero in the first layer, so that the function of the old columns stays the same. Their statistics
    are those of a dimension without data, and so are all statistics that each task has of its own. Everything else
    must have the same shape. The action cannot be wider: the dynamics' layer norm is over [latent, embedding, action],
    and further entries would move its mean and variance.
    """
    fresh = model.state_dict()
    state = {name: value.clone() for name, value in weights.items() if not name.startswith(EMBEDDING)}
    state[EMBEDDING + "weight"] = rows.to(fresh[EMBEDDING + "weight"])
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


@torch.no_grad()
def add_tasks_(model: WorldModel, obs_dims: Sequence[int], action_dims: Sequence[int]) -> None:
    """Adds tasks of these widths to a model that knows tasks by instructions. No width may be above the model's."""
    embedding, norm = cast(Any, model.task_embedding), cast(Any, model.obs_norm)
    for name, dims in (("obs_mask", obs_dims), ("action_mask", action_dims)):
        mask = getattr(model, name)
        setattr(model, name, torch.cat([mask, width_masks(dims, mask.shape[1]).to(mask)]))
    count = len(obs_dims)
    embedding.z = torch.cat([embedding.z, embedding.z.new_zeros(count, embedding.z.shape[1])])
    if hasattr(embedding, "residual"):
        residual = torch.cat([embedding.residual, embedding.residual.new_zeros(count, embedding.residual.shape[1])])
        embedding.residual = torch.nn.Parameter(residual, requires_grad=False)
    if norm.mean.dim() == 2:  # each task has its own statistics; the new tasks' observations pass unchanged
        for name, first in (("mean", 0.0), ("var", 1.0), ("count", 0.0)):
            old = getattr(norm, name)
            setattr(norm, name, torch.cat([old, torch.full_like(old[:1], first).expand(count, -1)]))


@torch.no_grad()
def keep_tasks_(model: WorldModel, tasks: Sequence[int]) -> None:
    """Leaves a model these of its tasks, in this order. Its widths stay."""
    rows, embedding, norm = list(tasks), cast(Any, model.task_embedding), cast(Any, model.obs_norm)
    tables: list[tuple[torch.nn.Module, str]] = [(model, "obs_mask"), (model, "action_mask")]
    if norm.mean.dim() == 2:  # each task has its own statistics
        tables += [(norm, "mean"), (norm, "var"), (norm, "count")]
    tables += [(embedding, name) for name in ("z", "residual") if hasattr(embedding, name)]
    if isinstance(embedding, Id):
        tables.append((embedding, "weight"))
        embedding.num_embeddings = len(rows)
    for module, name in tables:
        kept = getattr(module, name)[rows]
        setattr(module, name, torch.nn.Parameter(kept, False) if name in ("residual", "weight") else kept)


@torch.no_grad()
def instruct_(model: WorldModel, tasks: Sequence[int], vectors: Tensor) -> None:
    """Gives tasks the encoder's vectors [n, L] of other instructions, and sets their residuals to 0."""
    embedding = cast(Any, model.task_embedding)
    embedding.z[list(tasks)] = embedding.centred(vectors)
    if hasattr(embedding, "residual"):
        embedding.residual[list(tasks)] = 0


def mean_row(table: Tensor) -> Tensor:
    """The mean [E] of a table's rows [T, E], cut to norm 1 as every embedding is."""
    return cut(cut(table).mean(0))
