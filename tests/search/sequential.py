"""Gumbel search one simulation at a time: the plain form, and the oracle of ``gumbel_search``.

A tree of arrays and pointers as in mctx (``_src/search.py``): walk down, ask the model, walk up. Slow and easy to
check. Two clocks, passed in as functions, say when it looks at what the subtrees share:

    ================  ================  ===================
    bounds            ranking of root   gives
    ================  ================  ===================
    each_round        each_halving      ``gumbel_search``
    each_simulation   each_halving      the authors of EZ-M
    each_simulation   each_simulation   mctx
    ================  ================  ===================
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from ezm_lightning.search.gumbel import RecurrentFn, RecurrentOutput, RootOutput, SearchResult, conclude
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
from ezm_lightning.search.seq_halving import considered_visits

NONE = -1  # no child, or: the parent is the root

Clock = Callable[[Sequence[int], int], bool]


def each_simulation(schedule: Sequence[int], simulation: int) -> bool:
    """True: before every simulation."""
    return True


def each_round(schedule: Sequence[int], simulation: int) -> bool:
    """Whether a round of visits begins with this simulation."""
    return simulation == 0 or schedule[simulation] != schedule[simulation - 1]


def each_halving(schedule: Sequence[int], simulation: int) -> bool:
    """Whether this simulation begins a round over fewer candidates than the one before."""
    return simulation == 0 or schedule.count(schedule[simulation]) < schedule.count(schedule[simulation - 1])


@dataclass
class Tree:
    """B trees. Node s was made by simulation s; the root is apart, as it has its own number of candidates."""

    root_value: Float[Tensor, " B"]
    root_prior_logits: Float[Tensor, "B C"]
    root_return: Float[Tensor, " B"]  # sum of all returns
    root_children: Int64[Tensor, "B C"]
    bounds: Bounds
    discount: float
    parent: Int64[Tensor, "B N"]
    reward: Float[Tensor, "B N"]  # on the way into the node
    raw_value: Float[Tensor, "B N"]
    value: Float[Tensor, "B N"]  # mean of the node's returns, raw_value included
    visits: Float[Tensor, "B N"]
    prior_logits: Float[Tensor, "B N c"]
    children: Int64[Tensor, "B N c"]

    def edges(self, children: Int64[Tensor, "B c"]) -> tuple[Float[Tensor, "B c"], Float[Tensor, "B c"]]:
        """q-values and visits of the candidates that lead to these children; 0 where there is none."""
        index = children.clamp_min(0)
        qvalues = self.reward.gather(1, index) + self.discount * self.value.gather(1, index)
        return qvalues * (children != NONE), self.visits.gather(1, index) * (children != NONE)

    def root_node(self) -> Nodes:
        """What is known of the roots."""
        qvalues, child_visits = self.edges(self.root_children)
        visits = 1 + child_visits.sum(-1)
        value, logits = (self.root_value + self.root_return) / visits, self.root_prior_logits
        return Nodes(self.root_value, value, visits, logits, logits.softmax(-1), qvalues, child_visits)

    def node(self, index: Int64[Tensor, "B 1"]) -> Nodes:
        """What is known of one node of each tree."""
        raw_value, value, visits = (at(x, index) for x in (self.raw_value, self.value, self.visits))
        qvalues, child_visits = self.edges(at(self.children, index))
        logits = at(self.prior_logits, index)
        return Nodes(raw_value, value, visits, logits, logits.softmax(-1), qvalues, child_visits)

    def expand_(self, simulation: int, parent: Int64[Tensor, "B 1"], output: RecurrentOutput) -> None:
        """Add the node that this simulation made below this parent."""
        if simulation == 0:  # the first output tells how many candidates a node has
            shape = (*self.parent.shape, output.prior_logits.shape[-1])
            self.prior_logits = self.value.new_zeros(shape)
            self.children = self.parent.new_full(shape, NONE)
        self.parent[:, simulation] = parent[:, 0]
        self.reward[:, simulation] = output.reward[:, 0]
        self.raw_value[:, simulation] = output.value[:, 0]
        self.value[:, simulation] = output.value[:, 0]
        self.visits[:, simulation] = 1
        self.prior_logits[:, simulation] = output.prior_logits[:, 0]

    def backup_(self, simulation: int, depth: int) -> None:
        """Carry the new node's value to the root, at most depth edges up."""
        node = torch.full_like(self.parent[:, :1], simulation)
        returns = self.raw_value[:, simulation, None]
        low, high = (x[:, None] for x in self.bounds)
        for _ in range(depth):
            below_root, index = node != NONE, node.clamp_min(0)
            returns = torch.where(below_root, self.reward.gather(1, index) + self.discount * returns, returns)
            low, high = torch.minimum(low, returns), torch.maximum(high, returns)
            node = torch.where(below_root, self.parent.gather(1, index), node)
            self.count_(node, returns)
        self.root_return += returns[:, 0]
        low, high = torch.minimum(low, self.discount * returns), torch.maximum(high, self.discount * returns)
        self.bounds = Bounds(low[:, 0], high[:, 0])

    def count_(self, node: Int64[Tensor, "B 1"], returns: Float[Tensor, "B 1"]) -> None:
        """Average one more return into these nodes; the root (NONE) is left out."""
        index, visit = node.clamp_min(0), (node != NONE).to(returns.dtype)
        value, visits = self.value.gather(1, index), self.visits.gather(1, index)
        self.value.scatter_(1, index, value + visit * (returns - value) / (visits + 1))
        self.visits.scatter_add_(1, index, visit)


@torch.no_grad()
def sequential_search(
    root: RootOutput,
    recurrent_fn: RecurrentFn,
    *,
    num_simulations: int,
    max_num_considered_actions: int,
    discount: float,
    gumbel: Float[Tensor, "B C"],
    c_visit: float = 50.0,
    c_scale: float = 0.1,
    min_range: float = 0.01,
    inner_score: InnerScore = improved_policy_score,
    mixed_value: MixedValue = mean_mixed_value,
    normalise: Normalise = normalise_by_tree,
    look_at_bounds: Clock = each_round,
    rank_candidates: Clock = each_halving,
) -> SearchResult:
    """What ``gumbel_search`` finds, one simulation and one row of the model (k = 1) at a time.

    With both clocks ``each_simulation`` and mctx's inner score, mixed value and normalisation it is mctx's search.
    """
    schedule = considered_visits(num_simulations, min(max_num_considered_actions, root.prior_logits.shape[1]))
    tree = make_tree(root, num_simulations, discount)
    bounds = tree.bounds
    order = torch.arange(gumbel.shape[1], device=gumbel.device).expand(gumbel.shape)
    embeddings: list[dict[str, Tensor]] = []

    def sigma_q(nodes: Nodes) -> Tensor:
        completed = completed_qvalues(nodes, mixed_value)
        return sigma(normalise(completed, bounds, min_range), nodes.child_visits, c_visit, c_scale)

    for simulation, visits in enumerate(schedule):
        if look_at_bounds(schedule, simulation):
            bounds = tree.bounds
        nodes = tree.root_node()
        if rank_candidates(schedule, simulation):
            order = best_first(gumbel + nodes.prior_logits + sigma_q(nodes), order)
        candidate = first_with(visits, nodes.child_visits, order)
        if visits == 0:
            parent, choice = torch.full_like(candidate, NONE), candidate
            tree.root_children.scatter_(1, candidate, simulation)
            embedding = {name: x[:, None] for name, x in root.embedding.items()}
        else:
            parent, choice = walk(tree, candidate, visits, sigma_q, inner_score)
            tree.children[torch.arange(len(parent)), parent[:, 0], choice[:, 0]] = simulation
            embedding = look_up(embeddings, parent)
        output = recurrent_fn(embedding, choice, range(simulation, simulation + 1))
        embeddings.append(output.embedding)
        tree.expand_(simulation, parent, output)
        tree.backup_(simulation, depth=visits + 1)
    bounds = tree.bounds
    roots = tree.root_node()
    return conclude(roots, completed_qvalues(roots, mixed_value), sigma_q(roots), gumbel)


def walk(
    tree: Tree,
    candidate: Int64[Tensor, "B 1"],
    depth: int,
    sigma_q: Callable[[Nodes], Tensor],
    inner_score: InnerScore,
) -> tuple[Int64[Tensor, "B 1"], Int64[Tensor, "B 1"]]:
    """The node at which the walk below a visited candidate of the root leaves the tree, and its choice there."""
    below = tree.root_children.gather(1, candidate)
    for _ in range(depth):  # a candidate visited this often has no deeper nodes
        node = below
        nodes = tree.node(node)
        choice = inner_score(nodes.prior_logits, sigma_q(nodes), nodes.child_visits).argmax(-1, keepdim=True)
        child = at(tree.children, node).gather(1, choice)
        below = torch.where(child == NONE, node, child)
    return node, choice


def best_first(scores: Float[Tensor, "B C"], order: Int64[Tensor, "B C"]) -> Int64[Tensor, "B C"]:
    """The candidates by falling score; equal ones stay in their order."""
    return order.gather(1, scores.gather(1, order).argsort(dim=-1, descending=True, stable=True))


def first_with(visits: int, child_visits: Float[Tensor, "B C"], order: Int64[Tensor, "B C"]) -> Int64[Tensor, "B 1"]:
    """The first candidate in this order with this number of visits."""
    return order.gather(1, (child_visits.gather(1, order) == visits).long().argmax(-1, keepdim=True))


def at(x: Tensor, index: Int64[Tensor, "B 1"]) -> Tensor:
    """x[b, index[b]]."""
    return x[torch.arange(len(x), device=x.device), index[:, 0]]


def look_up(embeddings: list[dict[str, Tensor]], node: Int64[Tensor, "B 1"]) -> dict[str, Tensor]:
    """The embeddings of these nodes: [B, 1, ...]."""
    return {name: at(torch.cat([x[name] for x in embeddings], 1), node)[:, None] for name in embeddings[0]}


def make_tree(root: RootOutput, num_simulations: int, discount: float) -> Tree:
    """Trees without nodes. Statistics are float32 at least."""
    dtype = torch.promote_types(root.value.dtype, torch.float32)
    value, prior_logits = root.value.to(dtype), root.prior_logits.to(dtype)
    nodes = value.new_zeros(len(value), num_simulations)
    extreme = torch.full_like(value, torch.inf)
    return Tree(
        root_value=value,
        root_prior_logits=prior_logits,
        root_return=torch.zeros_like(value),
        root_children=torch.full_like(prior_logits, NONE, dtype=torch.long),
        bounds=Bounds(extreme, -extreme),
        discount=discount,
        parent=torch.full_like(nodes, NONE, dtype=torch.long),
        reward=nodes.clone(),
        raw_value=nodes.clone(),
        value=nodes.clone(),
        visits=nodes.clone(),
        prior_logits=nodes[..., None].expand(-1, -1, 0),
        children=torch.full_like(nodes, NONE, dtype=torch.long)[..., None].expand(-1, -1, 0),
    )
