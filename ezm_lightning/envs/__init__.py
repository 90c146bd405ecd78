"""Tasks by name and the batched environment that steps many of them at once.

``sources`` has the task names and ``spec`` the description of a task; neither imports physics. ``dmc``, ``gym``,
``humanoidbench``, ``metaworld`` and ``robotics`` are sources; a source is imported when one of its tasks is used.
``slots`` has the environments that a source makes, ``simulator`` tasks of your own, ``gym_task`` Gymnasium environments
and ``multitask`` the TorchRL environment over all of them. ``checks`` reports mistakes of environments. ``saved_state``
and ``gym_state`` save their states, ``mujoco_state`` that of a MuJoCo simulation, and ``rendering`` draws pictures.

``MultiTaskEnv`` (which needs TorchRL) is imported at first use, so that this package is imported fast.
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
