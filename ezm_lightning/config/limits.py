"""The ranges of numbers that are not parameters of the package's classes, and conditions on several numbers together.

The range of a parameter is in its type (`ranges`); `signatures` checks it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError

from ezm_lightning.config.per_task import PER_TASK, check_per_task, check_reward_scale, for_each
from ezm_lightning.config.signatures import import_target, ranges_of
from ezm_lightning.ranges import COUNT, COUNT_FROM_0, NOT_NEGATIVE, POSITIVE, SHARE, Range

SEED = Range(0, 1_000_000_000, whole=True)

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
    "max_nonfinite_updates": COUNT,
    **PER_TASK,
    "module.optimizer.lr": POSITIVE,
    "module.optimizer.weight_decay": NOT_NEGATIVE,
    "model.log_std_bound.low": Range(),
    "model.log_std_bound.high": Range(),
    "trainer.gradient_clip_val": replace(POSITIVE, or_null=True),
    "trainer.log_every_n_steps": COUNT,
    "eval.episodes": COUNT,
    "eval.seed": replace(SEED, or_null=True),
    "eval.video_fps": COUNT,
    "episodes": COUNT,
    "batch": COUNT,
    "roots": COUNT,
    "updates": COUNT,
    "eval_episodes": COUNT_FROM_0,
    "simulations": replace(COUNT, or_null=True),
    "fps": COUNT,
    "seconds": replace(POSITIVE, or_null=True),
    "most": replace(COUNT, or_null=True),
    "action_repeat": replace(COUNT, or_null=True),
    "demos.share": SHARE,
    "demos.per_task": replace(COUNT, or_null=True),
    "pretrain.updates": COUNT_FROM_0,
    "pretrain.batch_size": COUNT,
    "pretrain.share": SHARE,
    "pretrain.reanalyzer.ratio": SHARE,
    **{
        f"pretrain.loss_coefs.{name}": NOT_NEGATIVE
        for name in ("policy", "value_gradient", "entropy", "temperature", "bc")
    },
    "transfer.seed": SEED,
    "transfer.env_steps_per_task": replace(COUNT, or_null=True),
    "transfer.warmup_env_steps": replace(COUNT, or_null=True),
    "transfer.interval": replace(COUNT, or_null=True),
    "transfer.episodes": replace(COUNT, or_null=True),
}
SWITCHES = (
    "eval.policy",
    "eval.video",
    "eval.trust",
    "transfer.trust",
    "trust",
    "search",
    "filter",
    "pretrain.skip_missing",
)
PICTURES = ("size", "eval.video_size")
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")  # the replay stores float32
UNSUPPORTED = ("64", "64-true", "16-true", "bf16-true", "transformer-engine", "transformer-engine-float16")
PARTS = {"planner": "ezm_lightning.planner.Planner"}  # of ezm eval and ezm export
RISING = (
    ("value_range.0", "value_range.1"),
    ("tasks.reward_range.0", "tasks.reward_range.1"),
    ("tasks.value_range.0", "tasks.value_range.1"),
    ("model.log_std_bound.low", "model.log_std_bound.high"),
)


def check_limits(cfg: DictConfig) -> None:
    """Raises ValueError for a number of ``cfg`` outside its range, with the nearest number inside."""
    _check_warmup(cfg)
    _check_precision(cfg)
    for node, name in PARTS.items():
        _check_part(cfg, node, name)
    for key, limits in RANGES.items():
        if key in PER_TASK:
            continue
        for value in _values(cfg, key):
            limits.check(key, value)
    _check_switches(cfg)
    _check_pictures(cfg)
    if OmegaConf.select(cfg, "tasks.names") is not None and "discount" in cfg:
        check_per_task(cfg)
        check_reward_scale(cfg)
    for ends in RISING:
        pair: list[Any] = [value for end in ends for value in _values(cfg, end)]
        if pair and not (all(value in Range() for value in pair) and pair[0] < pair[1]):
            raise ValueError(f"{ends[0].rpartition('.')[0]}={pair} must be two numbers, the first below the second")


def _check_switches(cfg: DictConfig) -> None:
    """Raises ValueError for a switch that is neither true nor false."""
    for key in (*SWITCHES, "window"):
        for value in _values(cfg, key):
            if not isinstance(value, bool) and not (key == "window" and value is None):
                raise ValueError(f"{key}={'null' if value is None else value} must be true or false")


def _check_pictures(cfg: DictConfig) -> None:
    """Raises ValueError for a picture's size that is not a height and a width."""
    for key in PICTURES:
        for size in _values(cfg, key):
            if not (isinstance(size, ListConfig) and len(size) == 2 and all(pixels in COUNT for pixels in size)):
                shown = f"[{','.join(map(str, size))}]" if isinstance(size, ListConfig) else size
                raise ValueError(f"{key}={shown} must be a height and a width, such as [240,320]")


def _check_precision(cfg: DictConfig) -> None:
    """Raises ValueError for a precision that is not supported; Lightning refuses unknown ones."""
    for precision in _values(cfg, "trainer.precision"):
        if str(precision) in UNSUPPORTED:
            raise ValueError(f"trainer.precision={precision} is not supported; nearest: {', '.join(PRECISIONS)}")


def _check_part(cfg: DictConfig, node: str, name: str) -> None:
    """Checks a node that changes arguments of a class but has no ``_target_``; null leaves an argument unchanged."""
    part = OmegaConf.select(cfg, node)
    if not isinstance(part, DictConfig) or "_target_" in part:
        return
    for key, limits in ranges_of(import_target(name, node)).items():
        for value in _values(cfg, f"{node}.{key}"):
            if value is not None:
                limits.check(f"{node}.{key}", value)


def _check_warmup(cfg: DictConfig) -> None:
    """Raises ValueError for a warm-up of fewer than two steps of an environment, which a window needs."""
    for warmup in _values(cfg, "warmup_env_steps"):
        repeats = [for_each(setting, cfg.tasks.names) for setting in _values(cfg, "tasks.action_repeat")]
        factors = [*_values(cfg, "envs_per_task"), *(_greatest(numbers) for numbers in repeats)]
        if any(value not in Range(whole=True) for value in (warmup, *factors)) or min(factors) < 1:
            continue  # other checks refuse these numbers
        least = 2 * math.prod(factors)
        if warmup < least:
            raise ValueError(
                f"warmup_env_steps={warmup} must be at least two steps of each of envs_per_task={cfg.envs_per_task} "
                f"with action_repeat={cfg.tasks.action_repeat}; nearest: {least:_}"
            )


def _greatest(numbers: list[Any]) -> Any:
    """The greatest of the numbers, or the first that is not a whole number."""
    wrong = [number for number in numbers if number not in Range(whole=True)]
    return wrong[0] if wrong else max(numbers)


def check_devices(cfg: DictConfig) -> None:
    """Raises ValueError for a device in ``cfg`` that this host does not have."""
    import torch  # takes seconds, which a refused command line should not wait for

    accelerator_found = torch.accelerator.current_accelerator(check_available=True)
    devices = ["cpu", *([accelerator_found.type] if accelerator_found else [])]
    for device in _values(cfg, "replay.device"):
        if device not in devices:
            raise ValueError(f"replay.device={device} is not there; nearest: {', '.join(devices)}")
    for accelerator in _values(cfg, "trainer.accelerator"):
        if accelerator in ("gpu", "cuda") and not accelerator_found:
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
