"""``ezm train``: compose, build, fit. Only this file connects the whole river."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import shlex
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import lightning as L
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from ezm_lightning import build
from ezm_lightning.callbacks import check_callbacks, find_or_none
from ezm_lightning.callbacks.checkpoint import Checkpoint
from ezm_lightning.callbacks.evaluate import Evaluate
from ezm_lightning.callbacks.record import RunRecord
from ezm_lightning.callbacks.stop import Stop
from ezm_lightning.callbacks.transcript import copied_to
from ezm_lightning.checkpoints.contents import check_entries, read_checkpoint
from ezm_lightning.checkpoints.runs import check_intact, existing_checkpoint
from ezm_lightning.commands.closing import print_result
from ezm_lightning.commands.pretraining import Prepare, begin_with, begins_with_pretraining, is_finished, newest_of
from ezm_lightning.commands.printing import print_changes, print_finished, print_plan, print_pretrained
from ezm_lightning.config.given import env_steps_for
from ezm_lightning.config.launch import hydra_main
from ezm_lightning.config.pretraining import check_asked, pretrains, stage_config
from ezm_lightning.config.resume import changed, check_resumable
from ezm_lightning.datamodule import ReplayDataModule
from ezm_lightning.envs.multitask import MultiTaskEnv
from ezm_lightning.envs.sources import configure
from ezm_lightning.language.encoders import encoder_kind
from ezm_lightning.language.instructions import instructions_of, reference
from ezm_lightning.model.task_embedding import Both, Text
from ezm_lightning.ops.denormals import flushed_denormals
from ezm_lightning.replay.demonstrations import Demonstrations
from ezm_lightning.reward_scale import TaskRewardScale

LOG = "train.log"  # in the run's folder: the printed output


def quiet() -> None:
    """Silences messages of the frameworks about intended behaviour, for which a user can do nothing."""
    logging.getLogger("torchrl").setLevel(logging.ERROR)
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.WARNING)
    for message in (
        ".*in eval mode at the start of training.*",  # the target model
        ".*You have overridden `transfer_batch_to_device`.*",
        ".*treespec, LeafSpec.*",
    ):
        warnings.filterwarnings("ignore", message=message)


def _checkpoint(cfg: DictConfig) -> dict[str, Any] | None:
    """The content of the checkpoint to resume from, which is checked, also against the config, before anything is
    built; None for a new run."""
    if cfg.ckpt_path is None:
        return None
    check_intact(cfg.ckpt_path)
    content = read_checkpoint(cfg.ckpt_path)
    check_resumable(cfg, content["hyper_parameters"], cfg.ckpt_path)
    if content["global_step"] < build.num_updates(cfg):
        _check_room(cfg, content["hyper_parameters"])
    return content


def _check_room(cfg: DictConfig, saved: Mapping[str, Any]) -> None:
    """Raises ValueError if the replay of a checkpoint is larger than this run's."""
    needed, capacity = saved["replay"]["capacity"], cfg.replay.capacity
    if needed > capacity:
        raise ValueError(
            f"{cfg.ckpt_path} has a replay of {needed} transitions per task, this run one of {capacity} "
            f"(the default is env_steps_per_task): add replay.capacity={needed}"
        )


def text_of(cfg: DictConfig, module: Any) -> dict[str, Any]:
    """Gives a new module the vectors of its tasks' instructions; returns the entry of checkpoints about them, {} for
    tasks that are known by their index. A resumed run takes both from its checkpoint."""
    embedding = getattr(getattr(module, "model", None), "task_embedding", None)
    if not isinstance(embedding, Text):
        return {}
    if cfg.ckpt_path is not None:
        return {"texts": read_checkpoint(cfg.ckpt_path)["hyper_parameters"]["texts"]}
    names = list(cfg.tasks.names)
    texts, kind = instructions_of(names, cfg.text.instructions), encoder_kind(cfg.text.encoder)
    encode = kind.make()
    embedding.set_texts_(encode(texts), encode(reference()))
    module.target.model.load_state_dict(module.model.state_dict())
    if not isinstance(embedding, Both):
        _warn_of_twins(names, texts)
    return {"texts": {"encoder": cfg.text.encoder, "source": kind.source(), "of": dict(zip(names, texts, strict=True))}}


def _warn_of_twins(names: Sequence[str], texts: Sequence[str]) -> None:
    first: dict[str, str] = {}
    for name, text in zip(names, texts, strict=True):
        if first.setdefault(text, name) != name:
            warnings.warn(
                f"{first[text]} and {name} have one instruction: nothing tells them apart; task_embedding=both does",
                stacklevel=2,
            )


def run(cfg: DictConfig, prepare: Prepare | None = None) -> float | None:
    """One training run, from a composed config. Returns the mean return of the last evaluation, as a score for sweeps.

    ``prepare`` gets the new module, whose weights it may replace. With ``pretrain.updates`` the run begins with the
    weights of that stage.
    """
    quiet()
    configure(cfg)
    torch.set_num_threads(cfg.torch_threads)
    if cfg.ckpt_path is not None:  # of a job of a sweep; that of a run alone is a checkpoint already
        cfg = cfg.copy()
        cfg.ckpt_path = existing_checkpoint(cfg.ckpt_path)
    check_asked(cfg)
    shown = build.make_demonstrations(cfg)
    if pretrains(cfg) and begins_with_pretraining(cfg.ckpt_path):
        stage = stage_config(cfg, cfg.ckpt_path)
        learned = pretrained(stage, prepare, shown)
        if learned is None:
            return None
        cfg = cfg.copy()
        cfg.ckpt_path, prepare = None, begin_with(learned)
    return fit(cfg, prepare, shown)


def fit(
    cfg: DictConfig,
    prepare: Prepare | None,
    shown: Demonstrations | None,
    closing: Callable[[DictConfig, L.Trainer], None] = print_result,
) -> float | None:
    """One run of Lightning's trainer, from nothing or from the config's checkpoint; what :func:`run` returns.

    ``shown`` are its demonstrations, ``closing`` prints what is said at the end.
    """
    start = _checkpoint(cfg)
    ckpt_path = cfg.ckpt_path and os.path.abspath(cfg.ckpt_path)  # an environment may change the working folder
    build.make_sketch(cfg)  # what is refused is refused before a simulator is built
    with contextlib.closing(build.make_env(cfg)) as env:
        return _fit(cfg, env, start, ckpt_path, prepare, shown, closing)


def _fit(
    cfg: DictConfig,
    env: MultiTaskEnv,
    start: Mapping[str, Any] | None,
    ckpt_path: str | None,
    prepare: Prepare | None,
    shown: Demonstrations | None,
    closing: Callable[[DictConfig, L.Trainer], None],
) -> float | None:
    trainer = build.make_trainer(cfg, build.make_callbacks(cfg, env))
    memory = build.make_memory_plan(cfg, trainer, env, shown)
    memory.check()
    L.seed_everything(cfg.seed, workers=True, verbose=False)
    module = build.make_module(cfg)
    check_callbacks(trainer, module)
    if prepare is not None:
        prepare(module)
    texts = text_of(cfg, module)
    if start is not None:
        if isinstance(getattr(module, "reward_scale", None), TaskRewardScale):
            module.reward_scale.check_saved(start["state_dict"].get("reward_scale.scale"))
        check_entries(start["state_dict"], module.state_dict(), cfg.ckpt_path)
        if start["global_step"] >= trainer.max_steps:
            print_finished(cfg, env_steps_for(start["global_step"] + 1, cfg))
            return None
    settings = cast(dict, OmegaConf.to_container(cfg, resolve=True))
    notes = {spec.name: spec.note for spec in env.task_specs if spec.note}
    module.save_hyperparameters({**settings, **texts, "task_notes": notes}, logger=False)  # `Pace` gives loggers theirs
    replay = build.make_replay(cfg, env, module, trainer.global_rank, trainer.world_size, shown)
    if shown is not None and hasattr(module, "on_demonstrations"):
        tasks = list(cfg.tasks.names)
        module.on_demonstrations({tasks.index(name): episodes for name, episodes in shown.episodes.items()})
    command, checkpoint = _noted_command(trainer), find_or_none(trainer, Checkpoint)
    if checkpoint is not None and HydraConfig.initialized():
        _note_how_to_resume(checkpoint, cfg.run_dir)
    with copied_to(Path(cfg.run_dir, LOG), command) if trainer.is_global_zero else contextlib.nullcontext():
        print_plan(cfg, trainer, module, env, memory)
        print_changes(changed(cfg, start["hyper_parameters"]) if start is not None else [])
        try:
            with _listening(trainer), flushed_denormals():
                trainer.fit(module, datamodule=ReplayDataModule(replay), ckpt_path=ckpt_path, weights_only=True)
        except torch.OutOfMemoryError as error:
            raise MemoryError(f"out of GPU memory at update {trainer.global_step}: {memory.advice('cuda')}") from error
        closing(cfg, trainer)
        if checkpoint is not None:
            checkpoint.check_last(trainer)
    evaluate = find_or_none(trainer, Evaluate)
    return evaluate.last_mean() if evaluate else None


def pretrained(stage: DictConfig, prepare: Prepare | None, shown: Demonstrations | None) -> Path | None:
    """Trains the pretraining stage to its end. Returns its last checkpoint; None if the stage was stopped."""
    learned = newest_of(stage)
    if learned is None or not is_finished(learned, stage):
        fit(stage, prepare, shown, print_pretrained)
        gc.collect()  # its replay and simulators, before those of the run are made
        learned = newest_of(stage)
    return learned if learned is not None and is_finished(learned, stage) else None


def _note_how_to_resume(checkpoint: Checkpoint, run_dir: str) -> None:
    """Sets what to type after a stop: the jobs of a sweep are resumed one by one, a transfer goes on by itself."""
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        folder = shlex.quote(str(run_dir))
        own = f"with this job's values and ckpt_path={folder} hydra.run.dir={folder}"
        checkpoint.how_to_resume = f"the command without -m, {own}"
    elif HydraConfig.get().job.config_name == "transfer":
        checkpoint.how_to_resume = "the same command"


def _noted_command(trainer: L.Trainer) -> str:
    """The command line, which the run's record keeps; in a sweep, with this job's overrides."""
    verb, words = None, sys.argv[1:]
    if HydraConfig.initialized():
        verb, words = HydraConfig.get().job.config_name, [*_own_folders(), *HydraConfig.get().overrides.task]
    command = f"ezm {verb or 'train'} {shlex.join(words)}".rstrip()
    record = find_or_none(trainer, RunRecord)
    if record is not None:
        record.command = command
    return command


def _own_folders() -> Iterator[str]:
    """The arguments that add folders of configs."""
    hydra = HydraConfig.get()
    folders = (source.path for source in hydra.runtime.config_sources if source.provider == "command-line")
    yield from (f"--config-dir={folder}" for folder in folders)
    yield from (text for text in hydra.overrides.hydra if text.startswith("hydra.searchpath="))


def _listening(trainer: L.Trainer) -> contextlib.AbstractContextManager[None]:
    """The context in which signals are handled, if the run has a callback for them."""
    stop = find_or_none(trainer, Stop)
    return stop.listening() if stop else contextlib.nullcontext()


def main(argv: list[str] | None = None) -> int | None:
    """The command; see ``ezm train --help``."""
    return hydra_main("train", run, argv if argv is not None else sys.argv[1:])
