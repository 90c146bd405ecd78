"""Targets of the policy: actions of a search and their weights. Choose with ``policy_target=...``."""

from __future__ import annotations

from torch import Tensor

from ezm_lightning.ranges import Positive
from ezm_lightning.types import SearchOutput


class BestAction:
    """Only the search's best action: maximum likelihood (EZ-M eq. 6)."""

    def __call__(self, search: SearchOutput) -> tuple[Tensor, Tensor]:
        """Actions [..., 1, A] and weights [..., 1]."""
        action = search.best_action[..., None, :]
        return action, action.new_ones(action.shape[:-1])


class ImprovedPolicy:
    """All root candidates, weighted by the search's improved policy (EZ-M eq. 5; Danihelka et al. 2022, eq. 11).

    The weights are softmax(score / ``temperature``): the search's own at 1, all weight on the best score towards 0.
    """

    def __init__(self, *, temperature: Positive = 1.0) -> None:
        if temperature <= 0:
            raise ValueError(f"policy_target.temperature={temperature} must be positive; 1 takes the search's weights")
        self.temperature = temperature

    def __call__(self, search: SearchOutput) -> tuple[Tensor, Tensor]:
        """Actions [..., C, A] and weights [..., C], which sum to 1."""
        return search.candidates, (search.action_weights.log() / self.temperature).softmax(-1)
