"""Changes to the gradient of a tensor that leave its value as it is."""

from __future__ import annotations

from torch import Tensor


def scale_gradient(x: Tensor, scale: float) -> Tensor:
    """x, with its gradient multiplied by ``scale`` (MuZero appendix G)."""
    return x * scale + x.detach() * (1 - scale)
