"""The random seed and generator of each rank."""

from __future__ import annotations

import numpy as np
import torch


def rank_seed(seed: int, rank: int) -> int:
    """The seed of a rank. Two runs whose seeds differ by less than 1000 have no rank seed in common.

    After every ten ranks 10,000 are left out, which are the seeds of evaluations (``evaluation_seed``).
    """
    return seed + 1000 * rank + 10_000 * (rank // 10)


def later_seed(seed: int, env_steps: int) -> int:
    """The seed of what begins anew after ``env_steps`` simulator steps of a run, in [0, 2^32)."""
    return int(np.random.SeedSequence([seed, env_steps]).generate_state(1)[0])


def rank_generator(seed: int, rank: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A new generator of a rank on a device."""
    return torch.Generator(device=device).manual_seed(rank_seed(seed, rank))
