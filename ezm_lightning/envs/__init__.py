"""Tasks by name and the batched environment that steps many of them at once.

``tasks`` knows names and dimensions and imports no simulator. ``dmc`` and ``gym`` are sources of environments, each
imported only when a task of it is asked for; ``simulator`` is what a source is made of, ``multitask`` the TorchRL
environment over all of them, ``physics_state`` the exact state of a MuJoCo simulation, ``rendering`` its pictures.

This package imports light: ``MultiTaskEnv`` (which needs TorchRL) is loaded at first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ezm_lightning.envs.simulator import Simulator, Transition
from ezm_lightning.envs.tasks import TaskSpec, known_tasks, register_source, resolve_tasks, task_spec

if TYPE_CHECKING:
    from ezm_lightning.envs.multitask import MultiTaskEnv

__all__ = [
    "MultiTaskEnv",
    "Simulator",
    "TaskSpec",
    "Transition",
    "known_tasks",
    "register_source",
    "resolve_tasks",
    "task_spec",
]


def __getattr__(name: str) -> Any:
    if name == "MultiTaskEnv":
        from ezm_lightning.envs.multitask import MultiTaskEnv

        return MultiTaskEnv
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
