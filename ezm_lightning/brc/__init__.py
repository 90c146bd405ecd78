"""BRC, the second agent: model-free, a wide categorical critic for all tasks (Nauman et al. 2025, arXiv 2505.23150).

``module`` is the algorithm on one screen; ``networks``, ``losses`` and ``reward_scale`` are its parts.
"""

from ezm_lightning.brc.module import BRC

__all__ = ["BRC"]
