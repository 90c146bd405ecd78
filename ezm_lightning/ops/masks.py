"""Tasks of different widths in one batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor


def width_masks(dims: Sequence[int], least: int = 0) -> Float[Tensor, "T width"]:
    """1 in the first ``dims[τ]`` columns of row τ, else 0; as wide as the widest, and at least ``least``."""
    return (torch.arange(max(*dims, least)) < torch.tensor(list(dims))[:, None]).float()
