"""Functions for the files of ``conf/``: ``${len:...}``, the tasks' dimensions, a checkpoint's run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from omegaconf import ListConfig, OmegaConf

from ezm_lightning.checkpoints.folder import WEIGHTS, is_checkpoint
from ezm_lightning.checkpoints.runs import recorded_id
from ezm_lightning.config.per_task import discounts, for_each, merged, reward_scales
from ezm_lightning.envs.sources import resolve_tasks
from ezm_lightning.language.encoders import encoder_kind

GPUS = ("gpu", "cuda")


def obs_dims(names: Sequence[str]) -> list[int]:
    """Each task's observation width."""
    return [spec.obs_dim for spec in resolve_tasks(list(names))]


def action_dims(names: Sequence[str]) -> list[int]:
    """Each task's action width."""
    return [spec.action_dim for spec in resolve_tasks(list(names))]


def reward_ranges(names: Sequence[str]) -> list[list[float] | None]:
    """The bounds of a simulator step's reward of each task; null if its source does not know them."""
    ranges = [spec.reward_range for spec in resolve_tasks(list(names))]
    return [None if pair is None else list(pair) for pair in ranges]


def gpus_per_node(accelerator: str, devices: int) -> int | None:
    """The GPUs of a SLURM job: one per process; None on the CPU."""
    return devices if accelerator in GPUS else None


def text_dim(encoder: str) -> int:
    """The width of a text encoder's vectors."""
    return encoder_kind(encoder).dim


def run_of_checkpoint(ckpt_path: str, name: str, seed: int) -> str:
    """The run's folder of a checkpoint <run>/checkpoints/<checkpoint>, else the folder of the checkpoint."""
    if ckpt_path == "last":
        return f"runs/{name}/seed{seed}_last"  # a placeholder for the newest run, which ``launch`` finds
    path = Path(ckpt_path)
    if path.is_dir() and not is_checkpoint(path):
        return str(path)
    path = path.parent if path.name == WEIGHTS else path
    return str(path.parent.parent if path.parent.name == "checkpoints" else path.parent)


def register(name: str, compute: Callable[..., Any]) -> None:
    """Makes ``${name:...}`` the result of ``compute``; a list becomes a node."""

    def resolve(*arguments: Any) -> Any:
        result = compute(*arguments)
        return ListConfig(result) if isinstance(result, list) else result

    OmegaConf.register_new_resolver(name, resolve, replace=True)


register("len", len)
register("add", lambda *numbers: sum(numbers))
register("obs_dims", obs_dims)
register("action_dims", action_dims)
register("reward_ranges", reward_ranges)
register("reward_scales", reward_scales)
register("discounts", discounts)
register("for_each", lambda setting, names: merged(for_each(setting, names)))
register("gpus_per_node", gpus_per_node)
register("run_of_checkpoint", run_of_checkpoint)
register("recorded_id", recorded_id)
register("text_dim", text_dim)
