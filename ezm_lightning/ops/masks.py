"""Tasks of different widths in one batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor


def width_masks(dims: Sequence[int]) -> Float[Tensor, "T width"]:
    """1 in the first ``dims[τ]`` columns of row τ, else 0; as wide as the widest."""
    return (torch.arange(max(dims)) < torch.tensor(list(dims))[:, None]).float()
