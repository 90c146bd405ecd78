"""Tasks by name and the batched environment that steps many of them at once.

``sources`` knows task names, ``spec`` what is known of one; neither imports physics. ``dmc``, ``gym``,
``humanoidbench``, ``metaworld`` and ``robotics`` are sources, each imported only when a task of it is asked for.
``simulator`` is what a source is made of, ``gym_task`` a Gymnasium environment as one, ``multitask`` the TorchRL
environment over all of them, ``mujoco_state`` the exact state of a MuJoCo simulation, ``gym_state`` that of an
environment around it, ``rendering`` its pictures.

This package imports light: ``MultiTaskEnv`` (which needs TorchRL) is loaded at first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ezm_lightning.envs.simulator import Simulator, Transition
from ezm_lightning.envs.sources import known_tasks, register_source, resolve_tasks, task_spec
from ezm_lightning.envs.spec import TaskSpec

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
