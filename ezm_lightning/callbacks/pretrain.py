"""Collection of the pretraining stage: the warm-up and no step after it."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch

from ezm_lightning.callbacks.collect import Collect


class WarmUpAlone(Collect):
    """Takes the uniform random actions of a run's warm-up, fits the statistics of observations, and steps no further.

    Demonstrations are narrow: a trained agent visits few states. So the statistics come from one pass over the warm-up
    and over the same number of observations of each task's demonstrations, and stay constant while the model learns.
    The curves of this stage are over updates.
    """

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.env_steps_per_update = 0.0

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        is_resumed = self._restored is not None or self.warmup_taken is not None
        super().on_fit_start(trainer, pl_module)
        norm = pl_module.model.obs_norm
        if not is_resumed:
            self._fit_(norm, trainer, pl_module)
        norm.moves = False

    @torch.no_grad()
    def _fit_(self, norm: Any, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Gives the models and the target models of all ranks the statistics of the observations of rank 0."""
        obs, task = (x.to(pl_module.device) for x in trainer.datamodule.replay.observations())
        norm.update_(obs, pl_module.model.obs_mask[task], task)
        norm.load_state_dict(trainer.strategy.broadcast(norm.state_dict()))
        pl_module.target.model.obs_norm.load_state_dict(norm.state_dict())
        pl_module.target.refresh_()

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: object) -> None:
        if trainer.global_step % trainer.log_every_n_steps == 0:
            self._log_axis(trainer, pl_module)

    def env_steps_after(self, updates: int) -> float:
        """The number of updates, over which the curves of this stage are drawn."""
        return float(updates)
