"""Whether the world model knows which action was taken, measured on windows of replay."""

from __future__ import annotations

import torch
from torch import Tensor

from ezm_lightning.model import WorldModel
from ezm_lightning.types import Batch


@torch.no_grad()
def action_identified(model: WorldModel, batch: Batch, *, num_others: int = 15) -> Tensor:
    """Share of windows whose own first action, of 16, is predicted to lead nearest to the real next observation.

    The other actions are the first ones of ``num_others`` other windows of the same task, or of as many as the batch
    has. Chance is 1 / 16, and a model that ignores the action scores 0. A scalar in [0, 1].
    """
    task = batch.task
    rivals = windows_of_same_task(task, 1 + num_others)  # [B, 16], the window itself first
    itself = rivals[:, 1:] == rivals[:, :1]  # if the task has fewer windows in the batch
    latent = model.represent(batch.obs[:, 0], task)[:, None].expand(-1, rivals.shape[1], -1)
    embedding = model.embed(task)[:, None].expand(-1, rivals.shape[1], -1)
    predicted = model.predict_projection(model.next_latent(latent, batch.action[:, 0][rivals], embedding))
    real = model.project(model.represent(batch.obs[:, 1], task))
    cosine = torch.cosine_similarity(predicted, real[:, None], dim=-1)  # [B, 16]
    exists = batch.valid[:, 1]
    rival_cosine = cosine[:, 1:].masked_fill(itself, -torch.inf)
    return ((cosine[:, 0] > rival_cosine.amax(-1)) & exists).sum() / exists.sum().clamp(min=1)


def windows_of_same_task(task: Tensor, count: int) -> Tensor:
    """For each of tasks [B] its own index, then the indices of the next windows of the same task; [B, count].

    If a task has fewer windows than ``count``, the indices repeat, its own among them.
    """
    order = task.argsort(stable=True)
    first, end = (torch.searchsorted(task[order], task, right=right) for right in (False, True))
    size = end - first  # [B]
    place = torch.empty_like(order).scatter_(0, order, torch.arange(len(task), device=task.device)) - first
    steps = torch.arange(count, device=task.device)
    return order[first[:, None] + (place[:, None] + steps) % size[:, None]]
