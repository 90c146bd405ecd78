"""The MuJoCo model of a task: compiled once in a process and shared by all its environments."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from ezm_lightning.envs.humanoidbench.assets import find_assets, model_file


def load_model(task: str) -> Any:
    """The MjModel of 'h1-walk'. Raises FileNotFoundError for an ``h1hand-*`` task without assets."""
    if find_assets() is not None:
        return _compiled(model_file(task))
    if not task.startswith("h1-"):
        raise FileNotFoundError(
            f"hb/{task} needs HumanoidBench's assets, and none were found: run `ezm humanoidbench fetch`, or set "
            f"HUMANOID_BENCH_ASSETS to a folder humanoid_bench/assets (only hb/h1-* have a built-in model)"
        )
    return _built(task)


@functools.cache
def _compiled(path: Path) -> Any:
    import mujoco

    return mujoco.MjModel.from_xml_path(str(path))


@functools.cache
def _built(task: str) -> Any:
    from ezm_lightning.envs.humanoidbench.builtin import build_model

    return build_model(task)
