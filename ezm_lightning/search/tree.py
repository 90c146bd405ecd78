"""What a search remembers: the root's candidates, and the subtrees below those that are still considered.

Before round r every considered candidate has been visited r times, so its subtree has exactly r nodes, kept in order
of visit. Two small matrices take the place of pointers (i, j are nodes, γ the discount)::

    decay[i, j]   = γ^(depth_i - depth_j)                        where j is i or an ancestor of i, else 0
    rewards[i, j] = discounted rewards on the way from j to i    likewise

so a return x from below node i is worth ``rewards[i, j] + decay[i, j] * x`` at j. Column 0 of both is the root, column
1 + j is node j. Nothing is searched for and nothing is copied to the host; every shape is known beforehand.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
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
        """What is known of the roots."""
        return summarise(self.raw_value, self.prior_logits, self.prior_probs, self.visits, self.return_sum)

    def record_(self, candidate: Int64[Tensor, "B k"], returns: Float[Tensor, "B k path"], discount: float) -> None:
        """Count one visit of each candidate. ``returns[..., 0]`` reaches the root, the others nodes on the way."""
        into_root = returns[..., 0]
        self.visits.scatter_add_(1, candidate, torch.ones_like(into_root))
        self.return_sum.scatter_add_(1, candidate, into_root)
        low, high = torch.cat((returns, discount * returns[..., :1]), -1).flatten(1).aminmax(dim=-1)
        self.bounds = Bounds(torch.minimum(self.bounds.low, low), torch.maximum(self.bounds.high, high))


@dataclass
class Subtrees:
    """k subtrees a root, with room for ``size`` nodes each, of which the first ``num_nodes`` are there."""

    candidate: Int64[Tensor, "B k"]  # of the root
    decay: Float[Tensor, "B k size up"]  # up = 1 + size: the root and the nodes
    rewards: Float[Tensor, "B k size up"]  # up = 1 + size: the root and the nodes
    raw_value: Float[Tensor, "B k size"]
    prior_logits: Float[Tensor, "B k size c"]
    prior_probs: Float[Tensor, "B k size c"]
    edge_visits: Float[Tensor, "B k size c"]
    edge_return: Float[Tensor, "B k size c"]  # sum of the returns into the node that came through this candidate
    child: Int64[Tensor, "B k size c"]  # index of the node below; the node itself where there is none
    simulation: Int64[Tensor, "B k size"]  # the one that made the node
    num_nodes: int

    def keep(self, position: Int64[Tensor, "B new"]) -> "Subtrees":
        """The subtrees at these positions, in this order."""
        rows = flat_rows(position, width=self.candidate.shape[1])
        kept = {name: rows_at(x, rows) for name, x in vars(self).items() if isinstance(x, Tensor)}
        return Subtrees(**kept, num_nodes=self.num_nodes)

    def nodes(self) -> Nodes:
        """What is known of every node that is there."""
        of_nodes = (self.raw_value, self.prior_logits, self.prior_probs, self.edge_visits, self.edge_return)
        return summarise(*(self.present(x) for x in of_nodes))

    def present(self, x: Tensor) -> Tensor:
        """The part of x that belongs to nodes that are there."""
        return x[:, :, : self.num_nodes]

    def leaf(self, choice: Int64[Tensor, "B k nodes"]) -> Int64[Tensor, "B k"]:
        """The node at which the walk from the top leaves the tree when every node follows its choice."""
        step = self.present(self.child).gather(-1, choice.unsqueeze(-1)).squeeze(-1)
        for _ in range(max(0, self.num_nodes - 2).bit_length()):  # a turn doubles the length of every step
            step = step.gather(-1, step)
        return step[..., 0]

    def path(self, node: Int64[Tensor, "B k"]) -> tuple[Tensor, Tensor]:
        """Rows ``node`` of ``rewards`` and of ``decay`` ([B, k, up])."""
        index = node[..., None, None].expand(-1, -1, 1, self.decay.shape[-1])
        return self.rewards.gather(2, index).squeeze(2), self.decay.gather(2, index).squeeze(2)

    def backup_(
        self,
        choice: Int64[Tensor, "B k nodes"],
        on_path: Bool[Tensor, "B k up"],
        returns: Float[Tensor, "B k up"],
    ) -> None:
        """Count one visit of the choice of every node on the path, and the return that came through it."""
        path = slice(1, 1 + self.num_nodes)
        slots = torch.arange(self.child.shape[-1], device=choice.device)
        taken = (choice.unsqueeze(-1) == slots) & on_path[:, :, path, None]
        self.present(self.edge_visits).add_(taken)
        self.present(self.edge_return).add_(taken * returns[:, :, path, None])

    def hang_(
        self,
        parent: Int64[Tensor, "B k"],
        choice: Int64[Tensor, "B k nodes"],
        rewards: Float[Tensor, "B k up"],
        decay: Float[Tensor, "B k up"],
    ) -> None:
        """Tie the next node to its parent's chosen candidate, and write its ancestors' columns of the matrices."""
        new = self.num_nodes
        taken = torch.arange(new, device=parent.device) == parent.unsqueeze(-1)
        slots = torch.arange(self.child.shape[-1], device=parent.device) == choice.unsqueeze(-1)
        self.present(self.child).masked_fill_(taken.unsqueeze(-1) & slots, new)
        self.rewards[:, :, new] = rewards
        self.decay[:, :, new] = decay

    def append_(self, value: Float[Tensor, "B k"], prior_logits: Float[Tensor, "B k c"], simulations: range) -> None:
        """Add one node to each subtree, with the model's output for it."""
        new = self.num_nodes
        self.decay[:, :, new, 1 + new] = 1
        self.raw_value[:, :, new] = value
        self.prior_logits[:, :, new] = prior_logits
        self.prior_probs[:, :, new] = self.prior_logits[:, :, new].softmax(-1)
        self.simulation[:, :, new] = torch.arange(simulations.start, simulations.stop, device=value.device)
        self.num_nodes = new + 1


def flat_rows(index: Int64[Tensor, "B k"], width: int) -> Int64[Tensor, "B k"]:
    """Where the rows (b, index[b, j]) of a [B, width, ...] tensor lie when its first two axes are one."""
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
    """Nodes, from the sums that their edges keep."""
    visits = 1 + edge_visits.sum(-1)
    value = (raw_value + edge_return.sum(-1)) / visits
    qvalues = edge_return / edge_visits.clamp_min(1)
    return Nodes(raw_value, value, visits, prior_logits, prior_probs, qvalues, edge_visits)


def make_subtrees(candidate: Int64[Tensor, "B k"], size: int, num_leaf_candidates: int, dtype: torch.dtype) -> Subtrees:
    """Subtrees without nodes, one for each of these candidates of the root."""
    shape = (*candidate.shape, size)
    edges = (*shape, num_leaf_candidates)
    own = torch.arange(size, device=candidate.device)

    def zeros(*shape: int) -> Tensor:
        return torch.zeros(shape, dtype=dtype, device=candidate.device)

    return Subtrees(
        candidate=candidate,
        decay=zeros(*shape, 1 + size),
        rewards=zeros(*shape, 1 + size),
        raw_value=zeros(*shape),
        prior_logits=zeros(*edges),
        prior_probs=zeros(*edges),
        edge_visits=zeros(*edges),
        edge_return=zeros(*edges),
        child=own[:, None].expand(edges).clone(),
        simulation=own.expand(shape).clone(),
        num_nodes=0,
    )
