"""From the replay shards of N processes to those of M: whole episodes change hands, oldest first."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ezm_lightning.tensor_file import read


@dataclass
class Segment:
    """The stored part of an episode. ``place`` says where its rows lie in the files of its folder, in order."""

    folder: Path
    place: Tensor  # [n]
    task: int
    age: Tensor  # [n], in transitions of the task collected since, by all processes
    priority: Tensor  # [n], 0 where nothing starts
    final_obs: Tensor | None  # of an episode that is running: what comes after its newest row

    def __len__(self) -> int:
        """Its rows, the final observation included."""
        return len(self.place) + (self.final_obs is not None)

    def rows(self, keys: Iterable[str]) -> dict[str, Tensor]:
        """The rows [n]; a running episode ends here, truncated."""
        files = {key: read(self.folder / f"{key}.pt", mmap=True) for key in keys}
        rows = {key: file[self.place] for key, file in files.items()}
        if self.final_obs is not None:
            last = {key: torch.zeros_like(values[-1:]) for key, values in rows.items()}
            last["obs"][0], last["task"][0], last["search_value"][0] = self.final_obs, self.task, torch.nan
            last["closing"][0] = last["truncated"][0] = True
            rows = {key: torch.cat([values, last[key]]) for key, values in rows.items()}
        return rows


def segments(folders: Sequence[Path]) -> list[Segment]:
    """All that the shards in ``folders`` hold (see `Replay.save`), oldest first; the same list on every rank."""
    found = [segment for folder in folders for segment in _segments(folder, len(folders))]
    return sorted(found, key=lambda segment: -int(segment.age[0]))


def _segments(folder: Path, shards: int) -> Iterator[Segment]:
    state = read(folder / "state.pt")
    if not state["writer"]["count"].any():
        return
    closing, env_step, task = (read(folder / f"{key}.pt") for key in ("closing", "env_step", "task"))
    for slot, order in enumerate(_in_order(state["writer"]["count"], state["sampler"]["length"])):
        for place in _episodes(order, closing[order]):
            own = int(task[place[0]])
            running = None if closing[place[-1]] else state["next_obs"][slot]
            age = (state["num_transitions"][own] - 1 - env_step[place]) * shards
            yield Segment(folder, place, own, age, _priority(state, place), running)


def _in_order(count: Tensor, length: int) -> Iterator[Tensor]:
    """For each slot, where its rows lie in the files, from oldest to newest."""
    begin = 0
    for written in count.tolist():
        held = min(written, length)
        oldest = written % length if written > length else 0
        yield begin + (oldest + torch.arange(held)) % length
        begin += held


def _episodes(order: Tensor, closing: Tensor) -> list[Tensor]:
    ends = [0, *(closing.nonzero().flatten() + 1).tolist(), len(order)]
    return [order[start:end] for start, end in itertools.pairwise(ends) if end > start]


def _priority(state: dict[str, Any], place: Tensor) -> Tensor:
    mass, exponent = state["sampler"]["mass"][place], state["sizes"]["priority_exponent"]
    return mass ** (1 / exponent) if exponent else mass


def deal(found: Sequence[Segment], slot_task: Tensor, *, rank: int, world_size: int) -> list[list[Segment]]:
    """What each slot of ``rank`` gets: every segment goes to the slot of its task, of all ranks, that holds least."""
    slots = len(slot_task)
    filled = torch.zeros(world_size * slots, dtype=torch.int64)
    dealt: list[list[Segment]] = [[] for _ in range(slots)]
    everywhere = slot_task.repeat(world_size)
    for segment in found:
        place = int(filled.masked_fill(everywhere != segment.task, 2**62).argmin())
        filled[place] += len(segment)
        if place // slots == rank:
            dealt[place % slots].append(segment)
    return dealt
