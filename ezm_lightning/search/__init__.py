"""Batched Gumbel search over discrete candidates (Danihelka et al. 2022), one call of the model per round of visits.

It knows no actions, tasks or networks: continuous candidate actions ride inside the embedding. ``gumbel_search`` is
the search; the tests compare it with a sequential one and with mctx.
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
    "gumbel_search",
    "halving_rounds",
    "improved_policy_score",
    "mctx_score",
    "mean_mixed_value",
    "normalise_by_node",
    "normalise_by_tree",
    "prior_score",
    "raw_mixed_value",
]
