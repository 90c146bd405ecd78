"""Settings that are one number for all tasks, or a node of numbers: ``{gym/Pendulum-v1: 1, gym: 2, others: 4}``.

A task gets the number of its name, else that of its source, else that of ``others``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf

from ezm_lightning.envs.sources import resolve_tasks
from ezm_lightning.errors import nearest
from ezm_lightning.ranges import COUNT, POSITIVE, SHARE_ABOVE_0, Range

OTHERS, AUTO = "others", "auto"
PER_TASK: dict[str, Range] = {"discount": SHARE_ABOVE_0, "tasks.action_repeat": COUNT, "tasks.reward_scale": POSITIVE}
MAY_BE_AUTO = ("discount", "tasks.reward_scale")
MAY_BE_MISSING = ("tasks.reward_scale",)  # settings that need no number for every task
LEAST_DISCOUNT, GREATEST_DISCOUNT = 0.95, 0.995


def for_each(setting: Any, names: Sequence[str]) -> list[Any]:
    """The setting of each task; None for a task without a number in a node."""
    if not isinstance(setting, Mapping | DictConfig):
        return [setting] * len(names)
    return [next((setting[key] for key in _keys(name) if key in setting), None) for name in names]


def kept(setting: DictConfig, names: Sequence[str]) -> dict[str, Any]:
    """A node of numbers without those of other tasks than these."""
    return {str(key): setting[key] for key in setting if any(key in _keys(name) for name in names)}


def _keys(name: str) -> tuple[str, str, str]:
    return name, name.partition("/")[0], OTHERS


def merged(numbers: Sequence[Any]) -> Any:
    """One number if all are the same, so that computations are those of a single task; else the list."""
    return numbers[0] if all(number == numbers[0] for number in numbers) else list(numbers)


def auto_discount(decisions: float) -> float:
    """γ = (L/5 − 1) / (L/5) of an episode of L decisions, in [0.95, 0.995] (Newt; TD-MPC2's rule)."""
    return min(max((decisions / 5 - 1) / (decisions / 5), LEAST_DISCOUNT), GREATEST_DISCOUNT)


def discounts(setting: Any, names: Sequence[str], action_repeat: Any) -> Any:
    """γ of all tasks, or one per task; 'auto' is computed."""
    numbers = for_each(setting, names)
    if AUTO in numbers:
        specs, repeats = resolve_tasks(list(names)), for_each(action_repeat, names)
        numbers = [
            auto_discount(spec.max_episode_steps / repeat) if gamma == AUTO else gamma
            for gamma, spec, repeat in zip(numbers, specs, repeats, strict=True)
        ]
    return merged(numbers)


def reward_scales(setting: Any, names: Sequence[str]) -> list[float | None]:
    """s of each task, from the setting or else from its source; None if neither has one."""
    numbers = for_each(setting, names)
    return [
        spec.reward_scale if number in (AUTO, None) else number
        for number, spec in zip(numbers, resolve_tasks(list(names)), strict=True)
    ]


def check_per_task(cfg: DictConfig) -> None:
    """Raises ValueError for a number outside its range, an unknown name, and a task without a number."""
    names = [str(name) for name in OmegaConf.select(cfg, "tasks.names") or ()]
    for key, limits in PER_TASK.items():
        setting = OmegaConf.select(cfg, key)
        if isinstance(setting, DictConfig):
            _check_names(key, setting, names)
        elif setting is None and key in MAY_BE_MISSING:
            continue
        values = setting.items() if isinstance(setting, DictConfig) else [("", setting)]
        for name, value in values:
            if not (value == AUTO and key in MAY_BE_AUTO):
                _check_number(f"{key}.{name!s}".rstrip("."), limits, value, hint=key in MAY_BE_AUTO)


def check_reward_scale(cfg: DictConfig) -> None:
    """Raises ValueError for reward scales that the chosen agent would not use."""
    setting, used = (OmegaConf.select(cfg, key) for key in ("tasks.reward_scale", "module.reward_scale"))
    if setting not in (None, AUTO) and used is None and OmegaConf.select(cfg, "module") is not None:
        raise ValueError(f"tasks.reward_scale={setting}: {cfg.module._target_} has no use for it; leave it out")


def _check_number(where: str, limits: Range, value: Any, *, hint: bool) -> None:
    if hint and isinstance(value, str):
        raise ValueError(f"{where}={value} must be {limits} or {AUTO}; nearest: {AUTO}")
    limits.check(where, value)


def check_new_tasks(cfg: DictConfig, names: Sequence[str]) -> None:
    """Raises ValueError if a setting in the config of a trained agent has no number for one of these new tasks."""
    for key in PER_TASK:
        missing = _without_number(OmegaConf.select(cfg, key), names)
        if missing and key not in MAY_BE_MISSING:
            raise ValueError(
                f"{key} of the checkpoint has numbers for its own tasks alone, none for {', '.join(missing)}; "
                f"new tasks need a checkpoint trained with {key}.{OTHERS}=NUMBER"
            )


def _without_number(setting: Any, names: Sequence[str]) -> list[str]:
    return [name for name, number in zip(names, for_each(setting, names), strict=True) if number is None]


def _check_names(key: str, setting: DictConfig, names: Sequence[str]) -> None:
    known = [*names, *dict.fromkeys(name.partition("/")[0] for name in names), OTHERS]
    for name in map(str, setting):
        if name not in known:
            raise ValueError(f"{key} names {name}, which is none of the run's tasks; nearest: {nearest(name, known)}")
    missing = _without_number(setting, names)
    if missing and key not in MAY_BE_MISSING:
        raise ValueError(f"{key} has no number for {', '.join(missing)}: add {OTHERS}: NUMBER")
