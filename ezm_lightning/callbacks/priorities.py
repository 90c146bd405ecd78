"""A backward edge of the river: each window's new priority, from the learner to replay."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import lightning as L

from ezm_lightning.callbacks.finite import skipped
from ezm_lightning.types import Batch


class UpdatePriorities(L.Callback):
    """Sets each window's new priority after every update that is not skipped, if the learner returns priorities."""

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Mapping[str, Any], batch: Batch, batch_idx: int
    ) -> None:
        if "priority" in outputs and not skipped(outputs):
            trainer.datamodule.replay.update_priority(outputs["index"], outputs["priority"])
