"""BRC's networks: residual critics with two norms per block, a small actor of the same shape, unit task embeddings.

The critics' weights are stacked, [V, in, out]: all V critics are one batched product.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from ezm_lightning.model.networks import StackedLinear
from ezm_lightning.ops.norms import layer_norm
from ezm_lightning.ops.squashed_gaussian import TanhBound

NORM_EPSILON = 1e-6
EMBEDDING_DIM = 32


class StackedAffineNorm(nn.Module):
    """Layer norm of each row, with gain and bias of each head: [V, M, dim] -> [V, M, dim]."""

    def __init__(self, num_heads: int, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(num_heads, 1, dim))
        self.bias = nn.Parameter(torch.zeros(num_heads, 1, dim))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addcmul(self.bias, layer_norm(x, NORM_EPSILON), self.weight)


def orthogonal_linear(num_heads: int, in_dim: int, out_dim: int, *, gain: float = math.sqrt(2)) -> StackedLinear:
    """V linear layers, each with an orthogonal matrix times ``gain``; their biases are 0."""
    linear = StackedLinear(num_heads, in_dim, out_dim)
    for weight in linear.weight.data:
        nn.init.orthogonal_(weight, gain)
    nn.init.zeros_(linear.bias)
    return linear


class BroBlock(nn.Module):
    """x + LN(W₂ relu(LN(W₁ x))): nothing normalises the sum."""

    def __init__(self, num_heads: int, dim: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            orthogonal_linear(num_heads, dim, dim), StackedAffineNorm(num_heads, dim), nn.ReLU(),
            orthogonal_linear(num_heads, dim, dim), StackedAffineNorm(num_heads, dim),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x)


def bronet(num_heads: int, in_dim: int, width: int, num_blocks: int) -> nn.Sequential:
    """[V, M, in] -> [V, M, width]: Linear, LN, ReLU, then ``num_blocks`` residual blocks (BRO, arXiv 2405.16158)."""
    return nn.Sequential(
        orthogonal_linear(num_heads, in_dim, width),
        StackedAffineNorm(num_heads, width),
        nn.ReLU(),
        *(BroBlock(num_heads, width) for _ in range(num_blocks)),
    )


class UnitEmbedding(nn.Module):
    """One direction per task: task [B] -> [B, dim] of norm 1. The gradient goes through the normalisation.

    Rows start with a norm of about 1. Adam then turns them by about lr / norm per step.
    """

    def __init__(self, num_tasks: int, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(num_tasks, dim) * dim**-0.5)

    def forward(self, task: Int[Tensor, " B"]) -> Float[Tensor, "B E"]:
        row = self.weight[task]
        return row / torch.linalg.vector_norm(row, dim=-1, keepdim=True)


class CriticEnsemble(nn.Module):
    """Critics that share only the task embedding, which is their parameter. A single task has no embedding."""

    def __init__(
        self,
        *,
        obs_dim: int,
        action_dim: int,
        num_tasks: int,
        width: int,
        num_blocks: int,
        num_critics: int,
        atoms: int,
    ) -> None:
        super().__init__()
        self.num_critics = num_critics
        self.embedding = UnitEmbedding(num_tasks, EMBEDDING_DIM) if num_tasks > 1 else None
        self.state_dim = obs_dim + EMBEDDING_DIM * (num_tasks > 1)
        self.body = bronet(num_critics, self.state_dim + action_dim, width, num_blocks)
        self.head = orthogonal_linear(num_critics, width, atoms)

    def state(self, obs: Float[Tensor, "B D"], task: Int[Tensor, " B"]) -> Float[Tensor, "B state"]:
        """[o, e]: the observation and its task's embedding, the input of critics and actor."""
        return obs if self.embedding is None else torch.cat([obs, self.embedding(task)], -1)

    def forward(self, state: Float[Tensor, "B state"], action: Float[Tensor, "B A"]) -> Float[Tensor, "V B S"]:
        """Logits of every critic."""
        rows = torch.cat([state, action], -1).expand(self.num_critics, -1, -1)
        return self.head(self.body(rows))


class Actor(nn.Module):
    """state [B, state] -> mean before tanh and log σ, each [B, A]; the mean is not bounded."""

    def __init__(self, *, state_dim: int, action_dim: int, width: int, num_blocks: int) -> None:
        super().__init__()
        self.body = bronet(1, state_dim, width, num_blocks)
        self.mean = orthogonal_linear(1, width, action_dim)
        self.raw_log_std = orthogonal_linear(1, width, action_dim, gain=1.0)
        self.log_std_bound = TanhBound(-10.0, 2.0)

    def forward(self, state: Float[Tensor, "B state"]) -> tuple[Float[Tensor, "B A"], Float[Tensor, "B A"]]:
        x = self.body(state[None])
        mean, raw_log_std = self.mean(x)[0].float(), self.raw_log_std(x)[0].float()
        return mean, self.log_std_bound(raw_log_std)


def sample_with_log_prob(
    mean: Float[Tensor, "*s A"],
    log_std: Float[Tensor, "*s A"],
    noise: Float[Tensor, "*s A"],
    mask: Float[Tensor, "*#s A"],
) -> tuple[Float[Tensor, "*s A"], Float[Tensor, "*s"]]:
    """a = tanh(u) with u = mean + σ·noise, and log π(a) = Σ [log N(u; mean, σ) − log(1 − tanh² u)] of the same u.

    Nothing is clipped: log(1 − tanh² u) = 2(ln 2 − u − softplus(−2u)) is finite for every u. Masked dimensions are 0
    and carry no log-probability.
    """
    u = mean + log_std.exp() * noise
    gaussian = -0.5 * noise.square() - log_std - 0.5 * math.log(2 * math.pi)
    log_jacobian = 2 * (math.log(2) - u - F.softplus(-2 * u))
    return torch.tanh(u) * mask, ((gaussian - log_jacobian) * mask).sum(-1)
