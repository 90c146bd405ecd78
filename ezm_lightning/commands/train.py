"""``ezm train``: compose, build, fit. The only file that walks the whole river."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Mapping
from functools import partial
from typing import Any

import lightning as L
import torch
from hydra.utils import instantiate
from lightning.pytorch import callbacks
from omegaconf import DictConfig, OmegaConf

from ezm_lightning.callbacks.checkpoint import AtomicCheckpointIO
from ezm_lightning.callbacks.evaluate import Evaluate
from ezm_lightning.callbacks.fail_together import FailTogether
from ezm_lightning.callbacks.feedback import SkipNonFiniteUpdates, UpdatePriorities, UpdateTarget
from ezm_lightning.callbacks.progress import ProgressBar
from ezm_lightning.callbacks.run_state import RunState
from ezm_lightning.callbacks.stop import Stop
from ezm_lightning.checkpoints.runs import check_intact
from ezm_lightning.commands.report import print_finished, print_plan, print_result
from ezm_lightning.config.given import env_steps_for, updates_in
from ezm_lightning.config.launch import hydra_main
from ezm_lightning.config.saved import check_entries, read_checkpoint
from ezm_lightning.datamodule import ReplayDataModule
from ezm_lightning.envs.humanoidbench import use_assets
from ezm_lightning.envs.multitask import MultiTaskEnv
from ezm_lightning.envs.sources import resolve_tasks
from ezm_lightning.memory_plan import MemoryPlan, make_plan
from ezm_lightning.module import EZM
from ezm_lightning.replay import Replay, replay_bytes


def make_env(cfg: DictConfig, **changes: Any) -> MultiTaskEnv:
    """The batched environment of a config; ``changes`` override its arguments."""
    arguments = {
        "envs_per_task": cfg.envs_per_task,
        "action_repeat": cfg.tasks.action_repeat,
        "num_threads": cfg.env_threads,
        "max_fault_share": cfg.max_fault_share,
        "seed": cfg.seed,
    }
    return MultiTaskEnv(list(cfg.tasks.names), **(arguments | changes))


def make_module(cfg: DictConfig) -> EZM:
    """The learner of a config: world model, planner, reanalyzer, losses."""
    specs = resolve_tasks(list(cfg.tasks.names))
    model = instantiate(cfg.model, obs_dims=[s.obs_dim for s in specs], action_dims=[s.action_dim for s in specs])
    reanalyzer = instantiate(
        cfg.reanalyzer, planner=instantiate(cfg.planner), policy_target=instantiate(cfg.policy_target)
    )
    return instantiate(
        cfg.module,
        model=model,
        reanalyzer=reanalyzer,
        td_share=instantiate(cfg.value_target),
        temperature=instantiate(cfg.temperature, num_tasks=len(specs)),
    )


def num_updates(cfg: DictConfig) -> int:
    """Optimiser steps that spend the budget: the environment steps after warm-up over the ratio."""
    updates = updates_in(cfg.env_steps_per_task, cfg)
    if updates < 1:
        raise ValueError(
            f"env_steps_per_task={cfg.env_steps_per_task} leaves no update after "
            f"warmup_env_steps={cfg.warmup_env_steps}; nearest: {env_steps_for(1, cfg)}"
        )
    return updates


def make_replay(cfg: DictConfig, env: MultiTaskEnv, rank: int, world_size: int) -> Replay:
    """This rank's shard of the replay, drawing its share of the batch."""
    if cfg.batch_size % world_size:
        raise ValueError(f"batch_size={cfg.batch_size} does not divide over {world_size} processes")
    return instantiate(
        cfg.replay,
        slot_task=env.slot_task,
        obs_dim=max(env.obs_dims),
        action_dim=max(env.action_dims),
        capacity=-(-cfg.replay.capacity // world_size),
        unroll_steps=cfg.unroll_steps,
        td_steps=cfg.td_steps,
        batch_size=cfg.batch_size // world_size,
        seed=cfg.seed + 1000 * rank,
    )


def make_trainer(cfg: DictConfig) -> L.Trainer:
    """Lightning's trainer with the config's loggers and callbacks; what the algorithm needs comes later."""
    given = OmegaConf.select(cfg, "trainer.callbacks") or []
    own = [*map(instantiate, given), *built(cfg, "callbacks")]
    wanted = OmegaConf.select(cfg, "trainer.enable_progress_bar") is not False
    if wanted and not any(isinstance(callback, callbacks.ProgressBar) for callback in own):
        own.append(ProgressBar())
    trainer: L.Trainer = instantiate(
        cfg.trainer,
        max_steps=num_updates(cfg),
        max_epochs=-1,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        enable_checkpointing=False,
        callbacks=own,
        logger=built(cfg, "logger"),
        _convert_="all",
    )
    trainer.strategy.checkpoint_io = AtomicCheckpointIO()
    return trainer


def built(cfg: DictConfig, name: str) -> list[Any]:
    """The objects of a node whose values are built, in the order they stand; those that are null are left out."""
    nodes = OmegaConf.select(cfg, name) or {}
    return [instantiate(node) for node in nodes.values() if node is not None]


def memory_plan(cfg: DictConfig, trainer: L.Trainer, env: MultiTaskEnv) -> MemoryPlan:
    """What each rank will hold, from a learner without memory (device 'meta') and the environment's sizes."""
    replay = replay_bytes(
        num_tasks=len(env.task_specs),
        num_slots=env.num_slots,
        obs_dim=max(env.obs_dims),
        action_dim=max(env.action_dims),
        capacity=-(-cfg.replay.capacity // trainer.world_size),
    )
    with torch.device("meta"):
        module = make_module(cfg)
    return make_plan(
        module,
        replay=replay,
        replay_device=torch.device(cfg.replay.device).type,
        device=trainer.strategy.root_device.type,
        batch_size=cfg.batch_size // trainer.world_size,
        search_models=2 if cfg.collect.overlap or not cfg.collect.act_with_target else 1,
        ranks_per_host=trainer.num_devices,
    )


def quiet() -> None:
    """Silences what the frameworks say about things that are meant: nothing a user could act on."""
    logging.getLogger("torchrl").setLevel(logging.ERROR)
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.WARNING)
    for message in (
        ".*in eval mode at the start of training.*",  # the target model
        ".*You have overridden `transfer_batch_to_device`.*",
        ".*treespec, LeafSpec.*",
    ):
        warnings.filterwarnings("ignore", message=message)


def _updates_done(cfg: DictConfig, module: EZM) -> int:
    """Optimiser steps in the checkpoint, which is checked whole, and against the module, before anything is loaded."""
    check_intact(cfg.ckpt_path)
    content = read_checkpoint(cfg.ckpt_path)
    check_entries(content["state_dict"], module.state_dict(), cfg.ckpt_path)
    if content["global_step"] < num_updates(cfg):
        _check_room(cfg, content["hyper_parameters"])
    return content["global_step"]


def _check_room(cfg: DictConfig, saved: Mapping[str, Any]) -> None:
    """Raises ValueError where the replay of a checkpoint is larger than this run's."""
    there, here = saved["replay"]["capacity"], cfg.replay.capacity
    if there > here:
        raise ValueError(
            f"{cfg.ckpt_path} has a replay of {there} transitions a task, this run one of {here} "
            f"(env_steps_per_task, where nothing else is given): add replay.capacity={there}"
        )


def run(cfg: DictConfig) -> None:
    """One training run, from a composed config."""
    quiet()
    use_assets(cfg.humanoid_bench.assets)
    torch.set_num_threads(cfg.torch_threads)
    trainer = make_trainer(cfg)
    env = make_env(cfg, seed=cfg.seed + 1000 * trainer.global_rank)
    memory = memory_plan(cfg, trainer, env)
    memory.check()
    L.seed_everything(cfg.seed, workers=True, verbose=False)
    module = make_module(cfg)
    if cfg.ckpt_path is not None and (done := _updates_done(cfg, module)) >= num_updates(cfg):
        print_finished(cfg, env_steps_for(done + 1, cfg))
        return
    module.save_hyperparameters(OmegaConf.to_container(cfg, resolve=True))
    replay = make_replay(cfg, env, trainer.global_rank, trainer.world_size)
    collect = instantiate(cfg.collect, env=env, planner=module.reanalyzer.planner)
    evaluate = Evaluate(
        partial(make_env, cfg, envs_per_task=-(-cfg.evaluate.episodes // trainer.world_size), ignore_termination=True),
        module.reanalyzer.planner,
        collect,
        interval=cfg.evaluate.interval,
        run_dir=cfg.run_dir,
        seed=cfg.seed + 10_000,
    )
    stop, run_state = Stop(), RunState(collect)
    checkpoint = instantiate(cfg.checkpoint, run_state=run_state, stop=stop)
    trainer.callbacks = [
        stop,
        FailTogether(),
        UpdatePriorities(),
        UpdateTarget(),
        SkipNonFiniteUpdates(cfg.tasks.names, max_in_a_row=cfg.max_nonfinite_updates),
        collect,
        evaluate,
        run_state,
        *trainer.callbacks,
        checkpoint,
    ]
    print_plan(cfg, trainer, module, env, memory)
    try:
        with stop.listening():
            trainer.fit(module, datamodule=ReplayDataModule(replay), ckpt_path=cfg.ckpt_path, weights_only=True)
    except torch.OutOfMemoryError as error:
        raise MemoryError(f"out of GPU memory at update {trainer.global_step}: {memory.advice('cuda')}") from error
    print_result(cfg, trainer, evaluate, checkpoint.newest())
    checkpoint.check_last(trainer)


def main(argv: list[str] | None = None) -> int | None:
    """The command; see ``ezm train --help``."""
    return hydra_main("train", run, argv if argv is not None else sys.argv[1:])
