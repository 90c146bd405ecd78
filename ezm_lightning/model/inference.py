"""What a planner calls in a world model: inference at an observation, and after an action. Two classes implement it.

``WorldModel`` is the plain form, which learns. ``packed.PackedModel`` is the fast form, for search only.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from torch import Tensor


class InitialInference(NamedTuple):
    """The model at B observations."""

    latent: Tensor  # [B, Z]
    head_values: Tensor  # [B, V], decoded, of every value head
    policy_input: Tensor  # [B, P], the input of ``policy``; only the model knows its meaning


class RecurrentInference(NamedTuple):
    """The model one step later, for k rows per root."""

    reward: Tensor  # [B, k]
    latent: Tensor  # [B, k, Z]
    head_values: Tensor  # [B, k, h], decoded, of the chosen heads
    policy_input: Tensor  # [B, k, P]


class Inference(Protocol):
    """A world model as a planner sees it, in eval mode."""

    action_mask: Tensor  # [T, A]

    @property
    def num_value_heads(self) -> int: ...

    def embed(self, task: Tensor) -> Tensor:
        """The task embedding [B, E] of tasks [B]."""
        ...

    def initial_inference(self, obs: Tensor, task: Tensor) -> InitialInference:
        """The model at obs [B, D] of tasks [B]."""
        ...

    def represent_policy(self, obs: Tensor, task: Tensor) -> tuple[Tensor, Tensor]:
        """The latent [B, Z] and the ``policy_input`` [B, P] at obs [B, D] of tasks [B]; no value head is read."""
        ...

    def represent(self, obs: Tensor, task: Tensor) -> Tensor:
        """The latent [B, Z] of obs [B, D] of tasks [B]."""
        ...

    def latent_inference(self, latent: Tensor, embedding: Tensor) -> InitialInference:
        """The model at latents [B, Z], encoded or predicted; embedding [B, E]."""
        ...

    def recurrent_inference(
        self, latent: Tensor, action: Tensor, embedding: Tensor, heads: Tensor
    ) -> RecurrentInference:
        """The model after ``action`` [B, k, A] in ``latent`` [B, k, Z]; embedding [B, E].

        Column j of the rows reads the value heads ``heads[j]``, [k, h] int64.
        """
        ...

    def policy(self, policy_input: Tensor) -> tuple[Tensor, Tensor]:
        """Mean (before tanh) and log σ, each [..., A], of a ``policy_input`` [..., P]."""
        ...
