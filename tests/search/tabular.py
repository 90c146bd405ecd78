"""A random tabular model: states, candidates, rewards and values drawn from a seed."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ezm_lightning.search import RecurrentOutput, RootOutput


@dataclass
class Tabular:
    """``num_states`` states with one action set; the root may offer more candidates than inner nodes do."""

    next_state: Tensor  # [S, C]
    reward: Tensor  # [S, C]
    value: Tensor  # [S]
    prior_logits: Tensor  # [S, c]
    root_logits: Tensor  # [B, C]
    root_state: Tensor  # [B]
    noise: Tensor  # [N], added to the value that simulation s returns

    def root(self) -> RootOutput:
        return RootOutput(self.root_logits, self.value[self.root_state], {"state": self.root_state})

    def recurrent_fn(self, embedding: dict[str, Tensor], candidate: Tensor, simulations: range) -> RecurrentOutput:
        state = embedding["state"]
        after = self.next_state[state, candidate]
        value = self.value[after] + self.noise[simulations.start : simulations.stop]
        return RecurrentOutput(self.reward[state, candidate], value, self.prior_logits[after], {"state": after})


def make_tabular(
    seed: int,
    *,
    batch: int = 16,
    candidates: int = 4,
    leaf_candidates: int = 2,
    num_states: int = 50,
    noise: float = 0.0,
    prior_scale: float = 1.0,
    num_simulations: int = 64,
) -> Tabular:
    """A model and ``batch`` roots, float64."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    logits = prior_scale * normal(num_states, leaf_candidates)
    root_state = torch.randint(num_states, (batch,), generator=generator)
    same = candidates == leaf_candidates
    return Tabular(
        next_state=torch.randint(num_states, (num_states, candidates), generator=generator),
        reward=normal(num_states, candidates),
        value=3 * normal(num_states),
        prior_logits=logits,
        root_logits=logits[root_state] if same else prior_scale * normal(batch, candidates),
        root_state=root_state,
        noise=noise * normal(num_simulations),
    )


def make_gumbel(seed: int, shape: tuple[int, int]) -> Tensor:
    """Gumbel noise, float64."""
    uniform = torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return -torch.log(-torch.log(uniform))
