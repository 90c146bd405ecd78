"""BRC's three losses, and the target distribution of the critics. V critics, S atoms.

Each loss is [B]; importance weights and the batch mean belong to the training step.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor


class Atoms(NamedTuple):
    """The evenly spaced values of a critic's distribution, in normalised rewards."""

    low: float = -10.0
    high: float = 10.0
    num_atoms: int = 101

    @property
    def spacing(self) -> float:
        return (self.high - self.low) / (self.num_atoms - 1)

    def values(self, like: Tensor) -> Tensor:
        """The atoms [S], on the device and in the float type of ``like``."""
        return torch.linspace(self.low, self.high, self.num_atoms, dtype=like.dtype, device=like.device)


def project(
    prob: Float[Tensor, "B S"], shift: Float[Tensor, " B"], scale: Float[Tensor, " B"], atoms: Atoms
) -> Float[Tensor, "B S"]:
    """The distribution of clip(shift + scale·z) over the atoms, where z has distribution ``prob``.

    Each moved atom splits its mass between its two neighbours in proportion to nearness (C51: Bellemare et al. 2017,
    eq. 7). The mean becomes shift + scale·mean if nothing is clipped.
    """
    moved = shift[:, None] + scale[:, None] * atoms.values(prob)
    position = ((moved - atoms.low) / atoms.spacing).clamp(0, atoms.num_atoms - 1)
    lower = position.floor()
    upper_share = position - lower
    lower_index = lower.long()
    upper_index = (lower_index + 1).clamp(max=atoms.num_atoms - 1)  # upper_share is 0 there
    projected = torch.zeros_like(prob).scatter_add_(-1, lower_index, prob * (1 - upper_share))
    return projected.scatter_add_(-1, upper_index, prob * upper_share)


def soft_target(
    prob: Float[Tensor, "B S"],
    reward: Float[Tensor, " B"],
    log_prob: Float[Tensor, " B"],
    continues: Float[Tensor, " B"],
    atoms: Atoms,
    *,
    temperature: Float[Tensor, ""],
    discount: float | Float[Tensor, " B"],
) -> Float[Tensor, "B S"]:
    """The distribution of r̃ + γ(1−d)(z − α log π(a'|o')): ``reward`` is normalised, ``continues`` is 1 − d."""
    scale = discount * continues
    return project(prob, reward - scale * temperature * log_prob, scale, atoms)


def critic_loss(logits: Float[Tensor, "V B S"], target: Float[Tensor, "B S"]) -> Float[Tensor, " B"]:
    """Σ_v CE(target, softmax(logits_v)); the target gets no gradient."""
    return -(target.detach() * logits.float().log_softmax(-1)).sum((0, -1))


def mean_distribution(logits: Float[Tensor, "V B S"]) -> Float[Tensor, "B S"]:
    """The mean of the critics' distributions."""
    return logits.float().softmax(-1).mean(0)


def expected_value(logits: Float[Tensor, "V B S"], atoms: Atoms) -> Float[Tensor, " B"]:
    """Q: the expectation of the mean of the critics' distributions."""
    prob = mean_distribution(logits)
    return (prob * atoms.values(prob)).sum(-1)


def actor_loss(
    log_prob: Float[Tensor, " B"], q: Float[Tensor, " B"], temperature: Float[Tensor, ""]
) -> Float[Tensor, " B"]:
    """α log π(ã|o) − Q(o, ã); α gets no gradient."""
    return temperature.detach() * log_prob - q


def temperature_loss(
    log_temperature: Float[Tensor, ""], log_prob: Float[Tensor, " B"], target_entropy: Float[Tensor, " B"]
) -> Float[Tensor, " B"]:
    """α (−log π − H*), which moves only α: down if the policy has more entropy than H*."""
    return log_temperature.exp() * (-log_prob.detach() - target_entropy)
