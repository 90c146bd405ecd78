"""Between the stage of demonstrations and the run: which checkpoint the run begins with, and how."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import lightning as L
from omegaconf import DictConfig

from ezm_lightning.checkpoints.contents import read_checkpoint
from ezm_lightning.checkpoints.runs import newest_checkpoint
from ezm_lightning.config.pretraining import FLAG

Prepare = Callable[[L.LightningModule], None]


def goes_on_before_the_run(ckpt_path: str | None) -> bool:
    """Whether a run that starts from this has its stage of demonstrations still before it, or goes on in it."""
    return ckpt_path is None or bool(read_checkpoint(ckpt_path)["hyper_parameters"].get(FLAG))


def newest_of(stage: DictConfig) -> Path | None:
    """The newest checkpoint of a stage, be it that of another run's folder which it was given."""
    return newest_checkpoint(Path(stage.run_dir)) or (Path(stage.ckpt_path) if stage.ckpt_path else None)


def is_finished(checkpoint: Path, stage: DictConfig) -> bool:
    """Whether a checkpoint is the last of its stage."""
    return bool(read_checkpoint(checkpoint)["global_step"] >= stage.pretrain.updates)


def begin_with(checkpoint: Path) -> Prepare:
    """What gives a new module the model of a checkpoint, its target model a copy."""

    def prepare(module: L.LightningModule) -> None:
        state = read_checkpoint(checkpoint)["state_dict"]
        own = {name.removeprefix("model."): x for name, x in state.items() if name.startswith("model.")}
        module.model.load_state_dict(own)
        module.target.model.load_state_dict(own)
        module.target.refresh_()

    return prepare
