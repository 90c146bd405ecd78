"""The stream of Batches: a LightningDataModule that owns the replay."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import lightning as L

from ezm_lightning.replay import Replay
from ezm_lightning.replay.mixed import MixedReplay
from ezm_lightning.types import Batch


class BatchStream:
    """An iterable of batches drawn on demand. Its ``__len__`` keeps Lightning from prefetching a stale batch."""

    def __init__(self, sample: Callable[[], Batch], num_batches: int) -> None:
        self.sample, self.num_batches = sample, num_batches

    def __len__(self) -> int:
        return self.num_batches

    def __iter__(self) -> Iterator[Batch]:
        for _ in range(self.num_batches):
            yield self.sample()

    def state_dict(self) -> dict:
        """Empty: the replay saves the random state of the draws."""
        return {}

    def load_state_dict(self, state: dict) -> None:
        """Nothing to restore. Because this method exists, Lightning lets the stream continue within an epoch."""


class ReplayDataModule(L.LightningDataModule):
    """Owns the replay and streams ``trainer.max_steps`` batches from it."""

    def __init__(self, replay: Replay | MixedReplay) -> None:
        super().__init__()
        self.replay = replay

    def train_dataloader(self) -> BatchStream:
        return BatchStream(self.replay.sample, self.trainer.max_steps)
