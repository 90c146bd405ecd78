"""What the files of ``conf/`` compute with: ``${len:...}``, the tasks' dimensions, a checkpoint's run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from omegaconf import ListConfig, OmegaConf

from ezm_lightning.envs.sources import resolve_tasks

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


def run_of_checkpoint(ckpt_path: str, name: str, seed: int) -> str:
    """The folder of the run that a checkpoint belongs to: <run>/checkpoints/<file>; a lone file's own folder."""
    if ckpt_path == "last":
        return f"runs/{name}/seed{seed}_last"  # stands for the newest run; ``launch`` finds it
    path = Path(ckpt_path)
    if path.is_dir():
        return str(path)
    return str(path.parent.parent if path.parent.name == "checkpoints" else path.parent)


OmegaConf.register_new_resolver("len", len, replace=True)
OmegaConf.register_new_resolver("add", lambda *numbers: sum(numbers), replace=True)
OmegaConf.register_new_resolver("obs_dims", obs_dims, replace=True)
OmegaConf.register_new_resolver("action_dims", action_dims, replace=True)
OmegaConf.register_new_resolver("gpus_per_node", gpus_per_node, replace=True)
OmegaConf.register_new_resolver("run_of_checkpoint", run_of_checkpoint, replace=True)
