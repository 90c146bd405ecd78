"""The tanh-Gaussian policy: a = tanh(u), u ~ N(mean, std²), with a mask for the action dimensions of a task.

Shapes: mean, log_std, action, noise [..., A]; mask [..., A] broadcastable, 1 where the dimension exists. Masked
dimensions of a sample are exactly 0 and carry no log-probability (SAC appendix C; EZ-M section 4).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import softsign

MAX_ACTION = 0.999  # candidates are clipped here, so that atanh stays finite


@dataclass(frozen=True)
class TanhBound:
    """log σ = low + (high − low)/2 · (tanh(raw) + 1), in [low, high] (TD-MPC2, EZ-M)."""

    low: float = -10.0
    high: float = 2.0

    def __call__(self, raw: Tensor) -> Tensor:
        return self.low + 0.5 * (self.high - self.low) * (torch.tanh(raw) + 1)

    def raw_of(self, log_std: float) -> float:
        """The raw output that gives ``log_std``; ValueError outside the open range."""
        return math.atanh(_within(log_std, self.low, self.high))


@dataclass(frozen=True)
class SoftsignBound:
    """log σ = low + (high − low)/2 · (raw / (1 + |raw|) + 1), in [low, high].

    For narrow ranges. While values carry no information, σ is driven to its upper bound. There the gradient of tanh
    is almost 0, while that of softsign falls only with the square of raw, so that σ can return.
    """

    low: float
    high: float

    def __call__(self, raw: Tensor) -> Tensor:
        return self.low + 0.5 * (self.high - self.low) * (softsign(raw) + 1)

    def raw_of(self, log_std: float) -> float:
        """The raw output that gives ``log_std``; ValueError outside the open range."""
        share = _within(log_std, self.low, self.high)
        return share / (1 - abs(share))


def _within(log_std: float, low: float, high: float) -> float:
    """The position of a value in (low, high), scaled to (−1, 1)."""
    if not low < log_std < high:
        raise ValueError(f"log std {log_std:.3f} is outside the policy's range ({low}, {high})")
    return 2 * (log_std - low) / (high - low) - 1


def sample(
    mean: Float[Tensor, "*#s A"],
    log_std: Float[Tensor, "*#s A"],
    noise: Float[Tensor, "*#s A"],
    mask: Float[Tensor, "*#s A"],
    std_multiplier: Float[Tensor, "*#s 1"] | float = 1.0,
) -> Float[Tensor, "*s A"]:
    """tanh(mean + multiplier·σ·noise), clipped to ±0.999, zero where masked."""
    pre_tanh = mean + std_multiplier * log_std.exp() * noise
    return torch.tanh(pre_tanh).clamp(-MAX_ACTION, MAX_ACTION) * mask


def log_prob(
    action: Float[Tensor, "*s A"],
    mean: Float[Tensor, "*#s A"],
    log_std: Float[Tensor, "*#s A"],
    mask: Float[Tensor, "*#s A"],
) -> Float[Tensor, "*s"]:
    """log π(a) = Σ_valid [ log N(atanh a; mean, σ) − log(1 − a²) ]; |a| is clipped to 0.999 first."""
    action = action.clamp(-MAX_ACTION, MAX_ACTION)
    standardised = (torch.atanh(action) - mean) * torch.exp(-log_std)
    gaussian = -0.5 * standardised.square() - log_std - 0.5 * math.log(2 * math.pi)
    return ((gaussian - torch.log1p(-action.square())) * mask).sum(-1)


def entropy(
    mean: Float[Tensor, "*s A"],
    log_std: Float[Tensor, "*s A"],
    mask: Float[Tensor, "*#s A"],
    noise: Float[Tensor, "*s A"],
) -> Float[Tensor, "*s"]:
    """One-sample estimate of the tanh-Gaussian's entropy: H(N) + log(1 − tanh²(u)) at u = mean + σ·noise."""
    u = mean + log_std.exp() * noise
    log_jacobian = 2 * (math.log(2) - u - torch.nn.functional.softplus(-2 * u))
    gaussian = log_std + 0.5 * math.log(2 * math.pi * math.e)
    return ((gaussian + log_jacobian) * mask).sum(-1)


def kl_divergence(
    mean: Float[Tensor, "*s A"],
    log_std: Float[Tensor, "*s A"],
    other_mean: Float[Tensor, "*s A"],
    other_log_std: Float[Tensor, "*s A"],
    mask: Float[Tensor, "*#s A"],
) -> Float[Tensor, "*s"]:
    """KL(π ‖ other) in nats. It is that of the Gaussians, since both go through the same tanh."""
    ratio = (log_std - other_log_std).exp().square()
    distance = ((mean - other_mean) * torch.exp(-other_log_std)).square()
    return (0.5 * (ratio + distance - 1) - (log_std - other_log_std)).mul(mask).sum(-1)
