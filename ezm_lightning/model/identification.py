"""Does the world model know which action was taken? Measured on replay alone."""

from __future__ import annotations

import torch
from torch import Tensor

from ezm_lightning.model import WorldModel
from ezm_lightning.types import Batch


@torch.no_grad()
def action_identified(model: WorldModel, batch: Batch, *, num_others: int = 15) -> Tensor:
    """Share of windows whose own first action, of 16, is predicted to lead nearest to the real next observation.

    The others are the first actions of ``num_others`` other windows of the same task, fewer where a task has fewer in
    the batch; chance is 1 / 16, and a model that ignores the action has 0. A scalar in [0, 1].
    """
    task = batch.task
    rivals = windows_of_same_task(task, 1 + num_others)  # [B, 16], the window itself first
    itself = rivals[:, 1:] == rivals[:, :1]  # where a task has fewer windows in the batch
    latent = model.represent(batch.obs[:, 0], task)[:, None].expand(-1, rivals.shape[1], -1)
    embedding = model.embed(task)[:, None].expand(-1, rivals.shape[1], -1)
    predicted = model.predict_projection(model.next_latent(latent, batch.action[:, 0][rivals], embedding))
    real = model.project(model.represent(batch.obs[:, 1], task))
    cosine = torch.cosine_similarity(predicted, real[:, None], dim=-1)  # [B, 16]
    exists = batch.valid[:, 1]
    others = cosine[:, 1:].masked_fill(itself, -torch.inf)
    return ((cosine[:, 0] > others.amax(-1)) & exists).sum() / exists.sum().clamp(min=1)


def windows_of_same_task(task: Tensor, count: int) -> Tensor:
    """For each of tasks [B] its own index, then those of the next windows of the same task, in turn; [B, count].

    Where a task has fewer windows than ``count``, they come again, itself too.
    """
    order = task.argsort(stable=True)
    first, end = (torch.searchsorted(task[order], task, right=right) for right in (False, True))
    size = end - first  # [B]
    place = torch.empty_like(order).scatter_(0, order, torch.arange(len(task), device=task.device)) - first
    steps = torch.arange(count, device=task.device)
    return order[first[:, None] + (place[:, None] + steps) % size[:, None]]
