"""The stream of Batches: a LightningDataModule that owns the replay."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import lightning as L

from ezm_lightning.replay import Replay
from ezm_lightning.types import Batch


class BatchStream:
    """A plain iterable of fresh draws. Its ``__len__`` keeps Lightning from prefetching a stale batch."""

    def __init__(self, sample: Callable[[], Batch], num_batches: int) -> None:
        self.sample, self.num_batches = sample, num_batches

    def __len__(self) -> int:
        return self.num_batches

    def __iter__(self) -> Iterator[Batch]:
        for _ in range(self.num_batches):
            yield self.sample()

    def state_dict(self) -> dict:
        """Empty: the draws' random state is the replay's."""
        return {}

    def load_state_dict(self, state: dict) -> None:
        """Nothing to restore; its presence tells Lightning that the stream may continue mid-epoch."""


class ReplayDataModule(L.LightningDataModule):
    """Owns the replay and streams ``trainer.max_steps`` batches from it."""

    def __init__(self, replay: Replay) -> None:
        super().__init__()
        self.replay = replay

    def train_dataloader(self) -> BatchStream:
        return BatchStream(self.replay.sample, self.trainer.max_steps)
