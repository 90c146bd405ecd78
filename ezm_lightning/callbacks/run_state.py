"""The state that Lightning does not save: the replay, collection and every random state, in a folder per rank. A
resumed run also uses its config's settings of the optimiser, not the checkpoint's as in Lightning."""

from __future__ import annotations

import logging
import random
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_only

from ezm_lightning.callbacks import find
from ezm_lightning.callbacks.collect import Collect
from ezm_lightning.checkpoints.folder import rank_folders
from ezm_lightning.checkpoints.old_names import renewed_rank_state
from ezm_lightning.checkpoints.tensor_file import read, write

warn = rank_zero_only(logging.getLogger(__name__).warning)


class RunState(L.Callback):
    """Saves this rank's state in its folder of a checkpoint; restores it when a checkpoint is loaded."""

    def __init__(self) -> None:
        self._restored: dict | None = None  # None also if another number of ranks saved the checkpoint
        self._settings: list[list[dict[str, Any]]] = []  # of each optimiser's groups, from the config

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Keeps the config's settings: afterwards Lightning restores the optimisers with those of the checkpoint."""
        self._settings = [
            [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
            for optimizer in trainer.optimizers
        ]

    def save(self, trainer: L.Trainer, pl_module: L.LightningModule, rank: Path) -> None:
        """Writes the folder ``rank``. Raises OSError if it cannot be written."""
        rank.mkdir(parents=True)
        trainer.datamodule.replay.save(rank / "replay")
        write(self._state(trainer, pl_module), rank / "state.pt")

    def _state(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict:
        state: Any = np.random.get_state()
        name, keys, position, has_gauss, gauss = state
        return {
            "collect": find(trainer, Collect).run_state(),
            "learner": pl_module.rank_state() if hasattr(pl_module, "rank_state") else {},
            "torch": torch.get_rng_state(),
            "numpy": [name, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, gauss],
            "python": random.getstate(),
            "world_size": trainer.world_size,
        }

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        ranks = rank_folders(trainer.ckpt_path)
        if len(ranks) != trainer.world_size:
            self._redistribute(trainer, ranks)
            return
        rank = ranks[trainer.global_rank]
        state = renewed_rank_state(read(rank / "state.pt"))
        trainer.datamodule.replay.load(rank / "replay")
        find(trainer, Collect).load_run_state(state["collect"])
        self._restored = state

    def _redistribute(self, trainer: L.Trainer, ranks: list[Path]) -> None:
        """Restores this rank's share of the data that another number of ranks collected."""
        share = {"rank": trainer.global_rank, "world_size": trainer.world_size}
        trainer.datamodule.replay.adopt([rank / "replay" for rank in ranks], **share)
        find(trainer, Collect).share_run_state([read(rank / "state.pt")["collect"] for rank in ranks], **share)
        warn(
            f"saved by {len(ranks)} processes, resumed by {trainer.world_size}: the replay is dealt out again, running "
            "episodes are cut off, and the run is no longer bit for bit that of one that was not stopped"
        )

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.ckpt_path is not None:
            apply_settings(trainer, self._settings)
        if self._restored is None:
            return
        state, self._restored = self._restored, None
        if state["learner"]:
            pl_module.load_rank_state(state["learner"])
        torch.set_rng_state(state["torch"])
        name, keys, position, has_gauss, gauss = state["numpy"]
        np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, gauss))
        random.setstate(state["python"])


def apply_settings(trainer: L.Trainer, settings: list[list[dict[str, Any]]]) -> None:
    """Sets the optimisers' ``settings``, which a checkpoint has changed. A learning rate keeps its ratio to the initial
    one, which its schedule has reached. Equal settings stay the same bit for bit."""
    for optimizer, groups in zip(trainer.optimizers, settings, strict=True):
        for group, group_settings in zip(optimizer.param_groups, groups, strict=True):
            initial = group_settings.get("initial_lr", group_settings.get("lr"))
            before = group.get("initial_lr", group.get("lr"))
            if initial != before:
                group["lr"] = initial * (group["lr"] / before)
            group |= {name: value for name, value in group_settings.items() if name != "lr"}
    for config in trainer.lr_scheduler_configs:
        schedule = config.scheduler
        if hasattr(schedule, "base_lrs"):
            schedule.base_lrs = [group.get("initial_lr", group["lr"]) for group in schedule.optimizer.param_groups]
