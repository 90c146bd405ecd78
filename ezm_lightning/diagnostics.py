"""Metrics of an update of EZ-M, and tensors for histograms. Training does not depend on them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ezm_lightning.model import WorldModel
from ezm_lightning.model.identification import action_identified
from ezm_lightning.ops.support import clipped_share
from ezm_lightning.types import Batch, Prediction, SearchOutput, Targets


def metrics(
    model: WorldModel,
    batch: Batch,
    targets: Targets,
    search: SearchOutput | None,
    prediction: Prediction,
    losses: Mapping[str, Tensor],
    temperature: Tensor,
) -> dict[str, Tensor]:
    """Scalars by their tag; ``losses`` are means over the batch, ``temperature`` is [B]. Those of a search are left
    out without one. The age is that of the collected windows, 0 if there are none."""
    searched = targets.value_valid & targets.value_search.isfinite()
    acts = model.action_mask[batch.task].bool()[:, None].expand_as(prediction.policy_mean)
    tagged = {f"loss/{name}": value for name, value in losses.items()} | {
        "target/value": _mean(targets.value, targets.value_valid),
        "target/value_search_minus_td": _mean(targets.value_search - targets.value_td, searched),
        "target/reward_clipped": clipped_share(targets.reward, model.reward_support, targets.reward_valid),
        "target/value_clipped": clipped_share(targets.value, model.value_support, targets.value_valid),
        "policy/mean_abs": _mean(prediction.policy_mean.abs(), acts),
        "policy/std": _mean(prediction.policy_log_std.exp(), acts),
        "policy/temperature": temperature.mean(),
        "model/action_identified": action_identified(model, batch),
        "replay/weight": batch.weight.mean(),
        "replay/age": _mean(batch.age, ~batch.demo),
    }
    tagged |= {} if search is None else _of_search(search)
    return {tag: value.detach().float() for tag, value in tagged.items()}


def _mean(x: Tensor, where: Tensor) -> Tensor:
    """The mean of x where ``where`` is true; 0 if it is nowhere."""
    return torch.where(where, x, 0).sum() / where.sum().clamp(min=1)


def _of_search(search: SearchOutput) -> dict[str, Tensor]:
    q_spread = search.qvalues.std(-1, correction=min(1, search.qvalues.shape[-1] - 1)).mean()  # 0 of one candidate
    head_std = search.root_value_variance.sqrt().mean()
    return {
        "search/q_spread": q_spread,
        "search/head_std": head_std,
        "search/head_std_over_q_spread": head_std / q_spread.clamp(min=1e-6),
        "policy_target/effective_candidates": (1 / search.action_weights.square().sum(-1)).mean(),
        "policy_target/entropy": torch.special.entr(search.action_weights).sum(-1).mean(),
    }


def distributions(targets: Targets, search: SearchOutput | None) -> dict[str, Tensor]:
    """Tensors for histograms, by their tag; a histogram does not count NaN. Without a search its own are left out."""
    shown = {"target/values": torch.where(targets.value_valid, targets.value, torch.nan)}
    if search is None:
        return shown
    return shown | {
        "search/root_values": search.root_value.clone(),
        "search/candidate_actions": torch.where(search.candidates != 0, search.candidates, torch.nan),  # 0: padded
    }


@torch.no_grad()
def root_policy(model: WorldModel, batch: Batch) -> tuple[Tensor, Tensor]:
    """The policy's mean and log σ [B, A] at the windows' first observations; batch norms are not updated."""
    raw = model.eval().represent_policy(batch.obs[:, 0], batch.task)[1]
    model.train()
    return model.policy(raw)
