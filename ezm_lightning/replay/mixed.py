"""A replay with demonstrations beside it: of each task's windows in a batch a share is drawn from them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from tensordict import TensorDictBase
from torch import Tensor

from ezm_lightning.checkpoints.tensor_file import read, write
from ezm_lightning.ranges import Share
from ezm_lightning.replay.rings import Replay
from ezm_lightning.types import Batch

OLD = 2**62  # the age of a demonstration: older than all that was collected
STATE = Path("demos", "state.pt")  # beside what the replay of collected steps saves


class MixedReplay:
    """What is collected (``online``) and ``demos``, a replay that was filled once and is only drawn from.

    ``tasks`` are the indices in ``online`` of the tasks of ``demos``. Each of them gets ``share`` of its windows from
    its demonstrations, the fractions going over to later batches; a task without demonstrations gets none. Both parts
    draw by their own priorities and with their own generators, and importance weights are normalised inside each. The
    ids of windows are even for what was collected and odd for demonstrations. ``digest`` names the demonstrations in a
    checkpoint, which does not hold them.
    """

    def __init__(self, online: Replay, demos: Replay, *, tasks: Sequence[int], share: Share, digest: str) -> None:
        self.online, self.demos, self.share, self.digest = online, demos, share, digest
        self.tasks = torch.tensor(list(tasks))
        groups = online.sampler.num_groups
        self.groups = self.tasks if groups > 1 else torch.zeros(1, dtype=torch.int64)  # of demos' groups, in online
        self.has_demos = torch.zeros(groups, dtype=torch.bool)
        self.has_demos[self.groups] = True
        self.owed = torch.zeros(
            groups, dtype=torch.float64
        )  # windows of demonstrations, what is left of earlier batches

    def extend(self, td: TensorDictBase) -> None:
        """Stores what was collected, see `Replay.extend`."""
        self.online.extend(td)

    def sample(self) -> Batch:
        """A batch of windows, those that were collected first; ``demo`` says which are demonstrations."""
        counts = self.online.sampler.equal_counts(self.online.batch_size)
        shown = self._shown(counts)
        if not shown.any():
            return self._collected(counts)
        demonstrated = self._demonstrated(shown[self.groups])
        if not (counts > shown).any():
            return demonstrated
        return cast(Batch, torch.cat([cast(Any, self._collected(counts - shown)), demonstrated]))

    def _shown(self, counts: Tensor) -> Tensor:
        """How many of each group's windows are demonstrations in this batch [G]."""
        self.owed += torch.where(self.has_demos, self.share * counts, 0.0)
        shown = torch.minimum((self.owed + 1e-9).floor().long(), counts)
        self.owed -= shown
        return shown

    def _collected(self, counts: Tensor) -> Batch:
        batch = self.online.sample(counts)
        return batch.replace(index=2 * batch.index)

    def _demonstrated(self, counts: Tensor) -> Batch:
        batch = self.demos.sample(counts)
        return batch.replace(
            index=2 * batch.index + 1,
            task=self.tasks.to(batch.task.device)[batch.task],
            age=torch.full_like(batch.age, OLD),
            demo=torch.ones_like(batch.demo),
        )

    def update_priority(self, index: Tensor, priority: Tensor) -> None:
        """Sets the priorities [B] >= 0 of drawn windows, see `Replay.update_priority`."""
        for rest, part in enumerate((self.online, self.demos)):
            mine = index % 2 == rest
            part.update_priority(index[mine] // 2, priority[mine])

    def observations(self) -> tuple[Tensor, Tensor]:
        """Observations [N, D] and their tasks [N]: all that were collected, and at most as many of each task's
        demonstrations, evenly spread."""
        obs, task = self.online.stored("obs", "task")
        parts = [(obs, task)]
        shown, shown_task = self.demos.stored("obs", "task")
        for place, index in enumerate(self.tasks.tolist()):
            rows, most = (shown_task == place).nonzero().flatten(), int((task == index).sum())
            rows = rows[torch.linspace(0, len(rows) - 1, min(most, len(rows))).round().long()]
            parts.append((shown[rows], torch.full_like(rows, index)))
        return torch.cat([obs for obs, _ in parts]), torch.cat([index for _, index in parts])

    # -- saving ------------------------------------------------------------------------------------------------------

    def save(self, folder: str | Path) -> None:
        """Writes what was collected as `Replay.save` does, and of the demonstrations all but themselves."""
        self.online.save(folder)
        file = Path(folder) / STATE
        file.parent.mkdir(exist_ok=True)
        state = {
            "digest": self.digest,
            "sampler": self.demos.sampler.state_dict(),
            "generator": self.demos.generator.get_state(),
            "owed": self.owed,
        }
        write(state, file)

    def load(self, folder: str | Path) -> None:
        """Takes over what `save` wrote; from a run that had no demonstrations what it collected.

        Raises ValueError where the demonstrations are not those that the run was saved with.
        """
        state = self._saved(folder)
        self.online.load(folder)
        if state is not None:
            self.demos.sampler.load_state_dict(state["sampler"])
            self.demos.generator.set_state(state["generator"])
            self.owed.copy_(state["owed"])

    def adopt(self, folders: Sequence[Path], *, rank: int, world_size: int) -> None:
        """Takes this rank's share of what was collected, see `Replay.adopt`; the demonstrations are as new.

        Raises ValueError where they are not those that the run was saved with.
        """
        for folder in folders:
            self._saved(folder)
        self.online.adopt(folders, rank=rank, world_size=world_size)

    def _saved(self, folder: str | Path) -> dict[str, Any] | None:
        """What `save` wrote of the demonstrations; None for a run that had none. Raises ValueError for others."""
        file = Path(folder) / STATE
        state = read(file) if file.is_file() else None
        if state is not None and state["digest"] != self.digest:
            raise ValueError(
                f"demos.paths: these demonstrations ({self.digest[:12]}) are not those that the run was saved with "
                f"({state['digest'][:12]}); ezm demos info shows the digest of each set"
            )
        return state
