"""HumanoidBench: ``hb/h1-walk`` and the 22 other tasks of the Medium and Hard suites, natively and batched.

``suite`` lists the tasks, ``rewards`` and ``contacts`` have their rewards and terminations, ``slots`` steps m
environments of a task. The models come from the user's copy of HumanoidBench's assets (``assets``). Without a copy the
nine ``h1-*`` tasks run on an H1 from ``builtin``, which is close to HumanoidBench's but not the same.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from ezm_lightning.envs.humanoidbench.suite import EPISODE_STEPS, TASKS
from ezm_lightning.envs.slots import Slots
from ezm_lightning.envs.spec import TaskSpec
from ezm_lightning.errors import nearest

BUILT_IN = "h1 (built-in collision shapes)"


def configure(*, assets: str | None = None) -> None:
    """Sets the assets of this process and of its children: a folder, or 'builtin'; None changes nothing."""
    from ezm_lightning.envs.humanoidbench.assets import VARIABLE

    if assets is not None:
        os.environ[VARIABLE] = str(assets)


def fetch(place: str | None = None) -> Iterator[str]:
    """Fetches the robots and scenes into the cache folder; yields lines to print. Raises ValueError if it cannot."""
    from ezm_lightning.envs.humanoidbench.download import fetch_assets

    return fetch_assets(place)


def health() -> list[tuple[str, bool, str]]:
    """The checks of ``ezm doctor``: whether the assets and the original package are installed."""
    from ezm_lightning.envs.humanoidbench.checks import check_assets, check_original

    return [("humanoid_bench assets", *check_assets()), ("humanoid_bench", *check_original())]


def known_tasks() -> list[str]:
    """The 23 names, without the prefix; nothing is imported."""
    return list(TASKS)


def task_spec(task: str) -> TaskSpec:
    """Dimensions and published scores. Raises ValueError for an unknown task, with the nearest names."""
    from ezm_lightning.envs.humanoidbench.assets import find_assets

    if task not in TASKS:
        raise ValueError(f"unknown task hb/{task}; nearest: {nearest(task, TASKS)}")
    listed, note = TASKS[task], BUILT_IN if task.startswith("h1-") and not find_assets() else ""
    random_score, success_score = (None, None) if note else (listed.random_score, listed.success_score)
    return TaskSpec(
        f"hb/{task}",
        listed.obs_dim,
        listed.action_dim,
        EPISODE_STEPS,
        random_score,
        success_score,
        reward_scale=1.0,  # the suites of conf/tasks have supports for raw rewards
        note=note,
    )


def make(task: str, num_slots: int, *, action_repeat: int, ignore_termination: bool) -> Slots:
    """``num_slots`` environments of a task, which share one model.

    Raises FileNotFoundError, with the remedy, for an ``h1hand-*`` task without assets.
    """
    from ezm_lightning.envs.humanoidbench.models import load_model
    from ezm_lightning.envs.humanoidbench.slots import HumanoidSlots

    spec = task_spec(task)
    model = load_model(task)
    return HumanoidSlots(spec, model, num_slots, action_repeat=action_repeat, ignore_termination=ignore_termination)
