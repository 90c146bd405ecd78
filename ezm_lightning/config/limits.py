"""The range of every number in the config: one table, checked before anything is built or written."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError


@dataclass(frozen=True)
class Range:
    """The finite numbers from ``low`` to ``high``; ``whole`` ones, ``low`` itself not among them if ``above``."""

    low: float = -math.inf
    high: float = math.inf
    whole: bool = False
    above: bool = False
    or_null: bool = False

    def __contains__(self, value: object) -> bool:
        if value is None:
            return self.or_null
        if isinstance(value, bool) or not isinstance(value, int if self.whole else (int, float)):
            return False
        return math.isfinite(value) and self.low <= value <= self.high and not (self.above and value == self.low)

    def __str__(self) -> str:
        kind = "a whole number" if self.whole else "a number"
        if self.low == -math.inf:
            return kind
        if self.high == math.inf:
            return f"{kind} {'above' if self.above else 'of at least'} {self.low:,}"
        return f"{kind} in {'(' if self.above else '['}{self.low:,}, {self.high:,}]"

    def nearest(self, value: object) -> float | None:
        """The member nearest to ``value``; None where there is no such."""
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            return None
        clipped = min(max(round(value) if self.whole else value, self.low), self.high)
        return None if self.above and clipped == self.low else clipped


COUNT = Range(1, whole=True)
COUNT_OR_NULL = replace(COUNT, or_null=True)
COUNT_FROM_0 = Range(0, whole=True)
SEED = Range(0, 1_000_000_000, whole=True)
SHARE = Range(0, 1)
POSITIVE = Range(0, above=True)
NOT_NEGATIVE = Range(0)

RANGES = {
    "seed": SEED,
    "torch_threads": COUNT,
    "env_steps_per_task": COUNT,
    "warmup_env_steps": COUNT,
    "env_steps_per_update": POSITIVE,
    "envs_per_task": COUNT,
    "env_threads": COUNT_FROM_0,
    "max_fault_share": SHARE,
    "batch_size": COUNT,
    "unroll_steps": COUNT,
    "td_steps": COUNT,
    "discount": Range(0, 1, above=True),
    "max_nonfinite_updates": COUNT,
    "tasks.action_repeat": COUNT,
    "planner.num_simulations": COUNT_OR_NULL,  # null in ezm eval: as in training
    "planner.max_num_considered_actions": COUNT_OR_NULL,
    "planner.num_candidates": COUNT_OR_NULL,
    "planner.num_policy_candidates": replace(COUNT_FROM_0, or_null=True),
    "planner.num_leaf_candidates": COUNT_OR_NULL,
    "planner.std_multiplier": POSITIVE,
    "planner.c_visit": NOT_NEGATIVE,
    "planner.c_scale": NOT_NEGATIVE,
    "planner.gumbel_scale": NOT_NEGATIVE,
    "planner.value_floor": Range(or_null=True),
    "reanalyzer.ratio": Range(0, 1, above=True),
    "reanalyzer.bootstrap_heads": COUNT,
    "reanalyzer.trace_decay": Range(0, 1, or_null=True),
    "module.loss_coefs.reward": NOT_NEGATIVE,
    "module.loss_coefs.value": NOT_NEGATIVE,
    "module.loss_coefs.policy": NOT_NEGATIVE,
    "module.loss_coefs.consistency": NOT_NEGATIVE,
    "module.loss_coefs.path_consistency": NOT_NEGATIVE,
    "module.loss_coefs.value_gradient": NOT_NEGATIVE,
    "module.loss_coefs.entropy": NOT_NEGATIVE,
    "module.loss_coefs.temperature": NOT_NEGATIVE,
    "module.value_gradient.momentum": Range(0, 1, above=True),
    "module.value_gradient.least_range": POSITIVE,
    "temperature.value": NOT_NEGATIVE,
    "temperature.initial": POSITIVE,
    "temperature.target_entropy": Range(high=0.69),
    "policy_target.temperature": POSITIVE,
    "module.optimizer.lr": POSITIVE,
    "module.optimizer.weight_decay": NOT_NEGATIVE,
    "module.ema_half_life": POSITIVE,
    "module.lr_final_factor": SHARE,
    "module.lr_final_share": SHARE,
    "model.latent_dim": COUNT,
    "model.num_blocks": COUNT_FROM_0,
    "model.head_dim": COUNT,
    "model.task_embedding_dim": COUNT,
    "model.action_embedding_dim": COUNT,
    "model.projection_dim": COUNT,
    "model.num_value_heads": COUNT,
    "model.num_bins": Range(3, whole=True),
    "model.initial_std": POSITIVE,
    "model.mean_bound": replace(POSITIVE, or_null=True),
    "model.log_std_bound.low": Range(),
    "model.log_std_bound.high": Range(),
    "value_mix.start_step": COUNT_FROM_0,
    "value_mix.newest": COUNT,
    "value_mix.momentum": Range(0, 1, above=True),
    "replay.capacity": COUNT,
    "replay.window": COUNT_OR_NULL,
    "replay.priority_exponent": NOT_NEGATIVE,
    "replay.weight_exponent": NOT_NEGATIVE,
    "evaluate.interval": COUNT,
    "evaluate.episodes": COUNT,
    "checkpoint.every_n_train_steps": COUNT,
    "trainer.gradient_clip_val": replace(POSITIVE, or_null=True),
    "trainer.log_every_n_steps": COUNT,
    "eval.episodes": COUNT,
    "eval.seed": replace(SEED, or_null=True),
    "eval.video_fps": COUNT,
}
RISING = (
    ("value_range.0", "value_range.1"),
    ("tasks.reward_range.0", "tasks.reward_range.1"),
    ("tasks.value_range.0", "tasks.value_range.1"),
    ("model.log_std_bound.low", "model.log_std_bound.high"),
)


def check_limits(cfg: DictConfig) -> None:
    """Raise ValueError for a number of ``cfg`` outside its range, with the nearest inside."""
    _check_warmup(cfg)
    for key, limits in RANGES.items():
        for value in _values(cfg, key):
            if value not in limits:
                nearest = limits.nearest(value)
                hint = "" if nearest is None else f"; nearest: {nearest:_}"
                shown = "null" if value is None else value
                raise ValueError(f"{key}={shown} must be {limits}{' or null' * limits.or_null}{hint}")
    for ends in RISING:
        pair: list[Any] = [value for end in ends for value in _values(cfg, end)]
        if pair and not (all(value in Range() for value in pair) and pair[0] < pair[1]):
            raise ValueError(f"{ends[0].rpartition('.')[0]}={pair} must be two numbers, the first below the second")


def _check_warmup(cfg: DictConfig) -> None:
    """A window needs two steps of an environment."""
    for warmup in _values(cfg, "warmup_env_steps"):
        factors = [value for key in ("envs_per_task", "tasks.action_repeat") for value in _values(cfg, key)]
        if any(value not in Range(whole=True) for value in (warmup, *factors)) or min(factors) < 1:
            continue  # each has a range of its own
        least = 2 * math.prod(factors)
        if warmup < least:
            raise ValueError(
                f"warmup_env_steps={warmup} must be at least two steps of each of envs_per_task={cfg.envs_per_task} "
                f"with action_repeat={cfg.tasks.action_repeat}; nearest: {least:_}"
            )


def check_devices(cfg: DictConfig) -> None:
    """Raise ValueError for a device that ``cfg`` names and this host does not have."""
    found = torch.accelerator.current_accelerator(check_available=True)
    here = ["cpu", *([found.type] if found else [])]
    for device in _values(cfg, "replay.device"):
        if device not in here:
            raise ValueError(f"replay.device={device} is not there; nearest: {', '.join(here)}")
    for accelerator in _values(cfg, "trainer.accelerator"):
        if accelerator in ("gpu", "cuda") and not found:
            raise ValueError(f"trainer.accelerator={accelerator}: torch finds no GPU here; nearest: trainer=cpu")


def _values(cfg: DictConfig, key: str) -> Iterator[Any]:
    """The value at ``key``, if there is such a key and its value is known before the run."""
    parent, _, leaf = key.rpartition(".")
    try:
        node = OmegaConf.select(cfg, parent) if parent else cfg
        if leaf in node if isinstance(node, DictConfig) else isinstance(node, ListConfig):
            yield OmegaConf.select(cfg, key)
    except InterpolationResolutionError:
        return
