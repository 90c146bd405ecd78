"""gymnasium-robotics: ``gr/<id>``, the 113 newest of its ids that run on MuJoCo's own bindings.

Fetch (an arm with a gripper), the Shadow hand with and without touch sensors, the Adroit hand, ant and point mazes and
the Franka kitchen. All but the kitchen have a sparse and a dense reward. Every step reports success. Observations are
flattened: ``achieved_goal``, ``desired_goal``, ``observation``.

The package tests ``number in (enumeration, enumeration)`` for joint types, which is false since MuJoCo's enumerations
are no longer integers. Here it gets an enumeration of integers; the package's files stay unchanged.
"""

from __future__ import annotations

import contextlib
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ezm_lightning.envs.simulator import SimulatorSlots
from ezm_lightning.envs.spec import TaskSpec
from ezm_lightning.errors import nearest

HOW_TO_INSTALL = "pip install 'ezm-lightning[robotics]'"


class Family(NamedTuple):
    """Tasks of one robot: <stem><variant>[_<sensors>][<reward>]-v<version>."""

    obs_dim: int
    action_dim: int
    max_episode_steps: int
    version: int
    rewards: Mapping[str, tuple[float, float] | None]  # a suffix of the id to a step's range, if known


GOAL_RANGES = {"": (-1.0, 0.0), "Dense": None}
MAZE_RANGES = {"": (0.0, 1.0), "Dense": (0.0, 1.0)}
ADROIT_RANGES = {"": None, "Sparse": (-0.1, 10.0)}
TOUCH = ("_BooleanTouchSensors", "_ContinuousTouchSensors")
TOUCH_SENSORS = 92
HANDLED = {  # objects in the hand: their tasks, and their tasks with touch sensors
    "Block": (("", "Full", "RotateZ", "RotateParallel", "RotateXYZ"), ("", "RotateZ", "RotateParallel", "RotateXYZ")),
    "Egg": (("", "Full", "Rotate"), ("", "Rotate")),
    "Pen": (("", "Full", "Rotate"), ("", "Rotate")),
}
MAZE_STEPS = {"UMaze": (700, 300), "Open": (700, 300), "Medium": (1000, 600), "Large": (1000, 800)}  # ant, point


def _families() -> Iterator[tuple[str, Family]]:
    """Every stem of an id with its family."""
    yield "FetchReach", Family(16, 4, 50, 4, GOAL_RANGES)
    for skill in ("Push", "Slide", "PickAndPlace"):
        yield f"Fetch{skill}", Family(31, 4, 50, 4, GOAL_RANGES)
    yield "HandReach", Family(93, 20, 50, 3, GOAL_RANGES)
    for thing, (variants, touched) in HANDLED.items():
        for variant in variants:
            yield f"HandManipulate{thing}{variant}", Family(75, 20, 100, 1, GOAL_RANGES)
        for variant in touched:
            for sensors in TOUCH:
                yield f"HandManipulate{thing}{variant}{sensors}", Family(75 + TOUCH_SENSORS, 20, 100, 1, GOAL_RANGES)
    for maze, (ant_steps, point_steps) in MAZE_STEPS.items():
        for goals in [""] if maze == "UMaze" else ["", "_Diverse_G", "_Diverse_GR"]:
            yield f"AntMaze_{maze}{goals}", Family(109, 8, ant_steps, 5, MAZE_RANGES)
            yield f"PointMaze_{maze}{goals}", Family(8, 2, point_steps, 3, MAZE_RANGES)
    for skill, obs_dim, action_dim in (("Door", 39, 28), ("Hammer", 46, 26), ("Pen", 45, 24), ("Relocate", 39, 30)):
        yield f"AdroitHand{skill}", Family(obs_dim, action_dim, 200, 1, ADROIT_RANGES)
    yield "FrankaKitchen", Family(93, 9, 280, 1, {"": (0.0, 7.0)})


SPECS = {
    f"{stem}{reward}-v{family.version}": TaskSpec(
        f"gr/{stem}{reward}-v{family.version}",
        family.obs_dim,
        family.action_dim,
        family.max_episode_steps,
        reward_range=reward_range,
        reports_success=True,
    )
    for stem, family in _families()
    for reward, reward_range in family.rewards.items()
}


def known_tasks() -> list[str]:
    """The 113 ids, from a table: nothing is imported."""
    return list(SPECS)


def task_spec(task: str) -> TaskSpec:
    """Dimensions from the table. Raises ValueError for an unknown task, with the nearest names."""
    if task not in SPECS:
        raise ValueError(f"unknown task gr/{task}; nearest: {nearest(task, SPECS)}")
    return SPECS[task]


def make(task: str, num_slots: int, *, action_repeat: int, ignore_termination: bool) -> SimulatorSlots:
    """``num_slots`` environments of a task. Raises ImportError, with the remedy, if the package is missing."""
    spec = task_spec(task)
    from ezm_lightning.envs.gym_task import GymTask

    # Time limits are counted by SimulatorSlots; -1 leaves Gymnasium's own wrapper out.
    envs = [make_env(task, max_episode_steps=-1, disable_env_checker=True) for _ in range(num_slots)]
    simulators = [GymTask(spec, env, kept_whole=True, camera=-1) for env in envs]
    return SimulatorSlots(spec, simulators, action_repeat=action_repeat, ignore_termination=ignore_termination)


def make_env(id_: str, **arguments: Any) -> Any:
    """The environment; ``arguments`` as for ``gymnasium.make``."""
    try:
        import gymnasium
        import gymnasium_robotics
        from gymnasium_robotics.utils import mujoco_utils
    except ImportError as error:
        raise ImportError(f"gr/{id_} needs gymnasium-robotics ({error}); {HOW_TO_INSTALL}") from error
    mend(mujoco_utils)
    gymnasium.register_envs(gymnasium_robotics)
    env = gymnasium.make(id_, **arguments)
    with contextlib.suppress(AttributeError, FileNotFoundError):  # a maze leaves its XML file behind
        Path(env.unwrapped.tmp_xml_file_path).unlink()
    return env


def mend(mujoco_utils: Any) -> None:
    """Gives the module (gymnasium_robotics.utils.mujoco_utils) a MuJoCo whose joint types are integers."""
    if not isinstance(mujoco_utils.mujoco, IntegerJointTypes):
        mujoco_utils.mujoco = IntegerJointTypes(mujoco_utils.mujoco)


class IntegerJointTypes(types.ModuleType):
    """The module ``mujoco``, with integers in ``mjtJoint``."""

    def __init__(self, mujoco: Any) -> None:
        super().__init__("mujoco")
        self.original = mujoco
        self.mjtJoint = types.SimpleNamespace(
            **{name: int(value) for name, value in mujoco.mjtJoint.__members__.items()}
        )

    def __getattr__(self, name: str) -> Any:
        return getattr(self.original, name)
