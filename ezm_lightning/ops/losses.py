"""Per-sample losses on [B, K+1]: each function returns [B], summed over valid positions and divided by K.

Coefficients, importance weights and the batch mean belong to the training step.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from ezm_lightning.ops import squashed_gaussian
from ezm_lightning.ops.per_task import as_column
from ezm_lightning.ops.support import Support, decode, two_hot_cross_entropy
from ezm_lightning.types import Batch, Prediction, Targets


def masked_mean_over_unroll(
    per_step: Float[Tensor, "B k"], valid: Bool[Tensor, "B k"], unroll_steps: int
) -> Float[Tensor, " B"]:
    """(1/K) Σ_k valid_k · loss_k."""
    return torch.where(valid, per_step, 0.0).sum(-1) / unroll_steps


def reward_loss(prediction: Prediction, targets: Targets, support: Support) -> Float[Tensor, " B"]:
    """CE of the K predicted rewards."""
    per_step = two_hot_cross_entropy(prediction.reward_logits, targets.reward, support)
    return masked_mean_over_unroll(per_step, targets.reward_valid, targets.reward.shape[1])


def value_loss(prediction: Prediction, targets: Targets, support: Support) -> Float[Tensor, " B"]:
    """CE of the K+1 predicted values, mean over the heads."""
    target = targets.value[..., None].expand(prediction.value_logits.shape[:-1])
    per_step = two_hot_cross_entropy(prediction.value_logits, target, support).mean(-1)
    return masked_mean_over_unroll(per_step, targets.value_valid, targets.reward.shape[1])


def policy_loss(prediction: Prediction, targets: Targets, action_mask: Tensor) -> Float[Tensor, " B"]:
    """−Σ_c w_c log π(a_c) at the K+1 positions (EZ-M eq. 5 and 6); action_mask [B, A]."""
    log_prob = squashed_gaussian.log_prob(
        targets.action,
        prediction.policy_mean.float()[:, :, None],
        prediction.policy_log_std.float()[:, :, None],
        action_mask[:, None, None],
    )
    per_step = -(targets.action_weights * log_prob).sum(-1)
    return masked_mean_over_unroll(per_step, targets.policy_valid, targets.reward.shape[1])


def cloning_loss(prediction: Prediction, batch: Batch, action_mask: Tensor) -> Float[Tensor, " B"]:
    """−log π(a) of the actions of demonstrations at the K+1 positions; action_mask [B, A], 0 for other windows."""
    k1 = prediction.policy_mean.shape[1]
    log_prob = squashed_gaussian.log_prob(
        batch.action[:, :k1],
        prediction.policy_mean.float(),
        prediction.policy_log_std.float(),
        action_mask[:, None],
    )
    acts = batch.valid[:, 1 : k1 + 1] & batch.demo[:, None]  # an episode's final observation has no action
    return masked_mean_over_unroll(-log_prob, acts, k1 - 1)


def policy_entropy(
    prediction: Prediction, valid: Bool[Tensor, "B K1"], action_mask: Tensor, noise: Tensor
) -> Float[Tensor, " B"]:
    """The policy's entropy, estimated with noise [B, K+1, A], over the dimensions of action_mask [B, A]."""
    entropy = squashed_gaussian.entropy(
        prediction.policy_mean.float(), prediction.policy_log_std.float(), action_mask[:, None], noise
    )
    return masked_mean_over_unroll(entropy, valid, valid.shape[1] - 1)


def consistency_loss(
    predicted: Float[Tensor, "B K P"], observed: Float[Tensor, "B K P"], valid: Bool[Tensor, "B K"]
) -> Float[Tensor, " B"]:
    """−cos(predicted, sg observed) for k ≥ 1 (SimSiam; EfficientZero section 4.1)."""
    cosine = F.cosine_similarity(predicted.float(), observed.detach().float(), dim=-1)
    return masked_mean_over_unroll(-cosine, valid, valid.shape[1])


def path_consistency_loss(
    prediction: Prediction,
    targets: Targets,
    *,
    reward_support: Support,
    value_support: Support,
    discount: float | Float[Tensor, " B"],
) -> Float[Tensor, " B"]:
    """Σ_{k<K} CE(sg(r̂_k + γ v̂_{k+1}), v̂_k), mean over heads (EZ-M eq. 8).

    The value of a terminal state is 0.
    """
    with torch.no_grad():
        reward = decode(prediction.reward_logits, reward_support)
        value = decode(prediction.value_logits, value_support).mean(-1)
        path = reward + as_column(discount) * torch.where(targets.terminal, 0.0, value)[:, 1:]
    logits = prediction.value_logits[:, :-1]
    per_step = two_hot_cross_entropy(logits, path[..., None].expand(logits.shape[:-1]), value_support).mean(-1)
    return masked_mean_over_unroll(per_step, targets.reward_valid, targets.reward.shape[1])


@torch.no_grad()
def mean_by_task(losses: dict[str, Tensor], task: Tensor, num_tasks: int) -> dict[str, Tensor]:
    """The mean of each loss [B] over each task's windows, [T]; NaN for a task without a window in the batch."""
    values = torch.stack(list(losses.values())).float()  # [L, B]
    of_task = task == torch.arange(num_tasks, device=task.device)[:, None]  # [T, B]
    mean = torch.where(of_task, values[:, None], 0.0).sum(-1) / of_task.sum(-1)  # [L, T]
    return dict(zip(losses, mean, strict=True))
