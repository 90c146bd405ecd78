"""Checkpoints: a Lightning ``.ckpt`` (weights, optimiser, loops, config) and a side-car folder per rank beside it.

``step=000100.ckpt`` goes with ``step=000100.sidecar/rank0/`` (replay, priorities, environments, random states). Both
are written under a temporary name and renamed, the ``.ckpt`` last, so that a ``.ckpt`` that exists is complete. Both
load with ``weights_only=True``.
"""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from ezm_lightning.callbacks.collect import Collect
from ezm_lightning.module import EZM


def sidecar_dir(checkpoint: str | Path) -> Path:
    """The side-car folder that belongs to a checkpoint file."""
    return Path(checkpoint).with_suffix(".sidecar")


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes to a temporary name, syncs, renames; removes a checkpoint together with its side-car."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(path.name + ".tmp")
        with open(temporary, "wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)

    def remove_checkpoint(self, path: str | Path) -> None:
        Path(path).unlink(missing_ok=True)
        shutil.rmtree(sidecar_dir(path), ignore_errors=True)


class RunState(L.Callback):
    """Saves and restores what Lightning does not know: replay, collection and every random state, per rank."""

    def __init__(self, collect: Collect, checkpoint_dir: str | Path) -> None:
        self.collect, self.checkpoint_dir = collect, Path(checkpoint_dir)
        self._restored: dict | None = None

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: EZM, checkpoint: dict[str, Any]) -> None:
        folder = self.checkpoint_dir / f"step={trainer.global_step:08d}.sidecar"
        rank = folder / f"rank{trainer.global_rank}"
        temporary = rank.with_name(rank.name + ".tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        trainer.datamodule.replay.save(temporary / "replay")
        torch.save(self._state(trainer, pl_module), temporary / "state.pt")
        shutil.rmtree(rank, ignore_errors=True)
        os.replace(temporary, rank)
        checkpoint["sidecar"] = folder.name
        trainer.strategy.barrier("sidecar written")

    def _state(self, trainer: L.Trainer, pl_module: EZM) -> dict:
        state: Any = np.random.get_state()
        name, keys, position, has_gauss, gauss = state
        return {
            "collect": self.collect.run_state(),
            "learner_generator": pl_module.generator.get_state(),
            "torch": torch.get_rng_state(),
            "numpy": [name, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, gauss],
            "python": random.getstate(),
            "world_size": trainer.world_size,
        }

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: EZM, checkpoint: dict[str, Any]) -> None:
        rank = Path(trainer.ckpt_path).parent / checkpoint["sidecar"] / f"rank{trainer.global_rank}"
        if not (rank / "state.pt").exists():
            raise FileNotFoundError(f"{trainer.ckpt_path} cannot be continued: its side-car {rank} is missing")
        state = torch.load(rank / "state.pt", weights_only=True)
        if state["world_size"] != trainer.world_size:
            raise ValueError(f"saved by {state['world_size']} processes, resumed by {trainer.world_size}: use the same")
        trainer.datamodule.replay.load(rank / "replay")
        self.collect.load_run_state(state["collect"])
        self._restored = state

    def on_train_start(self, trainer: L.Trainer, pl_module: EZM) -> None:
        if self._restored is None:
            return
        state, self._restored = self._restored, None
        pl_module.generator.set_state(state["learner_generator"])
        torch.set_rng_state(state["torch"])
        name, keys, position, has_gauss, gauss = state["numpy"]
        np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, gauss))
        random.setstate(state["python"])
