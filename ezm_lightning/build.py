"""Config -> objects: the only file that turns a config into instances. It also computes the share of each rank."""

from __future__ import annotations

from functools import partial
from typing import Any

import lightning as L
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

import ezm_lightning.config.resolvers  # noqa: F401  (what the files of conf/ compute with)
from ezm_lightning.callbacks.checkpoint import AtomicCheckpointIO
from ezm_lightning.config.given import env_steps_for, updates_in
from ezm_lightning.config.per_task import for_each, merged
from ezm_lightning.envs.multitask import MultiTaskEnv
from ezm_lightning.memory_plan import MemoryPlan, Part
from ezm_lightning.ops.seeds import rank_seed
from ezm_lightning.replay import Replay, replay_bytes


def make_env(cfg: DictConfig, **changes: Any) -> MultiTaskEnv:
    """The batched environment of a config; ``changes`` override its arguments."""
    arguments = {
        "envs_per_task": cfg.envs_per_task,
        "action_repeat": action_repeat(cfg),
        "num_threads": cfg.env_threads,
        "max_fault_share": cfg.max_fault_share,
        "seed": cfg.seed,
        **least_widths(cfg),
    }
    return MultiTaskEnv(list(cfg.tasks.names), **(arguments | changes))


def action_repeat(cfg: DictConfig) -> Any:
    """Simulator steps per decision: one number, or one per task."""
    return merged(for_each(cfg.tasks.action_repeat, cfg.tasks.names))


def least_widths(cfg: DictConfig) -> dict[str, int]:
    """The widths that observations and actions are padded to if the model has room for wider tasks."""
    return {key: OmegaConf.select(cfg, f"model.{key}") or 0 for key in ("least_obs_dim", "least_action_dim")}


def make_evaluation_env(cfg: DictConfig, envs_per_task: int, **changes: Any) -> MultiTaskEnv:
    """Environments that play every episode to its time limit."""
    return make_env(cfg, envs_per_task=envs_per_task, ignore_termination=True, **changes)


def make_module(cfg: DictConfig) -> L.LightningModule:
    """The learner of a config, see ``acting.Learner``."""
    module: L.LightningModule = instantiate(cfg.module)
    if not hasattr(module, "make_actor"):
        raise ValueError(f"module._target_={cfg.module._target_} has no make_actor(): see ezm_lightning.acting.Learner")
    return module


def num_updates(cfg: DictConfig) -> int:
    """The number of updates: environment steps after the warm-up, divided by the steps per update."""
    updates = updates_in(cfg.env_steps_per_task, cfg)
    if updates < 1:
        raise ValueError(
            f"env_steps_per_task={cfg.env_steps_per_task} leaves no update after "
            f"warmup_env_steps={cfg.warmup_env_steps}; nearest: {env_steps_for(1, cfg)}"
        )
    return updates


def _share(name: str, whole: int, world_size: int) -> int:
    if whole % world_size:
        raise ValueError(f"{name}={whole} does not divide over {world_size} processes")
    return whole // world_size


def replay_sizes(cfg: DictConfig, env: MultiTaskEnv, module: L.LightningModule, world_size: int) -> dict[str, Any]:
    """The sizes of a rank's shard of the replay."""
    return {
        "obs_dim": env.obs_dim,
        "action_dim": env.action_dim,
        "capacity": -(-cfg.replay.capacity // world_size),
        "extras": module.make_actor().extras,
    }


def make_replay(cfg: DictConfig, env: MultiTaskEnv, module: L.LightningModule, rank: int, world_size: int) -> Replay:
    """This rank's shard of the replay, which draws its share of the batch."""
    return instantiate(
        cfg.replay,
        slot_task=env.slot_task,
        unroll_steps=cfg.unroll_steps,
        td_steps=cfg.td_steps,
        batch_size=_share("batch_size", cfg.batch_size, world_size),
        seed=rank_seed(cfg.seed, rank),
        **replay_sizes(cfg, env, module, world_size),
    )


def make_callbacks(cfg: DictConfig, env: MultiTaskEnv) -> list[L.Callback]:
    """The callbacks of a config in their order, without those that are null.

    Only the last progress bar is kept; none with ``trainer.enable_progress_bar=false``.
    """
    arguments: dict[str, dict[str, Any]] = {
        "collect": {"env": env},
        "evaluate": {"make_env": partial(make_evaluation_env, cfg)},
    }
    nodes = {name: node for name, node in cfg.callbacks.items() if node is not None}
    built = [instantiate(node, **arguments.get(name, {})) for name, node in nodes.items()]
    bars = [callback for callback in built if isinstance(callback, L.pytorch.callbacks.ProgressBar)]
    if OmegaConf.select(cfg, "trainer.enable_progress_bar") is not False:
        bars = bars[:-1]
    return [callback for callback in built if callback not in bars]


def make_trainer(cfg: DictConfig, callbacks: list[L.Callback]) -> L.Trainer:
    """Lightning's trainer with the config's loggers and these callbacks."""
    trainer: L.Trainer = instantiate(
        cfg.trainer,
        max_steps=num_updates(cfg),
        max_epochs=-1,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        enable_checkpointing=any(isinstance(callback, L.pytorch.callbacks.Checkpoint) for callback in callbacks),
        callbacks=callbacks,
        logger=[instantiate(node) for node in (OmegaConf.select(cfg, "logger") or {}).values() if node is not None],
        _convert_="all",
    )
    trainer.strategy.checkpoint_io = AtomicCheckpointIO()
    return trainer


def make_memory_plan(cfg: DictConfig, trainer: L.Trainer, env: MultiTaskEnv) -> MemoryPlan:
    """The memory of each rank, from a learner on device 'meta' and the environment's sizes."""
    device = trainer.strategy.root_device.type
    with torch.device("meta"):
        module = make_module(cfg)
    sizes = replay_sizes(cfg, env, module, trainer.world_size)
    replay = replay_bytes(num_tasks=len(env.task_specs), num_slots=env.num_slots, **sizes)
    parts = [Part("replay", replay, torch.device(cfg.replay.device).type)]
    if hasattr(module, "memory_parts"):
        batch_size = _share("batch_size", cfg.batch_size, trainer.world_size)
        parts += module.memory_parts(batch_size, device=device, own_weights=cfg.collect.overlap)
    return MemoryPlan(parts, ranks_per_host=trainer.num_devices)
