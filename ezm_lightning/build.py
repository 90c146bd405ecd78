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
from ezm_lightning.config.pretraining import is_pretraining, pretrains
from ezm_lightning.envs.multitask import MultiTaskEnv
from ezm_lightning.memory_plan import MemoryPlan, Part
from ezm_lightning.ops.seeds import rank_seed
from ezm_lightning.replay import Replay, replay_bytes
from ezm_lightning.replay.demonstrations import Demonstrations, read_demonstrations
from ezm_lightning.replay.mixed import MixedReplay

DEMOS_SEED = 500  # added to the replay's: what is drawn of demonstrations does not follow what is drawn beside them


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


def make_sketch(cfg: DictConfig) -> L.LightningModule:
    """The learner on device 'meta', which has sizes and no numbers. Raises ValueError for arguments that do not fit."""
    with torch.device("meta"):
        return make_module(cfg)


def num_updates(cfg: DictConfig) -> int:
    """The number of updates: environment steps after the warm-up, divided by the steps per update. Pretraining has a
    number of its own."""
    if is_pretraining(cfg):
        return int(cfg.pretrain.updates)
    updates = updates_in(cfg.env_steps_per_task, cfg)
    if updates < 1:
        raise ValueError(
            f"env_steps_per_task={cfg.env_steps_per_task} leaves no update after "
            f"warmup_env_steps={cfg.warmup_env_steps} with env_steps_per_update={cfg.env_steps_per_update}; "
            f"nearest: {env_steps_for(1, cfg)}"
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


def make_demonstrations(cfg: DictConfig) -> Demonstrations | None:
    """The demonstrations of a config's tasks; None where it names none. Raises ValueError for those that do not fit,
    and in pretraining for a task without any."""
    if not OmegaConf.select(cfg, "demos.paths"):
        return None
    names = list(cfg.tasks.names)
    repeats = for_each(cfg.tasks.action_repeat, names)
    shown = read_demonstrations(list(cfg.demos.paths), names, repeats, most=cfg.demos.per_task)
    if pretrains(cfg) and not cfg.pretrain.skip_missing:
        shown.check_every(names, "record them, or give pretrain.skip_missing=true")
    return shown


def make_replay(
    cfg: DictConfig,
    env: MultiTaskEnv,
    module: L.LightningModule,
    rank: int,
    world_size: int,
    shown: Demonstrations | None = None,
) -> Replay | MixedReplay:
    """This rank's shard of the replay, drawing its share of the batch; each rank draws from all of ``shown``."""
    online: Replay = instantiate(
        cfg.replay,
        slot_task=env.slot_task,
        unroll_steps=cfg.unroll_steps,
        td_steps=cfg.td_steps,
        batch_size=_share("batch_size", cfg.batch_size, world_size),
        window=cfg.replay.window and -(-cfg.replay.window // world_size),
        world_size=world_size,
        seed=rank_seed(cfg.seed, rank),
        **replay_sizes(cfg, env, module, world_size),
    )
    if shown is None:
        return online
    same = ("priority_exponent", "weight_exponent", "ier", "device")
    return shown.beside(
        online,
        list(cfg.tasks.names),
        share=cfg.demos.share,
        obs_dim=env.obs_dim,
        action_dim=env.action_dim,
        extras=module.make_actor().extras,
        unroll_steps=cfg.unroll_steps,
        td_steps=cfg.td_steps,
        seed=rank_seed(cfg.seed, rank) + DEMOS_SEED,
        **{key: cfg.replay[key] for key in same if key in cfg.replay},
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


def make_memory_plan(
    cfg: DictConfig, trainer: L.Trainer, env: MultiTaskEnv, shown: Demonstrations | None = None
) -> MemoryPlan:
    """The memory of each rank, from the learner without numbers and the environment's sizes."""
    device, module = trainer.strategy.root_device.type, make_sketch(cfg)
    sizes = replay_sizes(cfg, env, module, trainer.world_size)
    replay = replay_bytes(num_tasks=len(env.task_specs), num_slots=env.num_slots, **sizes)
    where = torch.device(cfg.replay.device).type
    parts = [Part("replay", replay, where)]
    if shown is not None:
        widths = {key: sizes[key] for key in ("obs_dim", "action_dim", "extras")}
        parts.append(Part("demonstrations", shown.nbytes(**widths), where, about=True))
    if hasattr(module, "memory_parts"):
        batch_size = _share("batch_size", cfg.batch_size, trainer.world_size)
        parts += module.memory_parts(batch_size, device=device, own_weights=cfg.collect.overlap)
    return MemoryPlan(parts, ranks_per_host=trainer.num_devices)
