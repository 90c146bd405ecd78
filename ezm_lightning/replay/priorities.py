"""Rows drawn in proportion to their priorities, at a cost that hardly grows with the number of rows.

Rows lie in blocks of 128. A draw searches for the block in the running sum over blocks, then for the row in the running
sum of the block. Only blocks written to since the last draw are summed again. ``flat_rows`` is the plain form.
"""

from __future__ import annotations

import torch
from torch import Tensor

BLOCK = 128


class Priorities:
    """The float64 priorities >= 0 of ``num_groups`` groups of ``width`` rows each, one group after the other."""

    def __init__(self, *, num_groups: int, width: int) -> None:
        self.num_groups, self.width = num_groups, width
        padded = torch.zeros(num_groups * width + BLOCK, dtype=torch.float64)
        self.mass = padded[:-BLOCK]
        self._windows = padded.unfold(0, BLOCK, 1)  # row i is the 128 priorities from i on, a view
        shape = (num_groups, -(-width // BLOCK))
        self.block_sum = torch.zeros(shape, dtype=torch.float64)
        self.block_largest = torch.zeros(shape, dtype=torch.float64)
        self.block_sums = torch.zeros(shape, dtype=torch.float64)  # running, over a group's blocks
        self._stale: list[Tensor] = []  # rows written since the sums were computed

    def write_(self, row: Tensor, mass: Tensor | float) -> None:
        """Sets the priorities of rows [m]."""
        self.mass[row] = mass
        self._stale.append(row)

    def recount_(self) -> None:
        """Sums every block again, after a change of the whole ``mass``."""
        self._stale = []
        self._sum_(torch.arange(self.block_sum.numel()))

    def largest(self) -> Tensor:
        """The largest priority of each group [G]."""
        self._freshen_()
        return self.block_largest.amax(1)

    def totals(self) -> Tensor:
        """The sum of each group's priorities [G, 1]."""
        self._freshen_()
        return self.block_sums[:, -1:]

    def draw(self, uniform: Tensor) -> Tensor:
        """The row [G, m] at each share [G, m] in [0, 1) of its group's sum; never a row without priority.

        Every group must have a positive total.
        """
        self._freshen_()
        sums = self.block_sums
        target = _below(uniform * sums[:, -1:], sums[:, -1:])
        # The first sum above the target belongs to a block (or a row) of positive mass.
        block = torch.searchsorted(sums, target, right=True)
        before = torch.where(block > 0, sums.gather(1, (block - 1).clamp(min=0)), 0.0)
        group = torch.arange(self.num_groups)[:, None]
        inside = self._block(block + group * sums.shape[1]).cumsum(-1)  # [G, m, 128]
        target_inside = _below((target - before).clamp(min=0)[..., None], inside[..., -1:])
        return group * self.width + block * BLOCK + torch.searchsorted(inside, target_inside, right=True).squeeze(-1)

    def _freshen_(self) -> None:
        if not self._stale:
            return
        row, self._stale = torch.cat(self._stale), []
        group = row // self.width
        self._sum_(torch.unique(group * self.block_sum.shape[1] + (row - group * self.width) // BLOCK))

    def _sum_(self, block: Tensor) -> None:
        """Sums blocks [m] in the same order as a draw, so that both agree to the last bit."""
        for part in block.split(2**14):
            mass = self._block(part)
            self.block_sum.view(-1)[part] = mass.cumsum(-1)[:, -1]
            self.block_largest.view(-1)[part] = mass.amax(-1)
        torch.cumsum(self.block_sum, 1, out=self.block_sums)

    def _block(self, block: Tensor) -> Tensor:
        """The priorities [..., 128] of the rows of blocks [...]; 0 after the end of a group."""
        per_group = self.block_sum.shape[1]
        group = block.flatten() // per_group
        start = group * self.width + (block.flatten() - group * per_group) * BLOCK
        mass = self._windows.index_select(0, start)
        if self.width % BLOCK:
            mass *= torch.arange(BLOCK) < ((group + 1) * self.width - start)[:, None]
        return mass.view(*block.shape, BLOCK)


def flat_rows(mass: Tensor, uniform: Tensor) -> Tensor:
    """The rows [G, m] of ``draw``, from one running sum over each group's priorities mass [G, width]."""
    sums = mass.cumsum(1)
    row = torch.searchsorted(sums, _below(uniform * sums[:, -1:], sums[:, -1:]), right=True)
    return row + torch.arange(len(mass))[:, None] * mass.shape[1]


def _below(x: Tensor, bound: Tensor) -> Tensor:
    """x, but at most the largest number below the bound [..., 1]."""
    return torch.minimum(x, torch.nextafter(bound, torch.zeros_like(bound)))
