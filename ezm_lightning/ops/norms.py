"""Layer norm without an affine map, as fast as PyTorch's with one."""

from __future__ import annotations

import torch
from torch import Tensor

LARGE = 2**14  # elements from which on the two more allocations pay off


def layer_norm(x: Tensor, eps: float = 1e-5) -> Tensor:
    """(x − mean)/√(var + eps) over the last axis.

    With an affine map PyTorch 2.13 takes two thirds of the time on a CPU. So a large input gets the identity map: the
    result and its gradient have the same bits.
    """
    width = x.shape[-1]
    if x.device.type == "cpu" and not torch.compiler.is_compiling() and x.numel() >= LARGE:
        return torch.layer_norm(x, (width,), x.new_ones(width), x.new_zeros(width), eps)
    return torch.layer_norm(x, (width,), eps=eps)
