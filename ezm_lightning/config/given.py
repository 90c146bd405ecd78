"""Arguments of the config's classes that the program sets: a config that has one is refused, with what to write."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from omegaconf import DictConfig, OmegaConf

LENGTH = "the budget says how many updates a run has: env_steps_per_task=..."
EVALUATION = "tasks are played for scores by evaluate.interval=... and evaluate.episodes=..."
TASKS = "it follows from tasks=..."

GIVEN = {
    "trainer.max_steps": LENGTH,
    "trainer.min_steps": LENGTH,
    "trainer.max_epochs": LENGTH,
    "trainer.min_epochs": LENGTH,
    "trainer.limit_train_batches": LENGTH,
    "trainer.overfit_batches": LENGTH,
    "trainer.accumulate_grad_batches": "an update has one batch: batch_size=...",
    "trainer.callbacks": "a callback has a name: +callbacks.NAME={_target_: ...}",
    "trainer.logger": "a logger has a name: +logger.NAME={_target_: ...}",
    "trainer.enable_checkpointing": "checkpoint.every_n_train_steps=... says how often there is one",
    "trainer.default_root_dir": "a run's folder is hydra.run.dir=...",
    "trainer.limit_val_batches": EVALUATION,
    "trainer.limit_test_batches": EVALUATION,
    "trainer.limit_predict_batches": EVALUATION,
    "trainer.val_check_interval": EVALUATION,
    "trainer.check_val_every_n_epoch": EVALUATION,
    "trainer.num_sanity_val_steps": EVALUATION,
    "trainer.reload_dataloaders_every_n_epochs": "replay is one stream",
    "trainer.use_distributed_sampler": "each rank draws from its own replay",
    "replay.slot_task": TASKS,
    "replay.obs_dim": TASKS,
    "replay.action_dim": TASKS,
    "replay.unroll_steps": "write unroll_steps=...",
    "replay.td_steps": "write td_steps=...",
    "replay.batch_size": "write batch_size=...",
    "replay.seed": "write seed=...",
    "replay.world_size": "the number of processes is trainer.devices=... times trainer.num_nodes=...",
    "replay.extras": "they are the agent's",
    "collect.env": TASKS,
    "evaluate.make_env": TASKS,
}


def updates_in(env_steps_per_task: int, cfg: DictConfig) -> int:
    """The number of updates of a budget: environment steps after the warm-up, divided by the steps per update."""
    return int(len(cfg.tasks.names) * (env_steps_per_task - cfg.warmup_env_steps) / cfg.env_steps_per_update)


def env_steps_for(updates: int, cfg: DictConfig) -> int:
    """The smallest budget, in simulator steps per task, that has this number of updates."""
    steps = math.ceil(updates * cfg.env_steps_per_update / len(cfg.tasks.names))
    while updates_in(cfg.warmup_env_steps + steps, cfg) < updates:  # because of rounding
        steps += 1
    return cfg.warmup_env_steps + steps


def check_given(cfg: DictConfig) -> None:
    """Raises ValueError for an argument in ``cfg`` that the program sets, with what to write instead."""
    for key in GIVEN:
        node, _, leaf = key.rpartition(".")
        parent = OmegaConf.select(cfg, node)
        if isinstance(parent, DictConfig) and leaf in parent:
            value = None if OmegaConf.is_missing(parent, leaf) else parent[leaf]
            numbers = IN_NUMBERS.get(key)
            raise ValueError(f"{key}: {numbers(value, cfg) if numbers else GIVEN[key]}")


def _budget(value: Any, cfg: DictConfig) -> str:
    """The smallest budget in whole simulator steps per task that has at least this number of updates."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        return LENGTH
    needed = env_steps_for(value, cfg)
    return f"{LENGTH.removesuffix('...')}{needed} has {updates_in(needed, cfg)}"


IN_NUMBERS: dict[str, Callable[[Any, DictConfig], str]] = {"trainer.max_steps": _budget}
