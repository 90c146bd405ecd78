"""What a backward pass sees of a tensor."""

from __future__ import annotations

from torch import Tensor


def scale_gradient(x: Tensor, scale: float) -> Tensor:
    """x, with its gradient multiplied by ``scale`` (MuZero appendix G)."""
    return x * scale + x.detach() * (1 - scale)
