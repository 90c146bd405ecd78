"""The memory of a search: the root's candidates, and the subtrees of the candidates that are still considered.

Before round r every considered candidate has been visited r times, so its subtree has exactly r nodes, in order of
visit. Two small matrices replace pointers (i, j are nodes, γ the discount)::

    decay[i, j]   = γ^(depth_i - depth_j)                         if j is i or an ancestor of i, else 0
    rewards[i, j] = discounted rewards on the path from j to i    if j is i or an ancestor of i, else 0

so a return x from below node i is worth ``rewards[i, j] + decay[i, j] * x`` at j. Column 0 of both is the root, column
1 + j is node j. No parent is looked up, nothing is copied to the host, and every shape is known beforehand.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from ezm_lightning.search.qtransforms import Bounds, Nodes


@dataclass
class RootEdges:
    """The candidates of B roots, and the bounds of all returns in their trees."""

    raw_value: Float[Tensor, " B"]
    prior_logits: Float[Tensor, "B C"]
    prior_probs: Float[Tensor, "B C"]
    visits: Float[Tensor, "B C"]
    return_sum: Float[Tensor, "B C"]
    bounds: Bounds

    def nodes(self) -> Nodes:
        """The statistics of the roots."""
        return summarise(self.raw_value, self.prior_logits, self.prior_probs, self.visits, self.return_sum)

    def record_(
        self, candidate: Int64[Tensor, "B k"], returns: Float[Tensor, "B k path"], discount: float | Tensor
    ) -> None:
        """Counts one visit of each candidate. ``returns[..., 0]`` is the root's, the rest belong to its descendants."""
        into_root = returns[..., 0]
        self.visits.scatter_add_(1, candidate, torch.ones_like(into_root))
        self.return_sum.scatter_add_(1, candidate, into_root)
        low, high = torch.cat((returns, discount * returns[..., :1]), -1).flatten(1).aminmax(dim=-1)
        self.bounds = Bounds(torch.minimum(self.bounds.low, low), torch.maximum(self.bounds.high, high))


class Subtrees:
    """k subtrees per root, each with memory for ``size`` nodes, of which the first ``num_nodes`` exist.

    All numbers of a node lie side by side in one tensor and all links of a subtree in another; the fields are views
    of these. So one call writes a node, and one call moves subtrees. Values of nodes that do not exist are never read.
    """

    rewards: Float[Tensor, "B k size up"]  # up = 1 + size: the root and the nodes
    decay: Float[Tensor, "B k size up"]
    raw_value: Float[Tensor, "B k size 1"]
    prior_logits: Float[Tensor, "B k size c"]
    prior_probs: Float[Tensor, "B k size c"]
    edge_visits: Float[Tensor, "B k size c"]
    edge_return: Float[Tensor, "B k size c"]  # sum of the node's returns through this candidate
    child: Int64[Tensor, "B k size*c"]  # at i c + j the child of node i through its candidate j; i if there is none
    simulation: Int64[Tensor, "B k size"]  # the simulation that made the node

    def __init__(self, numbers: Float[Tensor, "B k size n"], links: Int64[Tensor, "B k l"], num_nodes: int) -> None:
        self.numbers, self.links, self.num_nodes = numbers, links, num_nodes
        size = numbers.shape[2]
        c = links.shape[-1] // size - 1  # c children and a simulation for each node
        self.rewards, self.decay, self.raw_value, *of_edges = numbers.split((1 + size, 1 + size, 1, c, c, c, c), -1)
        self.prior_logits, self.prior_probs, self.edge_visits, self.edge_return = of_edges
        self.child, self.simulation = links.split((size * c, size), -1)

    def keep(self, position: Int64[Tensor, "B new"]) -> "Subtrees":
        """The subtrees at these positions, in this order."""
        rows = flat_rows(position, width=self.links.shape[1])
        return Subtrees(rows_at(self.numbers, rows), rows_at(self.links, rows), self.num_nodes)

    def nodes(self) -> Nodes:
        """The statistics of every node."""
        return summarise(
            self.raw_value.squeeze(-1), self.prior_logits, self.prior_probs, self.edge_visits, self.edge_return
        )

    def edge(self, choice: Int64[Tensor, "B k size"]) -> Int64[Tensor, "B k size"]:
        """The position in ``child`` of the chosen candidate of each node."""
        edges = self.child.shape[-1]
        return choice + torch.arange(0, edges, edges // choice.shape[-1], device=choice.device)

    def leaf(self, choice: Int64[Tensor, "B k size"]) -> Int64[Tensor, "B k 1"]:
        """The last node of the walk from the top in which every node follows its choice."""
        step = self.child.gather(-1, self.edge(choice))
        for _ in range(max(0, self.num_nodes - 2).bit_length()):  # a turn doubles the length of every step
            step = step.gather(-1, step)
        return step[..., :1]

    def path(self, node: Int64[Tensor, "B k 1"]) -> tuple[Tensor, Tensor]:
        """Rows ``node`` of ``rewards`` and of ``decay`` ([B, k, up])."""
        index = node.unsqueeze(-1).expand(-1, -1, -1, self.numbers.shape[-1])
        row = self.numbers.gather(2, index).squeeze(2)
        up = self.decay.shape[-1]
        return row[..., :up], row[..., up : 2 * up]

    def backup_(
        self,
        choice: Int64[Tensor, "B k size"],
        on_path: Float[Tensor, "B k up"],
        returns: Float[Tensor, "B k up"],
    ) -> None:
        """Counts one visit of the choice of every node on the path, and adds its return.

        on_path is 1 on the path; elsewhere both are 0.
        """
        choice = choice.unsqueeze(-1)
        self.edge_visits.scatter_add_(-1, choice, on_path[..., 1:, None])
        self.edge_return.scatter_add_(-1, choice, returns[..., 1:, None])

    def hang_(self, parent: Int64[Tensor, "B k 1"], choice: Int64[Tensor, "B k size"]) -> None:
        """Links the next node to its parent's choice."""
        self.child.scatter_(-1, self.edge(choice).gather(-1, parent), self.num_nodes)

    def append_(
        self,
        rewards: Float[Tensor, "B k up"],
        decay: Float[Tensor, "B k up"],
        value: Float[Tensor, "B k 1"],
        prior_logits: Float[Tensor, "B k c"],
        simulations: range,
    ) -> None:
        """Adds one node to each subtree: its rows of ``rewards`` and ``decay``, and the model's output for it."""
        new, logits = self.num_nodes, prior_logits.to(value.dtype)
        entries = torch.cat((rewards, decay, value, logits, logits.softmax(-1)), -1)
        self.numbers[:, :, new, : entries.shape[-1]] = entries
        self.decay[:, :, new, 1 + new] = 1
        self.simulation[:, :, new] = torch.arange(simulations.start, simulations.stop, device=value.device)
        self.num_nodes = new + 1


def flat_rows(index: Int64[Tensor, "B k"], width: int) -> Int64[Tensor, "B k"]:
    """The positions of the rows (b, index[b, j]) of a [B, width, ...] tensor whose first two axes are flattened."""
    return index + torch.arange(0, len(index) * width, width, device=index.device).unsqueeze(1)


def rows_at(x: Tensor, rows: Int64[Tensor, "B k"]) -> Tensor:
    """The rows of x [B, width, ...] at these flat positions: [B, k, ...]. Far faster than indexing with two axes."""
    return x.flatten(0, 1).index_select(0, rows.flatten()).view(*rows.shape, *x.shape[2:])


def summarise(
    raw_value: Float[Tensor, "B *n"],
    prior_logits: Float[Tensor, "B *n c"],
    prior_probs: Float[Tensor, "B *n c"],
    edge_visits: Float[Tensor, "B *n c"],
    edge_return: Float[Tensor, "B *n c"],
) -> Nodes:
    """The statistics of nodes, from the sums at their edges."""
    visits = 1 + edge_visits.sum(-1)
    value = (raw_value + edge_return.sum(-1)) / visits
    qvalues = edge_return / edge_visits.clamp_min(1)
    return Nodes(raw_value, value, visits, prior_logits, prior_probs, qvalues, edge_visits)


def make_subtrees(candidate: Int64[Tensor, "B k"], size: int, num_leaf_candidates: int, dtype: torch.dtype) -> Subtrees:
    """Subtrees without nodes, one for each of these candidates of the root."""
    numbers = torch.zeros(
        (*candidate.shape, size, 2 * (1 + size) + 1 + 4 * num_leaf_candidates), dtype=dtype, device=candidate.device
    )
    node = torch.arange(size, device=candidate.device)
    links = torch.cat((node.repeat_interleave(num_leaf_candidates), node)).repeat(*candidate.shape, 1)
    return Subtrees(numbers, links, num_nodes=0)
