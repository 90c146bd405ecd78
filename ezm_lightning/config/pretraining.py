"""Pretraining: a stage of a run that learns from demonstrations and the warm-up, before the first step that is planned.

It is a run of its own in the folder ``pretrain`` of the run's, with its own checkpoints, whose weights the run begins
with. So all that counts updates or simulator steps is in the run as it is without this stage.
"""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from ezm_lightning.checkpoints.runs import PRETRAINING
from ezm_lightning.config.signatures import check_targets

FLAG = "pretraining"  # in the config of the stage
COLLECT = "ezm_lightning.callbacks.pretrain.WarmUpAlone"


def is_pretraining(cfg: DictConfig) -> bool:
    """Whether a config is that of the stage itself."""
    return bool(OmegaConf.select(cfg, FLAG))


def pretrains(cfg: DictConfig) -> bool:
    """Whether a run has the stage, or is it."""
    return (OmegaConf.select(cfg, "pretrain.updates") or 0) > 0


def check_demos(cfg: DictConfig) -> None:
    """Raise ValueError for a folder of demonstrations that is not there."""
    paths = OmegaConf.select(cfg, "demos.paths")
    if paths is None:
        return
    if isinstance(paths, str):
        raise ValueError(f"demos.paths={paths}: a list of folders is demos.paths=[{paths}]")
    for path in paths:
        if not Path(str(path)).is_dir():
            raise ValueError(f"demos.paths: there is no folder {path}; ezm demos record out={path} makes one")


def check_asked(cfg: DictConfig) -> None:
    """Raise ValueError where a run needs demonstrations and names none, or cannot hand on what it learns of them."""
    cloning = OmegaConf.select(cfg, "module.loss_coefs.bc") or 0
    for asked, key in ((pretrains(cfg), "pretrain.updates"), (cloning > 0, "module.loss_coefs.bc")):
        if asked and not OmegaConf.select(cfg, "demos.paths"):
            raise ValueError(f"{key}={OmegaConf.select(cfg, key)} needs demonstrations: demos.paths=[FOLDER]")
    if pretrains(cfg) and OmegaConf.select(cfg, "callbacks.checkpoint") is None:
        raise ValueError("pretrain.updates: the run begins with a checkpoint of this stage; leave callbacks.checkpoint")


def stage_config(cfg: DictConfig, ckpt_path: str | None) -> DictConfig:
    """The config of the stage of a run: no evaluation, and what ``pretrain`` changes."""
    own = cfg.copy()
    OmegaConf.set_struct(own, False)
    own[FLAG], own.ckpt_path = True, ckpt_path
    own.run_dir = str(Path(cfg.run_dir) / PRETRAINING)
    own.batch_size, own.demos.share = cfg.pretrain.batch_size, cfg.pretrain.share
    own.collect._target_ = COLLECT
    own.callbacks.evaluate = None
    own.checkpoint.monitor = None
    own.module.loss_coefs.update(cfg.pretrain.loss_coefs)
    own.module.logged_windows = 0
    own.reanalyzer.update(cfg.pretrain.reanalyzer)
    own.value_mix = cfg.pretrain.value_mix
    check_targets(own)
    return own
