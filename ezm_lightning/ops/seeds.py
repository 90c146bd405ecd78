"""The random seed and generator of each rank."""

from __future__ import annotations

import torch


def rank_seed(seed: int, rank: int) -> int:
    """The seed of a rank. Two runs whose seeds differ by less than 1000 have no rank seed in common.

    After every ten ranks 10,000 are left out, which are the seeds of evaluations (``evaluation_seed``).
    """
    return seed + 1000 * rank + 10_000 * (rank // 10)


def rank_generator(seed: int, rank: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A new generator of a rank on a device."""
    return torch.Generator(device=device).manual_seed(rank_seed(seed, rank))
