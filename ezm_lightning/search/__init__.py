"""Batched Gumbel search over discrete candidates (Danihelka et al. 2022), one call of the model per round of visits.

It knows no actions, tasks or networks: continuous candidate actions ride inside the embedding. ``gumbel_search`` is
the one in use, ``sequential_search`` the plain one beside it.
"""

from ezm_lightning.search.gumbel import RecurrentFn, RecurrentOutput, RootOutput, SearchResult, gumbel_search
from ezm_lightning.search.qtransforms import (
    Bounds,
    InnerScore,
    MixedValue,
    Nodes,
    Normalise,
    improved_policy_score,
    mctx_score,
    mean_mixed_value,
    normalise_by_node,
    normalise_by_tree,
    prior_score,
    raw_mixed_value,
)
from ezm_lightning.search.seq_halving import considered_visits, halving_rounds
from ezm_lightning.search.sequential import each_halving, each_round, each_simulation, sequential_search

__all__ = [
    "Bounds",
    "InnerScore",
    "MixedValue",
    "Nodes",
    "Normalise",
    "RecurrentFn",
    "RecurrentOutput",
    "RootOutput",
    "SearchResult",
    "considered_visits",
    "each_halving",
    "each_round",
    "each_simulation",
    "gumbel_search",
    "halving_rounds",
    "improved_policy_score",
    "mctx_score",
    "mean_mixed_value",
    "normalise_by_node",
    "normalise_by_tree",
    "prior_score",
    "raw_mixed_value",
    "sequential_search",
]
