"""Batched Gumbel search in which each round of visits is one call of the model.

Danihelka et al. 2022 with the sampled candidates of EfficientZero-V2. The candidates of a root share the bounds of all
returns and the choice of survivors. Both are fixed during a round, so the subtrees grow side by side.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from ezm_lightning.search.qtransforms import (
    Bounds,
    InnerScore,
    MixedValue,
    Nodes,
    Normalise,
    completed_qvalues,
    improved_policy_score,
    mean_mixed_value,
    normalise_by_tree,
    sigma,
)
from ezm_lightning.search.seq_halving import halving_rounds
from ezm_lightning.search.tree import RootEdges, Subtrees, flat_rows, make_subtrees, rows_at


@dataclass
class RootOutput:
    """The model at the root."""

    prior_logits: Float[Tensor, "B C"]
    value: Float[Tensor, " B"]
    embedding: dict[str, Tensor]  # each [B, ...]


@dataclass
class RecurrentOutput:
    """The model one step later, for k rows per root."""

    reward: Float[Tensor, "B k"]
    value: Float[Tensor, "B k"]
    prior_logits: Float[Tensor, "B k c"]
    embedding: dict[str, Tensor]  # each [B, k, ...]


@dataclass
class SearchResult:
    """The result of a search at each root."""

    best_candidate: Int64[Tensor, " B"]
    search_value: Float[Tensor, " B"]  # mean return, the network's value included
    qvalues: Float[Tensor, "B C"]  # completed: the mixed value where unvisited
    scores: Float[Tensor, "B C"]  # prior_logits + sigma(q), without Gumbel noise
    action_weights: Float[Tensor, "B C"]  # softmax of the scores
    visit_counts: Int64[Tensor, "B C"]


RecurrentFn = Callable[[dict[str, Tensor], Tensor, range], RecurrentOutput]


@torch.no_grad()
def gumbel_search(
    root: RootOutput,
    recurrent_fn: RecurrentFn,
    *,
    num_simulations: int,
    max_num_considered_actions: int,
    discount: float | Float[Tensor, " B"],
    gumbel: Float[Tensor, "B C"],
    c_visit: float = 50.0,
    c_scale: float = 0.1,
    min_range: float = 0.01,
    inner_score: InnerScore = improved_policy_score,
    mixed_value: MixedValue = mean_mixed_value,
    normalise: Normalise = normalise_by_tree,
) -> SearchResult:
    """The result of a search at B roots, which calls the model once per round of visits.

    recurrent_fn(embedding, candidate, simulations) evaluates k rows per root: ``embedding`` [B, k, ...] of the parents,
    ``candidate`` [B, k], the index of each row among its parent's candidates, and ``simulations``, the k indices of the
    rows (for noise drawn beforehand). In the first round all parents are roots, in later rounds none is. The embeddings
    of the last round are not read. discount must be in (0, 1]; a tensor of one per root [B] is not checked. All
    randomness is in gumbel [B, C] (zeros for none) and in recurrent_fn.
    """
    if isinstance(discount, Tensor):
        discount = discount.to(root.value.dtype)[:, None, None]
    elif not 0 < discount <= 1:
        raise ValueError(f"discount={discount} is not in (0, 1]")
    rounds = halving_rounds(num_simulations, min(max_num_considered_actions, root.prior_logits.shape[1]))
    edges = start(root)

    def complete(nodes: Nodes) -> Tensor:
        return completed_qvalues(nodes, mixed_value)

    def sigma_q(nodes: Nodes, completed: Tensor) -> Tensor:
        return sigma(normalise(completed, edges.bounds, min_range), nodes.child_visits, c_visit, c_scale)

    noisy_prior = gumbel + edges.prior_logits
    candidate, simulations = best_first(noisy_prior, rounds[0]), range(rounds[0])
    output = recurrent_fn(repeat(root.embedding, rounds[0]), candidate, simulations)
    subtrees = plant(edges, candidate, output, size=max(1, len(rounds) - 1), discount=discount)
    pool = make_pool(output.embedding, num_simulations)
    for considered in rounds[1:]:
        if considered < candidate.shape[1]:
            roots = edges.nodes()
            scores = noisy_prior + sigma_q(roots, complete(roots))
            position = best_first(scores.gather(1, candidate), considered)
            candidate, subtrees = candidate.gather(1, position), subtrees.keep(position)
        nodes = subtrees.nodes()
        choice = inner_score(nodes.prior_logits, sigma_q(nodes, complete(nodes)), nodes.child_visits).argmax(-1)
        parent = subtrees.leaf(choice)
        simulations = range(simulations.stop, simulations.stop + considered)
        embedding = look_up(pool, subtrees.simulation.gather(-1, parent).squeeze(-1))
        output = recurrent_fn(embedding, choice.gather(-1, parent).squeeze(-1), simulations)
        edges.record_(candidate, grow_(subtrees, choice, parent, output, simulations, discount), discount)
        if simulations.stop < num_simulations:
            write_(pool, output.embedding, simulations)
    roots = edges.nodes()
    completed = complete(roots)
    return conclude(roots, completed, sigma_q(roots, completed), gumbel)


def start(root: RootOutput) -> RootEdges:
    """The roots before their first visit. Statistics are at least float32, whatever the network's dtype."""
    dtype = torch.promote_types(root.value.dtype, torch.float32)
    prior_logits, value = root.prior_logits.to(dtype), root.value.to(dtype)
    nothing = torch.full_like(value, torch.inf)
    zeros = torch.zeros_like(prior_logits)
    return RootEdges(value, prior_logits, prior_logits.softmax(-1), zeros, zeros.clone(), Bounds(nothing, -nothing))


def plant(
    edges: RootEdges, candidate: Int64[Tensor, "B k"], output: RecurrentOutput, *, size: int, discount: float | Tensor
) -> Subtrees:
    """Subtrees of one node each, after the first visit of these candidates."""
    dtype = edges.raw_value.dtype
    reward, value = output.reward.to(dtype), output.value.to(dtype)
    edges.record_(candidate, reward.unsqueeze(-1) + discount * value.unsqueeze(-1), discount)
    subtrees = make_subtrees(candidate, size, output.prior_logits.shape[-1], dtype)
    root = torch.zeros(1 + size, dtype=dtype, device=value.device)
    root[:1] = 1  # root[0] = 1 would copy the number from the host and wait for it
    rewards = root * reward.unsqueeze(-1)
    decay = (discount * root).expand_as(rewards)
    subtrees.append_(rewards, decay, value.unsqueeze(-1), output.prior_logits, range(candidate.shape[1]))
    return subtrees


def grow_(
    subtrees: Subtrees,
    choice: Int64[Tensor, "B k size"],
    parent: Int64[Tensor, "B k 1"],
    output: RecurrentOutput,
    simulations: range,
    discount: float | Tensor,
) -> Float[Tensor, "B k path"]:
    """The return of one more visit of each subtree, at the root and at every node on the path.

    The new node is the child of its parent's chosen candidate. Nodes that are not on the path get the root's return.
    """
    dtype = subtrees.raw_value.dtype
    reward, value = output.reward.to(dtype).unsqueeze(-1), output.value.to(dtype).unsqueeze(-1)
    rewards, decay = subtrees.path(parent)
    returns = rewards + decay * (reward + discount * value)
    on_path = decay.sign()
    if subtrees.num_nodes < subtrees.numbers.shape[2]:  # the last round stores no node, since nothing follows
        subtrees.backup_(choice, on_path, returns)
        subtrees.hang_(parent, choice)
        subtrees.append_(rewards + decay * reward, discount * decay, value, output.prior_logits, simulations)
    return torch.where(on_path.bool(), returns, returns[..., :1])


def conclude(
    roots: Nodes,
    completed: Float[Tensor, "B C"],
    sigma_q: Float[Tensor, "B C"],
    gumbel: Float[Tensor, "B C"],
) -> SearchResult:
    """The result; its best candidate has the highest score with Gumbel noise among the most visited."""
    scores = roots.prior_logits + sigma_q
    most_visited = roots.child_visits == roots.child_visits.amax(-1, keepdim=True)
    return SearchResult(
        best_candidate=torch.where(most_visited, scores + gumbel, -torch.inf).argmax(-1),
        search_value=roots.value,
        qvalues=completed,
        scores=scores,
        action_weights=scores.softmax(-1),
        visit_counts=roots.child_visits.long(),
    )


def best_first(scores: Float[Tensor, "B C"], k: int) -> Int64[Tensor, "B k"]:
    """The positions of the k greatest scores in descending order; equal scores keep their order."""
    return scores.argsort(dim=-1, descending=True, stable=True)[:, :k]


def repeat(embedding: dict[str, Tensor], k: int) -> dict[str, Tensor]:
    """A view that repeats each of B rows k times: [B, k, ...]."""
    return {name: x.unsqueeze(1).expand(-1, k, *x.shape[1:]) for name, x in embedding.items()}


def make_pool(embedding: dict[str, Tensor], num_simulations: int) -> dict[str, Tensor]:
    """Memory for the embeddings of all simulations [B, N, ...]; the first are ``embedding``."""
    pool = {name: x.new_empty(x.shape[0], num_simulations, *x.shape[2:]) for name, x in embedding.items()}
    write_(pool, embedding, range(next(iter(embedding.values())).shape[1]))
    return pool


def write_(pool: dict[str, Tensor], embedding: dict[str, Tensor], simulations: range) -> None:
    """Writes the embeddings of these simulations to the pool."""
    for name, x in embedding.items():
        pool[name][:, simulations.start : simulations.stop] = x


def look_up(pool: dict[str, Tensor], simulation: Int64[Tensor, "B k"]) -> dict[str, Tensor]:
    """The embeddings of these simulations: [B, k, ...]."""
    rows = flat_rows(simulation, width=next(iter(pool.values())).shape[1])
    return {name: rows_at(x, rows) for name, x in pool.items()}
