"""Bricks of the world model, with flat arguments. Every brick maps [..., in] to [..., out]."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ezm_lightning.ops.norms import layer_norm


class ResBlock(nn.Module):
    """x + W₂ relu(W₁ LN(x))."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.fc1 = nn.Linear(dim, dim)
        self.fc2 = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.fc2(F.relu(self.fc1(self.norm(x))))


def residual_tower(dim: int, num_blocks: int) -> nn.Sequential:
    """``num_blocks`` residual blocks in a row."""
    return nn.Sequential(*(ResBlock(dim) for _ in range(num_blocks)))


class ResidualTransition(nn.Module):
    """z + MLP(LN([z, extras])), then a residual tower: the trunk of dynamics and of reward."""

    def __init__(self, latent_dim: int, extra_dim: int, num_blocks: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(latent_dim + extra_dim)
        self.fc1 = nn.Linear(latent_dim + extra_dim, latent_dim)
        self.fc2 = nn.Linear(latent_dim, latent_dim)
        self.blocks = residual_tower(latent_dim, num_blocks)

    def forward(self, latent: Tensor, *extras: Tensor) -> Tensor:
        x = self.norm(torch.cat([latent, *extras], -1))
        return self.blocks(latent + self.fc2(F.relu(self.fc1(x))))


class StackedLinear(nn.Module):
    """V linear layers as one batched product: [V, M, in] -> [V, M, out]; initialised like ``nn.Linear``."""

    def __init__(self, num_heads: int, in_dim: int, out_dim: int, *, zero_init: bool = False) -> None:
        super().__init__()
        bound = 0.0 if zero_init else in_dim**-0.5
        self.weight = nn.Parameter(torch.empty(num_heads, in_dim, out_dim).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(num_heads, 1, out_dim).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        return torch.baddbmm(self.bias, x, self.weight)


class StackedBatchNorm(nn.Module):
    """Batch norm over the rows of each head: [V, M, dim] -> [V, M, dim]."""

    def __init__(self, num_heads: int, dim: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(num_heads * dim)

    def forward(self, x: Tensor) -> Tensor:
        heads, rows, dim = x.shape
        return self.norm(x.transpose(0, 1).reshape(rows, heads * dim)).view(rows, heads, dim).transpose(0, 1)


class StackedLayerNorm(nn.Module):
    """Layer norm of each row without an affine map: [V, M, dim] -> [V, M, dim]. It suits small batches."""

    def __init__(self, num_heads: int, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, x: Tensor) -> Tensor:
        return layer_norm(x)


HeadNorm = Callable[[int, int], nn.Module]


class StackedHeads(nn.Module):
    """V heads on one input: 2 × [Linear, norm, ReLU], Linear; [..., in] -> [..., V, out]."""

    def __init__(
        self,
        num_heads: int,
        in_dim: int,
        hidden_dim: int,
        out_dim: int,
        *,
        norm: HeadNorm = StackedBatchNorm,
        zero_init: bool = False,
    ) -> None:
        super().__init__()
        self.num_heads, self.hidden_dim = num_heads, hidden_dim
        self.body = nn.Sequential(
            StackedLinear(num_heads, in_dim, hidden_dim),
            norm(num_heads, hidden_dim),
            nn.ReLU(),
            StackedLinear(num_heads, hidden_dim, hidden_dim),
            norm(num_heads, hidden_dim),
            nn.ReLU(),
            StackedLinear(num_heads, hidden_dim, out_dim, zero_init=zero_init),
        )

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(1, -1, x.shape[-1]).expand(self.num_heads, -1, -1)  # [V, M, in]
        out = self.body(rows)  # [V, M, out]
        return out.transpose(0, 1).reshape(*x.shape[:-1], self.num_heads, -1)


def projection(dim: int, hidden_dim: int) -> nn.Sequential:
    """SimSiam's projector: dim -> hidden -> hidden -> dim with LN and ReLU between, LN at the end."""
    return nn.Sequential(
        nn.Linear(dim, hidden_dim), nn.LayerNorm(hidden_dim), nn.ReLU(),
        nn.Linear(hidden_dim, hidden_dim), nn.LayerNorm(hidden_dim), nn.ReLU(),
        nn.Linear(hidden_dim, dim), nn.LayerNorm(dim),
    )  # fmt: skip


def prediction(dim: int, hidden_dim: int) -> nn.Sequential:
    """SimSiam's predictor: dim -> hidden -> dim."""
    return nn.Sequential(
        nn.Linear(dim, hidden_dim), nn.LayerNorm(hidden_dim), nn.ReLU(), nn.Linear(hidden_dim, dim)
    )  # fmt: skip


class ObsNorm(nn.Module):
    """Running normalisation of observations: (o − mean)/√(var + ε) on a task's own dimensions, 0 on padded ones.

    ``mean`` and ``var`` are per dimension, over unpadded entries, merged by Chan's parallel form of Welford's update.
    A dimension without data passes unchanged. Tasks share the statistics: ``task`` is ignored.
    """

    mean: Tensor  # [D]
    var: Tensor  # [D]
    count: Tensor  # [D] float64

    clip: float | None = None  # normalised observations are not clipped
    moves = True  # false: the statistics are frozen

    def __init__(self, dim: int, num_tasks: int = 1, *, epsilon: float = 1e-5) -> None:
        super().__init__()
        self.epsilon = epsilon
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("var", torch.ones(dim))
        self.register_buffer("count", torch.zeros(dim, dtype=torch.float64))

    def forward(self, obs: Tensor, mask: Tensor, task: Tensor | None = None) -> Tensor:
        return (obs - self.mean) * torch.rsqrt(self.var + self.epsilon) * mask

    @torch.no_grad()
    def update_(self, obs: Tensor, mask: Tensor, task: Tensor | None = None) -> None:
        """Merges a batch obs [B, D] with its mask [B, D] into the statistics."""
        weight = mask.double()
        count = weight.sum(0)
        mean = (obs * weight).sum(0) / count.clamp(min=1)
        squares = ((obs - mean).square() * weight).sum(0)
        total = self.count + count
        divisor = total.clamp(min=1)
        delta = mean - self.mean
        sum_squares = self.var * self.count + squares + delta.square() * self.count * count / divisor
        has_data = total > 0
        self.mean += delta * count / divisor
        self.var.copy_(torch.where(has_data, sum_squares / divisor, self.var.double()))
        self.count.copy_(total)
