"""Pretraining: a stage of a run that learns from demonstrations and the warm-up, before the first planned step.

The stage is a run with its own checkpoints in the subfolder ``pretrain`` of the run's folder. The run begins with the
weights of the last one. So the run counts updates and simulator steps as it does without this stage.
"""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from ezm_lightning.checkpoints.runs import PRETRAINING
from ezm_lightning.config.signatures import check_targets

FLAG = "pretraining"  # in the config of the stage
COLLECT = "ezm_lightning.callbacks.pretrain.WarmUpAlone"


def is_pretraining(cfg: DictConfig) -> bool:
    """Whether a config is of the stage itself."""
    return bool(OmegaConf.select(cfg, FLAG))


def pretrains(cfg: DictConfig) -> bool:
    """Whether a run has the stage, or is the stage."""
    return (OmegaConf.select(cfg, "pretrain.updates") or 0) > 0


def check_demos(cfg: DictConfig) -> None:
    """Raises ValueError for a folder of demonstrations that does not exist."""
    paths = OmegaConf.select(cfg, "demos.paths")
    if paths is None:
        return
    if isinstance(paths, str):
        raise ValueError(f"demos.paths={paths}: a list of folders is demos.paths=[{paths}]")
    for path in paths:
        if not Path(str(path)).is_dir():
            raise ValueError(f"demos.paths: there is no folder {path}; ezm demos record out={path} makes one")


def check_asked(cfg: DictConfig) -> None:
    """Raises ValueError if a run needs demonstrations and has none, or pretrains without checkpoints."""
    cloning = OmegaConf.select(cfg, "module.loss_coefs.bc") or 0
    for asked, key in ((pretrains(cfg), "pretrain.updates"), (cloning > 0, "module.loss_coefs.bc")):
        if asked and not OmegaConf.select(cfg, "demos.paths"):
            raise ValueError(f"{key}={OmegaConf.select(cfg, key)} needs demonstrations: demos.paths=[FOLDER]")
    if pretrains(cfg) and OmegaConf.select(cfg, "callbacks.checkpoint") is None:
        raise ValueError("pretrain.updates: the run begins with a checkpoint of this stage; leave callbacks.checkpoint")


def stage_config(cfg: DictConfig, ckpt_path: str | None) -> DictConfig:
    """The config of the stage of a run: without evaluations, with the changes of the node ``pretrain``."""
    stage = cfg.copy()
    OmegaConf.set_struct(stage, False)
    stage[FLAG], stage.ckpt_path = True, ckpt_path
    stage.run_dir = str(Path(cfg.run_dir) / PRETRAINING)
    stage.batch_size, stage.demos.share = cfg.pretrain.batch_size, cfg.pretrain.share
    stage.collect._target_ = COLLECT
    stage.callbacks.evaluate = None
    stage.checkpoint.monitor = None
    stage.module.loss_coefs.update(cfg.pretrain.loss_coefs)
    stage.module.logged_windows = 0
    stage.reanalyzer.update(cfg.pretrain.reanalyzer)
    stage.value_mix = cfg.pretrain.value_mix
    check_targets(stage)
    return stage
