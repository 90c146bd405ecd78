"""Layer norm without an affine map, at the speed of the one that has one."""

from __future__ import annotations

import torch
from torch import Tensor

LARGE = 2**14  # elements from which two more allocations are worth their time


def layer_norm(x: Tensor, eps: float = 1e-5) -> Tensor:
    """(x − mean)/√(var + eps) over the last axis.

    PyTorch's kernel for CPUs takes two thirds of the time if it is given an affine map (2.13), so that large inputs get
    the one that changes nothing: the result and its gradient have the same bits.
    """
    width = x.shape[-1]
    if x.device.type == "cpu" and not torch.compiler.is_compiling() and x.numel() >= LARGE:
        return torch.layer_norm(x, (width,), x.new_ones(width), x.new_zeros(width), eps)
    return torch.layer_norm(x, (width,), eps=eps)
