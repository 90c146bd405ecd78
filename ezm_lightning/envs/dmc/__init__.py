"""DeepMind Control Suite: ``dmc/<domain>-<task>``. ``suite`` is the source, ``dims`` its table. ``physics`` and
``together`` step its tasks faster, with the same numbers."""

from ezm_lightning.envs.dmc.suite import known_tasks, make, task_spec

__all__ = ["known_tasks", "make", "task_spec"]
