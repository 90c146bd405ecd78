"""Gymnasium environments: ``gym/<id>`` for any id whose observations are a flat Box, or a Dict of them, and whose
actions are a Box.

Gymnasium's own ``module:id`` works too (``gym/my_package.my_envs:Reach-v0`` imports the module, which registers the
id). Arguments of the environment follow a question mark: ``gym/LunarLander-v3?continuous=true``,
``gym/Ant-v5?healthy_reward=0.5&exclude_current_positions_from_observation=false``; a value is read as JSON, else as a
word. The time limit is the registered ``max_episode_steps``, or 1000 if none is registered. ``gym_task`` passes on
actions and observations, and says which environments are saved exactly.

The ids of the original HumanoidBench package (``gym/h1hand-cube-v0``) work on today's MuJoCo and Gymnasium if the
package is installed; see ``humanoidbench.original``. The ids of gymnasium-robotics and Meta-World work too
(``gym/gymnasium_robotics:FetchReach-v4``), but ``gr/...`` and ``mw/...`` are better names for them.
"""

from __future__ import annotations

import contextlib
import functools
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from ezm_lightning.envs import checks
from ezm_lightning.envs.process import mujoco_warns_once
from ezm_lightning.envs.simulator import SimulatorSlots
from ezm_lightning.envs.spec import TaskSpec
from ezm_lightning.errors import first_line, nearest

DEFAULT_EPISODE_STEPS = 1000
# Bounds of a step's reward by the environment's own formula; for other tasks the warm-up measures the scale.
REWARD_RANGES = {
    "Pendulum-v1": (-16.2736044, 0.0),  # −(π² + 0.1·8² + 0.001·2²)
    "MountainCarContinuous-v0": (-0.1, 100.0),
    "InvertedPendulum-v4": (0.0, 1.0),
    "InvertedPendulum-v5": (0.0, 1.0),
}
HUMANOID_BENCH = re.compile(r"(h1|h1hand|h1simplehand|h1strong|h1touch|g1)-.+-v0")


def known_tasks() -> list[str]:
    """The MuJoCo ids that Gymnasium registers and can still run; none if Gymnasium is not installed."""
    try:
        import gymnasium
    except ImportError:
        return []
    return [id_ for id_, spec in gymnasium.registry.items() if _is_mujoco(spec) and (spec.version or 0) >= 4]


@functools.cache
def task_spec(task: str) -> TaskSpec:
    """Dimensions, from an environment that is built and stepped. Raises ValueError for an unknown id, for refused
    arguments and for spaces that are not flat, ImportError for a missing package."""
    with _closed(task, _make(task)) as env:
        spec = TaskSpec(
            f"gym/{task}",
            _width(task, "observation", env),
            _width(task, "action", env),
            _episode_steps(task, env),
            reward_range=REWARD_RANGES.get(task),
        )
        if type(env.unwrapped).__module__.startswith("gymnasium.envs."):
            return spec  # Gymnasium's own environments follow its API and do not report success
        return replace(spec, reports_success=_tried(spec, env))


@contextlib.contextmanager
def _closed(task: str, env: Any) -> Iterator[Any]:
    """Closes an environment after the context; warns if it cannot be closed."""
    try:
        yield env
    finally:
        with checks.closing(f"gym/{task}"):
            env.close()


def make(task: str, num_slots: int, *, action_repeat: int, ignore_termination: bool) -> SimulatorSlots:
    """``num_slots`` environments of a task."""
    spec = task_spec(task)
    from ezm_lightning.envs.gym_task import GymTask

    simulators = [GymTask(spec, _make(task)) for _ in range(num_slots)]
    if len({id(simulator.env.unwrapped) for simulator in simulators}) < num_slots:
        raise ValueError(f"gym/{task}: the same environment was built twice, each slot needs one of its own")
    return SimulatorSlots(spec, simulators, action_repeat=action_repeat, ignore_termination=ignore_termination)


def _make(task: str) -> Any:
    try:
        import gymnasium
    except ImportError as error:
        raise ImportError(f"gym/{task} needs Gymnasium ({error}); pip install 'gymnasium[mujoco]'") from error
    id_, arguments = _parsed(task)
    mujoco_warns_once()
    try:
        # Time limits are counted by SimulatorSlots; -1 leaves Gymnasium's own wrapper out.
        return _maker(id_)(id_, max_episode_steps=-1, disable_env_checker=True, **arguments)
    except gymnasium.error.DependencyNotInstalled as error:
        raise ImportError(f"gym/{task} needs a package that is missing: {error}") from error
    except ModuleNotFoundError as error:
        raise ImportError(f"gym/{task} needs a module that is missing: {error}") from error
    except gymnasium.error.Error as error:
        raise ValueError(_unknown(task, id_, error)) from error
    except ImportError:
        raise
    except Exception as error:  # an environment may raise anything
        raise ValueError(_why_not(task, "built", error)) from error


def _unknown(task: str, id_: str, error: Exception) -> str:
    """The reason why Gymnasium does not build an id."""
    import gymnasium

    registered = gymnasium.registry.get(id_.rpartition(":")[2])
    if registered is not None and registered.entry_point is None:
        return f"gym/{task} has only a vectorised version (vector_entry_point), which is not supported"
    return f"unknown task gym/{task} ({first_line(error)}); nearest: {nearest(id_, _runnable_ids())}"


def _parsed(task: str) -> tuple[str, dict[str, Any]]:
    """('LunarLander-v3', {'continuous': True}) of 'LunarLander-v3?continuous=true'."""
    id_, question, text = task.partition("?")
    arguments = {}
    for pair in text.split("&") if question else []:
        name, equals, value = pair.partition("=")
        if not equals or not name.isidentifier():
            raise ValueError(f"gym/{task}: arguments are written name=value&name=value behind the '?', got {pair!r}")
        arguments[name] = _value(value)
    return id_, arguments


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _why_not(task: str, verb: str, error: Exception) -> str:
    hint = "; arguments follow a '?': gym/ID?name=value&name=value" if isinstance(error, TypeError) else ""
    return f"gym/{task} cannot be {verb}: {checks.described(error)}{hint}"


def _maker(id_: str) -> Callable[..., Any]:
    import gymnasium

    registered = gymnasium.registry.get(id_)
    entry_point = "" if registered is None else str(registered.entry_point)
    if entry_point.startswith("gymnasium_robotics.") or id_.startswith("gymnasium_robotics:"):
        from ezm_lightning.envs import robotics

        return robotics.make_env
    if id_.startswith(("metaworld:", "Meta-World/")):
        from ezm_lightning.envs import metaworld

        return metaworld.make_registered
    if (entry_point and not entry_point.startswith("humanoid_bench.")) or not HUMANOID_BENCH.fullmatch(id_):
        return gymnasium.make
    from ezm_lightning.envs.humanoidbench import original

    return original.make


def _runnable_ids() -> list[str]:
    import gymnasium

    # Ids that moved to another package are registered with a function that says so.
    return [id_ for id_, spec in gymnasium.registry.items() if isinstance(spec.entry_point, str)]


def _is_mujoco(spec: Any) -> bool:
    return str(spec.entry_point).startswith("gymnasium.envs.mujoco")


def _width(task: str, kind: str, env: Any) -> int:
    import gymnasium

    from ezm_lightning.envs.gym_task import flat_size

    space = getattr(env, f"{kind}_space")
    size = None if kind == "action" and isinstance(space, gymnasium.spaces.Dict) else flat_size(space)
    if not size:
        expected = "a Box with one axis" + (" or a Dict of them" if kind == "observation" else "")
        raise ValueError(f"gym/{task} has the {kind} space {space}; only {expected} is supported")
    return size


def _episode_steps(task: str, env: Any) -> int:
    """The limit registered for the id of the task, else the limit that its builder has set.

    A builder may use another id; the environment then has only the limit of that id.
    """
    import gymnasium

    built = env.spec  # for an id without a version it has the newest version
    specs = [
        gymnasium.registry.get(_parsed(task)[0].rpartition(":")[2]),
        built,
        built and gymnasium.registry.get(built.id),
    ]
    limits = [spec.max_episode_steps for spec in specs if spec is not None]
    return next((limit for limit in limits if limit not in (None, -1)), DEFAULT_EPISODE_STEPS)


def _tried(spec: TaskSpec, env: Any) -> bool:
    """Whether a step reports success. Raises ValueError if a reset or a step has a wrong result."""
    from ezm_lightning.envs.gym_task import GymTask, success_of

    with checks.building(spec.name, "stepped"):
        task = GymTask(spec, env)
        task.seed(0)
        checks.observation(task.reset(), spec.obs_dim, spec.name)
        obs, reward, *ends, info = checks.gym_step(env.step(task.control(np.zeros(spec.action_dim))))
        checks.observation(task.flattened(obs), spec.obs_dim, spec.name)
        checks.number(reward, "the reward")
        for end_name, end in zip(("terminated", "truncated"), ends, strict=True):
            checks.flag(end, end_name)
        return success_of(info) is not None
