"""From backed-up values to scores: mixed value, completed q-values, normalisation, and the choice at inner nodes.

Every function works on any set of nodes at once: shapes are ``[B, ...]`` for nodes and ``[B, ..., c]`` for their
candidates. Functions that a search takes as arguments have variants: ours first, then those of the papers or of mctx.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor


class Nodes(NamedTuple):
    """The statistics of a set of nodes."""

    raw_value: Float[Tensor, "B *n"]  # the network's value
    value: Float[Tensor, "B *n"]  # mean of the returns backed up through the node, raw_value included
    visits: Float[Tensor, "B *n"]  # number of returns in that mean: 1 + the candidates' visits
    prior_logits: Float[Tensor, "B *n c"]
    prior_probs: Float[Tensor, "B *n c"]  # their softmax
    qvalues: Float[Tensor, "B *n c"]  # mean of r + discount * return, 0 where unvisited
    child_visits: Float[Tensor, "B *n c"]


class Bounds(NamedTuple):
    """The least and the greatest return seen in a tree."""

    low: Float[Tensor, " B"]
    high: Float[Tensor, " B"]


MixedValue = Callable[[Nodes], Tensor]
Normalise = Callable[[Tensor, Bounds, float], Tensor]
InnerScore = Callable[[Tensor, Tensor, Tensor], Tensor]


def weighted_qvalue(nodes: Nodes) -> Float[Tensor, "B *n"]:
    """The mean q-value of the visited candidates, weighted by the prior; 0 if none is visited."""
    tiny = torch.finfo(nodes.qvalues.dtype).tiny
    visited = nodes.prior_probs.clamp_min(tiny) * nodes.child_visits.sign()
    return (visited * nodes.qvalues).sum(-1) / visited.sum(-1).clamp_min(tiny)


def mean_mixed_value(nodes: Nodes) -> Float[Tensor, "B *n"]:
    """(V + N q) / (1 + N): V is the node's mean value, N its visits, the first included; V if no child is visited."""
    mixed = (nodes.value + nodes.visits * weighted_qvalue(nodes)) / (1 + nodes.visits)
    return torch.where(nodes.visits > 1, mixed, nodes.value)


def raw_mixed_value(nodes: Nodes) -> Float[Tensor, "B *n"]:
    """(v + n q) / (1 + n) with v the network's value and n the candidates' visits (mctx; Danihelka et al. eq. 33)."""
    child_visits = nodes.visits - 1
    return (nodes.raw_value + child_visits * weighted_qvalue(nodes)) / (1 + child_visits)


def completed_qvalues(nodes: Nodes, mixed_value: MixedValue) -> Float[Tensor, "B *n c"]:
    """The q-values, with the mixed value of the node where a candidate is unvisited."""
    return torch.where(nodes.child_visits.bool(), nodes.qvalues, mixed_value(nodes).unsqueeze(-1))


def normalise_by_tree(qvalues: Float[Tensor, "B *n c"], bounds: Bounds, min_range: float) -> Float[Tensor, "B *n c"]:
    """q-values scaled by the range of all returns in the tree, clipped to [0, 1]; the range is at least min_range."""
    shape = (-1,) + (1,) * (qvalues.ndim - 1)
    low, high = bounds.low.view(shape), bounds.high.view(shape)
    return ((qvalues - low) / (high - low).clamp_min(min_range)).clamp(0, 1)


def normalise_by_node(qvalues: Float[Tensor, "B *n c"], bounds: Bounds, min_range: float) -> Float[Tensor, "B *n c"]:
    """q-values scaled by the range of their own node (mctx). With two candidates a visited one is always 0 or 1."""
    low, high = qvalues.amin(-1, keepdim=True), qvalues.amax(-1, keepdim=True)
    return (qvalues - low) / (high - low).clamp_min(min_range)


def sigma(
    normalised: Float[Tensor, "B *n c"], child_visits: Float[Tensor, "B *n c"], c_visit: float, c_scale: float
) -> Float[Tensor, "B *n c"]:
    """(c_visit + max_b N(b)) c_scale q (Danihelka et al. 2022, eq. 8)."""
    return (c_visit + child_visits.amax(-1, keepdim=True)) * c_scale * normalised


def improved_policy_score(
    prior_logits: Float[Tensor, "*n c"], sigma_q: Float[Tensor, "*n c"], child_visits: Float[Tensor, "*n c"]
) -> Float[Tensor, "*n c"]:
    """softmax(prior + sigma(q))_b - N_b / (1 + N), N the visits of the node, the first included."""
    return (prior_logits + sigma_q).softmax(-1) - child_visits / (2 + child_visits.sum(-1, keepdim=True))


def mctx_score(
    prior_logits: Float[Tensor, "*n c"], sigma_q: Float[Tensor, "*n c"], child_visits: Float[Tensor, "*n c"]
) -> Float[Tensor, "*n c"]:
    """softmax(prior + sigma(q))_b - N_b / (1 + sum N) (Danihelka et al. 2022, eq. 14)."""
    return (prior_logits + sigma_q).softmax(-1) - child_visits / (1 + child_visits.sum(-1, keepdim=True))


def prior_score(
    prior_logits: Float[Tensor, "*n c"], sigma_q: Float[Tensor, "*n c"], child_visits: Float[Tensor, "*n c"]
) -> Float[Tensor, "*n c"]:
    """softmax(prior)_b - N_b / (1 + sum N): the visits depend on the prior only (the paper of EZ-M)."""
    return prior_logits.softmax(-1) - child_visits / (1 + child_visits.sum(-1, keepdim=True))
