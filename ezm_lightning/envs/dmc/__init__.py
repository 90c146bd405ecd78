"""DeepMind Control Suite: ``dmc/<domain>-<task>`` for every task of ``dm_control.suite``.

``dims`` is the table of its tasks, ``suite`` has its environments. ``physics`` and ``together`` step them faster, with
the same numbers.
"""

from __future__ import annotations

from ezm_lightning.envs.dmc.dims import known_tasks, task_spec
from ezm_lightning.envs.slots import Slots

__all__ = ["known_tasks", "make", "task_spec"]


def make(task: str, num_slots: int, *, action_repeat: int, ignore_termination: bool) -> Slots:
    """``num_slots`` environments of a task."""
    from ezm_lightning.envs.dmc.suite import SuiteSlots  # imports torch

    return SuiteSlots(task, num_slots, action_repeat=action_repeat, ignore_termination=ignore_termination)
