"""Placement of rows and choice of windows: a TorchRL Writer of one ring per slot, and a TorchRL Sampler of windows.

Slot s owns rows ``[s L, (s+1) L)`` of a flat storage as its own ring. A *counter* (0, 1, 2, ...) counts all rows of a
slot, which lie at position ``counter % L``. A row's *id* is ``counter * num_slots + slot``: it is never used twice, so
it distinguishes a row from the row that overwrites it. Slots of one task are neighbours.

All of this is on the CPU, whatever device stores the rows. Sums are then sequential in float64: exact enough that a row
without priority is never drawn, and the same on every machine.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDictBase
from torch import Tensor
from torchrl.data.replay_buffers import Sampler, Storage, Writer

from ezm_lightning.replay.priorities import Priorities
from ezm_lightning.replay.shards import in_order

OPEN = 2**62  # the last row of an episode that has not ended: later than every counter
WEIGHT_RANGE = (0.1, 1.0)


class SlotWriter(Writer):
    """Writes at most one row per slot and call, each slot at its own pace.

    Its data has two keys of its own: ``slot`` [m] int64 (each at most once, not stored) and ``closing`` [m] bool
    (stored), which marks the final observation of an episode.
    """

    def __init__(self, *, num_slots: int, length: int) -> None:
        super().__init__()
        self.num_slots = num_slots
        self.length = length
        self.count = torch.zeros(num_slots, dtype=torch.int64)  # rows ever written, per slot
        self.closing = torch.zeros(0, dtype=torch.bool)  # of the rows written last, for the sampler's hook

    def row(self, slot: Tensor, counter: Tensor) -> Tensor:
        """The row in storage for a slot and a counter."""
        return slot * self.length + counter % self.length

    def filled(self) -> Tensor:
        """The rows in storage that have been written, in order [F]."""
        slot, position = (torch.arange(self.length) < self.count[:, None]).nonzero(as_tuple=True)
        return slot * self.length + position

    def extend(self, data: TensorDictBase) -> Tensor:
        """Ids [m] of the rows written."""
        slot = data.pop("slot")
        self.closing = data["closing"]
        counter = self.count[slot]
        self.put(self.row(slot, counter), data)
        self.count[slot] += 1
        return counter * self.num_slots + slot

    def put(self, row: Tensor, data: TensorDictBase) -> None:
        """Stores data at rows in storage without counting them."""
        if self._storage.device.type != "cpu":
            row, data = row.to(self._storage.device), data.to(self._storage.device)
        self._storage.set(row, data, set_cursor=False)
        self._storage._len = self._storage.max_size  # slots fill side by side: no prefix of the storage holds all rows

    def add(self, data: Any) -> int:
        raise TypeError("rows are written one vector step at a time: use extend")

    def _empty(self, empty_write_count: bool = True) -> None:
        self.count.zero_()

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count.clone()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.count.copy_(state_dict["count"])

    def dumps(self, path: str | Path) -> None:
        torch.save(self.state_dict(), path)

    def loads(self, path: str | Path) -> None:
        self.load_state_dict(torch.load(path, weights_only=True))


class WindowSampler(Sampler):
    """Draws starts of windows in proportion to priority, the same number from every group of slots.

    A group is a task (or all tasks together). Every transition whose next row exists can be a start; ``limit`` [n] is
    the number of newest transitions that can be drawn from a slot. Randomness comes from the buffer's generator.
    """

    def __init__(
        self,
        *,
        rings: SlotWriter,
        num_groups: int,
        window_length: int,
        limit: Tensor,
        priority_exponent: float,
        weight_exponent: float,
    ) -> None:
        n, rows = rings.num_slots, rings.num_slots * rings.length
        self.rings = rings
        self.num_groups = num_groups
        self.window_length = window_length
        self.limit = limit
        self.priority_exponent = priority_exponent
        self.weight_exponent = weight_exponent
        # priority ** exponent; 0 for a row that cannot be drawn
        self.priorities = Priorities(num_groups=num_groups, width=rows // num_groups)
        self.last = torch.full((rows,), OPEN)  # counter of the last row of the row's episode
        self.oldest = torch.zeros(n, dtype=torch.int64)  # counter of the oldest row that can be drawn
        self.inside = torch.zeros(n, dtype=torch.int64)  # transitions from the oldest on
        self.first = torch.zeros(n, dtype=torch.int64)  # counter of the first row of the running episode
        self.settled = torch.zeros(n, dtype=torch.int64)  # rows before this counter have a priority
        self.turn = 0  # the group that gets the first window of the remainder

    @property
    def mass(self) -> Tensor:
        """priority ** exponent of every row [n L]; 0 for a row that cannot be drawn."""
        return self.priorities.mass

    # -- called by the buffer when rows are written ------------------------------------------------------------------

    def extend(self, index: Tensor) -> None:
        """Registers new rows by their ids [m]; they get a priority at the next draw.

        The rows that they overwrite have lost their priority, now or before.
        """
        slot, counter, closing = index % self.rings.num_slots, index // self.rings.num_slots, self.rings.closing
        row = self.rings.row(slot, counter)
        self.last[row] = torch.where(closing, counter, OPEN)
        self.inside[slot] += ~closing
        self._drop_oldest(slot, counter)
        if closing.any():
            self._close(slot[closing], counter[closing])

    def _drop_oldest(self, slot: Tensor, counter: Tensor) -> None:
        """Drops the oldest transition of slots that were full, or that exceed their limit."""
        oldest = self.oldest[slot]
        drop = (counter - oldest >= self.rings.length) | (self.inside[slot] > self.limit[slot])
        if not drop.any():
            return
        self.priorities.write_(self.rings.row(slot, oldest)[drop], 0.0)
        oldest = oldest + drop
        closing = self.last[self.rings.row(slot, oldest)] == oldest  # nothing starts there
        self.oldest[slot] = oldest + (drop & closing)
        self.inside[slot] -= drop.long()

    def _close(self, slot: Tensor, counter: Tensor) -> None:
        """Sets the end of the slots' running episodes to these counters, in all their rows."""
        begin = torch.maximum(self.first[slot], counter - self.rings.length + 1)
        for s, start, end in zip(slot, begin.tolist(), counter.tolist(), strict=True):
            self.last[self.rings.row(s, torch.arange(start, end + 1))] = end
        self.first[slot] = counter + 1

    # -- priorities --------------------------------------------------------------------------------------------------

    def settle(self) -> None:
        """Gives rows written since the last draw the largest priority of their group (1 if it has none)."""
        newest = self.rings.count - 1
        begin = torch.maximum(self.settled, self.oldest)
        length = (newest - begin).clamp(min=0)  # the newest row has no next row yet
        self.settled = torch.maximum(newest, self.settled)
        if not length.any():
            return
        slot = torch.arange(self.rings.num_slots).repeat_interleave(length)
        offset = torch.arange(len(slot)) - (length.cumsum(0) - length)[slot]
        counter = begin[slot] + offset
        row = self.rings.row(slot, counter)
        row = row[self.last[row] != counter]
        largest = self.priorities.largest()
        largest = torch.where(largest > 0, largest, 1.0)
        self.priorities.write_(row, largest[row // self.priorities.width])

    def update_priority(self, index: Tensor, priority: Tensor, *, storage: Storage | None = None) -> None:
        """Sets priorities [B] >= 0 by id [B]; rows that can no longer be drawn are ignored.

        Raises ValueError if a priority is negative or not finite.
        """
        priority = torch.as_tensor(priority).detach().to("cpu", torch.float64)
        index = torch.as_tensor(index).cpu()
        if index.shape != priority.shape:
            raise ValueError(f"{tuple(priority.shape)} priorities for {tuple(index.shape)} indices: give one for each")
        wrong = ~(priority.isfinite() & (priority >= 0))
        if wrong.any():
            raise ValueError(f"priority {priority[wrong][0].item()} is not a finite number >= 0")
        self.settle()
        slot, counter = index % self.rings.num_slots, index // self.rings.num_slots
        row = self.rings.row(slot, counter)
        end = torch.minimum(self.last[row], self.rings.count[slot] - 1)
        present = (counter >= self.oldest[slot]) & (counter < end)
        mass = torch.where(priority > 0, priority**self.priority_exponent, 0.0)
        self.priorities.write_(row[present], mass[present])

    # -- drawing -----------------------------------------------------------------------------------------------------

    def sample(
        self, storage: Storage, batch_size: int, counts: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Rows [B, W] of B windows, and {start: ids [B], valid: [B, W], weight: [B]}.

        ``counts`` [G] says how many windows each group gives; None: an equal share of ``batch_size``.
        """
        self.settle()
        row, weight = self._draw(self.equal_counts(batch_size) if counts is None else counts)
        slot = row // self.rings.length
        newest = self.rings.count[slot] - 1
        start = newest - (newest - row) % self.rings.length  # L divides slot * L, so row can replace its position
        last = torch.minimum(self.last[row], newest)[:, None]
        counter = start[:, None] + torch.arange(self.window_length)
        info = {"start": start * self.rings.num_slots + slot, "valid": counter <= last, "weight": weight}
        return self.rings.row(slot[:, None], torch.minimum(counter, last)), info

    def _draw(self, counts: Tensor) -> tuple[Tensor, Tensor]:
        """Starting rows [B], group by group, and their importance weights [B]."""
        total = self.priorities.totals()
        self._refuse_empty(total)
        most = int(counts.max())
        uniform = torch.rand(self.num_groups, most, generator=self._rng, dtype=torch.float64)
        row = self.priorities.draw(uniform)
        drawn = torch.arange(most) < counts[:, None]
        return row[drawn], self._weight(self.mass[row] / total, drawn)[drawn]

    def _weight(self, probability: Tensor, drawn: Tensor) -> Tensor:
        """(N P)^-beta / max (N P)^-beta over the rows drawn from each group, clipped to [0.1, 1], as float32.

        N, the number of rows, cancels out, which leaves (P / min P)^-beta.
        """
        smallest = probability.where(drawn, torch.inf).amin(1, keepdim=True)
        weight = (probability / smallest) ** -self.weight_exponent
        return weight.clamp(*WEIGHT_RANGE).float()

    def equal_counts(self, batch_size: int) -> Tensor:
        """The number of windows of each group [G]: the same for all, and the groups take turns with the remainder."""
        share, remainder = divmod(batch_size, self.num_groups)
        place = (torch.arange(self.num_groups) - self.turn) % self.num_groups
        self.turn = (self.turn + remainder) % self.num_groups
        return share + (place < remainder).long()

    def _refuse_empty(self, total: Tensor) -> None:
        """Raises ValueError if a group has nothing to draw."""
        empty = (total <= 0).flatten()
        if empty.any():
            group = int(empty.nonzero()[0])
            stored = int(self.inside.view(self.num_groups, -1)[group].sum())
            name = f"task {group}" if self.num_groups > 1 else "the replay"
            raise ValueError(f"{name} has nothing to draw: {stored} transitions, none with next row and priority")

    # -- state -------------------------------------------------------------------------------------------------------

    _COUNTERS = ("oldest", "inside", "first", "settled")

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values; of filled rows only."""
        filled = self.rings.filled()
        state: dict[str, Any] = {name: getattr(self, name).clone() for name in self._COUNTERS}
        rows = {"mass": self.mass[filled], "last": self.last[filled]}
        return state | rows | {"length": self.rings.length, "turn": self.turn}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores a state of rings of this length; the writer's must have been restored before."""
        self._empty()
        filled = self.rings.filled()
        for name in self._COUNTERS:
            getattr(self, name).copy_(state_dict[name])
        self.mass[filled] = state_dict["mass"]
        self.priorities.recount_()
        self.last[filled] = state_dict["last"]
        self.turn = state_dict["turn"]

    def _empty(self) -> None:
        self.mass.zero_()
        self.priorities.recount_()
        self.last.fill_(OPEN)
        for name in self._COUNTERS:
            getattr(self, name).zero_()
        self.turn = 0

    def dumps(self, path: str | Path) -> None:
        torch.save(self.state_dict(), path)

    def loads(self, path: str | Path) -> None:
        self.load_state_dict(torch.load(path, weights_only=True))


def counted_anew(state: dict[str, Any], rows: dict[str, Tensor]) -> dict[str, Tensor]:
    """Lets the slots of a saved state count from their oldest stored row on, so that a longer ring has no gaps.

    Changes the state; returns its rows in that order.
    """
    count, sampler, length = state["writer"]["count"], state["sampler"], state["sampler"]["length"]
    gone = (count - length).clamp(min=0)  # rows of each slot that have been overwritten
    order = torch.cat(list(in_order(count, length)))
    last = sampler["last"][order]
    gone_before = gone.repeat_interleave(count - gone)
    sampler["last"] = torch.where(last == OPEN, OPEN, last - gone_before)
    sampler["mass"] = sampler["mass"][order]
    for name in ("oldest", "first", "settled"):
        sampler[name] = (sampler[name] - gone).clamp(min=0)
    state["writer"]["count"] = count - gone
    return {key: values[order] for key, values in rows.items()}
