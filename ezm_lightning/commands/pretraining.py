"""From the pretraining stage to the run: the checkpoint whose weights the run begins with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import lightning as L
from omegaconf import DictConfig

from ezm_lightning.checkpoints.contents import read_checkpoint
from ezm_lightning.checkpoints.runs import newest_checkpoint
from ezm_lightning.config.pretraining import FLAG

Prepare = Callable[[L.LightningModule], None]


def begins_with_pretraining(ckpt_path: str | None) -> bool:
    """Whether a run without a checkpoint, or with this one, starts or resumes its pretraining stage."""
    return ckpt_path is None or bool(read_checkpoint(ckpt_path)["hyper_parameters"].get(FLAG))


def newest_of(stage: DictConfig) -> Path | None:
    """The newest checkpoint in the folder of a stage, else the one that it was given; None if there is none."""
    return newest_checkpoint(Path(stage.run_dir)) or (Path(stage.ckpt_path) if stage.ckpt_path else None)


def is_finished(checkpoint: Path, stage: DictConfig) -> bool:
    """Whether a checkpoint is the last of its stage."""
    return bool(read_checkpoint(checkpoint)["global_step"] >= stage.pretrain.updates)


def begin_with(checkpoint: Path) -> Prepare:
    """A function that copies the model of a checkpoint into a new module's model and target model."""

    def prepare(module: L.LightningModule) -> None:
        state = read_checkpoint(checkpoint)["state_dict"]
        weights = {name.removeprefix("model."): x for name, x in state.items() if name.startswith("model.")}
        module.model.load_state_dict(weights)
        module.target.model.load_state_dict(weights)
        module.target.refresh_()

    return prepare
