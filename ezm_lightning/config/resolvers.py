"""What the files of ``conf/`` compute with: ``${len:...}``, ``${add:...}``, the tasks' dimensions, a cluster's GPUs."""

from __future__ import annotations

from collections.abc import Sequence

from omegaconf import ListConfig, OmegaConf

from ezm_lightning.envs.sources import resolve_tasks
from ezm_lightning.language.encoders import encoder_kind

GPUS = ("gpu", "cuda")


def obs_dims(names: Sequence[str]) -> ListConfig:
    """Each task's observation width."""
    return ListConfig([spec.obs_dim for spec in resolve_tasks(list(names))])


def action_dims(names: Sequence[str]) -> ListConfig:
    """Each task's action width."""
    return ListConfig([spec.action_dim for spec in resolve_tasks(list(names))])


def gpus_per_node(accelerator: str, devices: int) -> int | None:
    """What a SLURM job asks for: a GPU a process; None on the CPU."""
    return devices if accelerator in GPUS else None


def text_dim(encoder: str) -> int:
    """The width of a text encoder's vectors."""
    return encoder_kind(encoder).dim


OmegaConf.register_new_resolver("text_dim", text_dim, replace=True)
OmegaConf.register_new_resolver("len", len, replace=True)
OmegaConf.register_new_resolver("add", lambda *numbers: sum(numbers), replace=True)
OmegaConf.register_new_resolver("obs_dims", obs_dims, replace=True)
OmegaConf.register_new_resolver("action_dims", action_dims, replace=True)
OmegaConf.register_new_resolver("gpus_per_node", gpus_per_node, replace=True)
