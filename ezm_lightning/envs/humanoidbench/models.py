"""The MuJoCo model of a task, compiled once per process and shared by all its environments."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from ezm_lightning.envs.humanoidbench.assets import find_assets, model_file


def load_model(task: str) -> Any:
    """The MjModel of 'h1-walk'; without assets the built-in one.

    Raises FileNotFoundError, with the remedy, for an ``h1hand-*`` task without assets or if files are missing.
    """
    if find_assets() is None and task.startswith("h1-"):
        return _built(task)
    return _compiled(model_file(task))


@functools.cache
def _compiled(path: Path) -> Any:
    import mujoco

    return mujoco.MjModel.from_xml_path(str(path))


@functools.cache
def _built(task: str) -> Any:
    from ezm_lightning.envs.humanoidbench.builtin import build_model

    return build_model(task)
