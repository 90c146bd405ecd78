"""Tasks by name and the batched environment that steps many of them at once.

``sources`` knows task names, ``spec`` what is known of one; neither imports physics. ``dmc``, ``gym``,
``humanoidbench``, ``metaworld`` and ``robotics`` are sources, each imported only when a task of it is asked for.
``slots`` is what a source makes, ``simulator`` a task of one's own, ``gym_task`` a Gymnasium environment as one,
``multitask`` the TorchRL environment over all of them, ``checks`` what becomes of a mistake in any, ``saved_state`` and
``gym_state`` their states, ``mujoco_state`` that of a MuJoCo simulation, ``rendering`` its pictures.

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
