"""Replay shards of N processes dealt to M processes: whole episodes, oldest first."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ezm_lightning.checkpoints.tensor_file import read


@dataclass
class Shard:
    """The replay that one process saved (see `Replay.save`); its rows stay on disk until they are indexed."""

    state: dict[str, Any]
    rows: dict[str, Tensor]  # {key: [N, ...]}, empty if nothing was collected


@dataclass
class Segment:
    """The stored part of an episode."""

    shard: Shard
    place: Tensor  # [n], the positions of its rows in the shard, in order; -1: the final row added to a running episode
    task: int
    age: Tensor  # [n], transitions of the task that all processes have collected since
    priority: Tensor  # [n], 0 for a row at which no window starts
    next_obs: Tensor  # [obs_dim], the observation after its newest row

    def __len__(self) -> int:
        return len(self.place)

    def rows(self, keys: Iterable[str], extras: Sequence[str]) -> dict[str, Tensor]:
        """The rows {key: [n, ...]}; a running episode ends here, truncated, and its last row has no extras. Extras that
        the shard does not have are NaN."""
        absent = {name: torch.full((len(self),), torch.nan) for name in extras if name not in self.shard.rows}
        rows = {key: absent[key] if key in absent else self.shard.rows[key][self.place] for key in keys}
        if self.place[-1] == -1:
            end: dict[str, Any] = {
                "obs": self.next_obs,
                "task": self.task,
                "closing": True,
                "truncated": True,
                "env_step": self.shard.state["num_transitions"][self.task],
                **dict.fromkeys(extras, torch.nan),
            }
            for key, values in rows.items():
                values[-1] = end.get(key, 0)
        return rows


def read_shard(folder: Path) -> Shard:
    """The shard in a folder."""
    return Shard(
        state=read(folder / "state.pt"),
        rows={path.stem: read(path, mmap=True) for path in folder.glob("*.pt") if path.stem != "state"},
    )


def segments(shards: Sequence[Shard]) -> list[Segment]:
    """All segments of the shards, oldest first; the same list on every rank."""
    unordered = [segment for shard in shards if shard.rows for segment in _segments(shard, len(shards))]
    return sorted(unordered, key=lambda segment: -int(segment.age[0]))


def _segments(shard: Shard, num_shards: int) -> Iterator[Segment]:
    state = shard.state
    closing, env_step, task = (shard.rows[key] for key in ("closing", "env_step", "task"))
    for slot, order in enumerate(in_order(state["writer"]["count"], state["sampler"]["length"])):
        for place in _episodes(order, closing[order]):
            task_index, running = int(task[place[0]]), not closing[place[-1]]
            age = (state["num_transitions"][task_index] - 1 - env_step[place]) * num_shards
            priority = _priority(state, place)
            if running:
                place, age, priority = _append(place, -1), _append(age, 0), _append(priority, 0)
            yield Segment(shard, place, task_index, age, priority, state["next_obs"][slot])


def in_order(count: Tensor, length: int) -> Iterator[Tensor]:
    """For each slot that has written ``count`` rows in a ring of ``length``: the positions of its rows in the files,
    from oldest to newest."""
    begin = 0
    for written in count.tolist():
        yield begin + torch.arange(max(0, written - length), written) % length
        begin += min(written, length)


def _append(values: Tensor, last: int) -> Tensor:
    return torch.cat([values, values.new_tensor([last])])


def _episodes(order: Tensor, closing: Tensor) -> list[Tensor]:
    ends = [0, *(closing.nonzero().flatten() + 1).tolist(), len(order)]
    return [order[start:end] for start, end in itertools.pairwise(ends) if end > start]


def _priority(state: dict[str, Any], place: Tensor) -> Tensor:
    mass, exponent = state["sampler"]["mass"][place], state["sizes"]["priority_exponent"]
    return mass ** (1 / exponent) if exponent else mass


def deal(parts: Sequence[Segment], slot_task: Tensor, *, rank: int, world_size: int) -> list[list[Segment]]:
    """The segments of each slot of ``rank``. A segment goes to the least filled slot of its task on all ranks."""
    slots = len(slot_task)
    filled = torch.zeros(world_size * slots, dtype=torch.int64)
    dealt: list[list[Segment]] = [[] for _ in range(slots)]
    everywhere = slot_task.repeat(world_size)
    for segment in parts:
        place = int(filled.masked_fill(everywhere != segment.task, 2**62).argmin())
        filled[place] += len(segment)
        if place // slots == rank:
            dealt[place % slots].append(segment)
    return dealt
