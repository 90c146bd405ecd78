"""A backward edge of the river: the weights, from the learner to its target networks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import lightning as L

from ezm_lightning.callbacks.finite import skipped


class UpdateTarget(L.Callback):
    """Calls the learner's ``update_target_``, if it has one, after every update that is not skipped."""

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Mapping[str, Any], *_: object
    ) -> None:
        if hasattr(pl_module, "update_target_") and not skipped(outputs):
            pl_module.update_target_()
