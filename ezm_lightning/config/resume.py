"""What a resumed run may change: all keys but those on which its checkpoint depends."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from ezm_lightning.config.overrides import quoted
from ezm_lightning.config.per_task import PER_TASK, for_each
from ezm_lightning.config.pretraining import is_pretraining

REPLAY = "the replay holds steps that were taken with the other"
DRAWN = "the replay keeps its windows and priorities as the other has them"
WEIGHTS = "the weights were learned with the other"
RATIO = "the collected steps and the updates were counted with the other"
FIXED = {  # keys, or beginnings of keys, and why a run cannot be resumed with another value
    "tasks.names": REPLAY,
    "tasks.action_repeat": REPLAY,
    "envs_per_task": REPLAY,
    "replay._target_": REPLAY,
    "replay.ier": DRAWN,
    "replay.window": DRAWN,
    "replay.priority_exponent": DRAWN,
    "warmup_env_steps": RATIO,
    "env_steps_per_update": RATIO,
    "collect.warmup_env_steps": RATIO,
    "collect.env_steps_per_update": RATIO,
    "tasks.reward_range": WEIGHTS,
    "tasks.value_range": WEIGHTS,
    "value_range": WEIGHTS,
    "module._target_": WEIGHTS,
    "module.value_limit": WEIGHTS,
    "module.num_atoms": WEIGHTS,
    "module.initial_temperature": WEIGHTS,
    "module.optimizer._target_": "its moments are those of the other",
    "model": WEIGHTS,
    "pretrain": "that stage is over",
    "text": "the checkpoint holds the vectors of its instructions",
    "seed": "a run resumes with the random states of its checkpoint",
}
OWN = ("run_dir", "ckpt_path", "name", "hydra")  # every start has its own
MISSING = object()


def check_resumable(cfg: DictConfig, saved: Mapping[str, Any], path: str | Path) -> None:
    """Raises ValueError, with the keys, if ``cfg`` differs from a checkpoint's config in keys that cannot change."""
    if "distil" in saved:
        raise ValueError(
            f"{path} is of ezm distil and has no state to resume from; "
            f"its source has: ckpt_path={saved['distil']['source']}"
        )
    under_way = ("pretrain.",) if is_pretraining(cfg) else ()
    differ = [
        (key, now, then) for key, now, then in changes(cfg, saved) if why_fixed(key) and not key.startswith(under_way)
    ]
    if differ:
        named = ", ".join(f"{key}={_shown(now)} (there: {_shown(then)})" for key, now, then in differ)
        again = " ".join(shlex.quote(f"{key}={_shown(then)}") for key, _, then in differ)
        raise ValueError(
            f"{path} cannot resume with {named}: {why_fixed(differ[0][0])}; write {again}, or start a new run"
        )


def changed(cfg: DictConfig, saved: Mapping[str, Any]) -> list[str]:
    """A line for each value that differs from the checkpoint's: 'batch_size=32 (was 16)'."""
    return [f"{key}={_shown(now)} (was {_shown(then)})" for key, now, then in changes(cfg, saved)]


def why_fixed(key: str) -> str | None:
    """Why a run cannot be resumed with another value of a key; None if it can."""
    return next((reason for start, reason in FIXED.items() if f"{key}.".startswith(f"{start}.")), None)


def changes(cfg: DictConfig, saved: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """(key, value now, value in the checkpoint) of keys that both have; interpolations are left out."""
    for key, now in _leaves(cfg):
        then = _at(saved, key)
        if then is not MISSING and key.partition(".")[0] not in OWN and _differs(key, now, then, cfg):
            yield key, now, then


def _differs(key: str, now: Any, then: Any, cfg: DictConfig) -> bool:
    """Whether two values mean something else; numbers per task are compared task by task."""
    if key not in PER_TASK:
        return bool(now != then)
    return for_each(now, cfg.tasks.names) != for_each(then, cfg.tasks.names)


def _leaves(cfg: DictConfig, path: str = "") -> Iterator[tuple[str, Any]]:
    for name in map(str, cfg):
        key = f"{path}.{name}" if path else name
        if OmegaConf.is_interpolation(cfg, name) or OmegaConf.is_missing(cfg, name):
            continue
        value = cfg[name]
        if isinstance(value, DictConfig) and len(value) and key not in PER_TASK:
            yield from _leaves(value, key)
        else:
            yield (
                key,
                OmegaConf.to_container(value, resolve=True) if isinstance(value, DictConfig | ListConfig) else value,
            )


def _at(saved: Any, key: str) -> Any:
    for name in key.split("."):
        if not isinstance(saved, Mapping) or name not in saved:
            return MISSING
        saved = saved[name]
    return saved


def _shown(value: Any) -> str:
    """A value as Hydra reads it on a command line."""
    if isinstance(value, list):
        return f"[{','.join(map(_shown, value))}]"
    if isinstance(value, dict):
        pairs = ((str(key).replace("=", "\\="), _shown(item)) for key, item in value.items())
        return "{" + ", ".join(": ".join(pair) for pair in pairs) + "}"
    if isinstance(value, str) and "=" in value:
        return quoted(value)
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
