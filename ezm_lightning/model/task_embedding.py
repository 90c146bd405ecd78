"""Task embeddings e of norm at most 1: from the task's index, from its instruction, or from both."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ezm_lightning.ranges import Count, NotNegative, Share


def cut(rows: Tensor) -> Tensor:
    """e · min(1, 1/‖e‖), differentiable; ``max_norm`` of nn.Embedding would write to the weight instead."""
    return rows / rows.norm(dim=-1, keepdim=True).clamp(min=1)


class Id(nn.Embedding):
    """One learned row per task, whose norm is cut to 1.

    A look-up cuts every row, so that the ranks' weights stay equal where their batches have other tasks.
    """

    def __init__(self, num_tasks: int, dim: int) -> None:
        super().__init__(num_tasks, dim)

    def forward(self, task: Tensor) -> Tensor:
        """The rows [..., E] of ``task`` [...]."""
        every = torch.arange(self.num_tasks, device=self.weight.device)
        with torch.no_grad():
            torch.embedding_renorm_(self.weight, every, 1.0, 2.0)
        return super().forward(task)

    @property
    def num_tasks(self) -> int:
        return self.num_embeddings


class Text(nn.Module):
    """cut(W z), with z the centred unit vector of the task's instruction; ``text_dim`` is the encoder's.

    Most of an encoder's vector is common to all texts, so μ, the mean over a fixed list of instructions, is subtracted
    first. ``z`` and ``mu`` are buffers that :meth:`set_texts_` fills, so that a checkpoint needs no encoder.
    """

    z: Tensor  # [T, L], of norm 1
    mu: Tensor  # [L]

    def __init__(self, num_tasks: int, dim: int, *, text_dim: Count) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(dim, text_dim))
        nn.init.orthogonal_(self.weight)
        if dim < text_dim:  # so that ‖W z‖² is 1 on average over directions
            self.weight.data *= (text_dim / dim) ** 0.5
        self.register_buffer("z", torch.zeros(num_tasks, text_dim))
        self.register_buffer("mu", torch.zeros(text_dim))

    @property
    def num_tasks(self) -> int:
        return len(self.z)

    def set_texts_(self, vectors: Tensor, reference: Tensor) -> None:
        """Sets the encoder's vectors [T, L] of the instructions; μ is the mean of ``reference`` [n, L]."""
        self.mu.copy_(reference.mean(0))
        self.z.copy_(self.centred(vectors))

    def centred(self, vectors: Tensor) -> Tensor:
        """z [..., L] of an encoder's vectors [..., L]."""
        return nn.functional.normalize(vectors.to(self.mu) - self.mu, dim=-1)

    def vector(self, z: Tensor) -> Tensor:
        """The embedding [..., E] of a centred text vector, for example of an instruction that was not trained on."""
        return cut(z @ self.weight.t())

    def forward(self, task: Tensor) -> Tensor:
        return self.vector(self.z[task])


class Both(Text):
    """cut(W z + r): the instruction, and a residual r of the task's own, zero at first.

    In training each window's residual is left out with probability ``drop_residual``, so that the model also learns
    from the instruction alone. The target model, acting and evaluation always use it. ``residual_decay`` is r's weight
    decay.
    """

    def __init__(
        self,
        num_tasks: int,
        dim: int,
        *,
        text_dim: Count,
        drop_residual: Share = 0.25,
        residual_decay: NotNegative = 1e-3,
    ) -> None:
        super().__init__(num_tasks, dim, text_dim=text_dim)
        self.residual = nn.Parameter(torch.zeros(num_tasks, dim))
        self.drop_residual, self.residual_decay = drop_residual, residual_decay

    def forward(self, task: Tensor, keep: Tensor | None = None) -> Tensor:
        """[..., E]. The residual counts where ``keep`` [...] is true; everywhere if ``keep`` is None."""
        residual = self.residual[task] if keep is None else self.residual[task] * keep[..., None]
        return cut(self.z[task] @ self.weight.t() + residual)
