"""Gymnasium environments: ``gym/<id>`` for any id whose observations are a flat Box and whose actions are a Box.

Gymnasium's own ``module:id`` works too (``gym/my_package.my_envs:Reach-v0`` imports the module, which registers the
id). The time limit is the registered ``max_episode_steps``, 1000 where none is registered. Actions in [-1, 1] are
mapped onto the action Box; an infinite bound counts as 1 away from zero, so an unbounded dimension receives the
action as it is. Environments of ``gymnasium.envs.mujoco`` and of classic control are saved exactly; any other may
hide state in Python, so its episode starts anew when a run is resumed.

The ids of the original HumanoidBench package (``gym/h1hand-cube-v0``) work on today's MuJoCo and Gymnasium where the
package is installed; see ``humanoidbench.original``.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ezm_lightning.envs import mujoco_state
from ezm_lightning.envs.rendering import Camera
from ezm_lightning.envs.simulator import Simulator, SimulatorSlots, State, Transition, to_box
from ezm_lightning.envs.spec import TaskSpec
from ezm_lightning.errors import nearest

DEFAULT_EPISODE_STEPS = 1000
HUMANOID_BENCH = re.compile(r"(h1|h1hand|h1simplehand|h1strong|h1touch|g1)-.+-v0")


def known_tasks() -> list[str]:
    """The MuJoCo ids that Gymnasium registers and can still run; none where Gymnasium is not installed."""
    try:
        import gymnasium
    except ImportError:
        return []
    return [id_ for id_, spec in gymnasium.registry.items() if _is_mujoco(spec) and (spec.version or 0) >= 4]


@functools.cache
def task_spec(task: str) -> TaskSpec:
    """Dimensions, from one environment built for it. Raises ValueError for an unknown id or for spaces that are not
    flat boxes, ImportError for a missing package."""
    env = _make(task)
    try:
        return TaskSpec(
            f"gym/{task}", _width(task, "observation", env), _width(task, "action", env), _episode_steps(env)
        )
    finally:
        env.close()


def make(task: str, num_slots: int, *, action_repeat: int, ignore_termination: bool) -> SimulatorSlots:
    """``num_slots`` environments of a task."""
    simulators = [GymTask(task) for _ in range(num_slots)]
    return SimulatorSlots(
        task_spec(task), simulators, action_repeat=action_repeat, ignore_termination=ignore_termination
    )


def _make(task: str) -> Any:
    try:
        import gymnasium
    except ImportError as error:
        raise ImportError(f"gym/{task} needs Gymnasium ({error}); pip install 'gymnasium[mujoco]'") from error
    try:
        # Time limits are counted by SimulatorSlots; -1 leaves Gymnasium's own wrapper out.
        return _maker(task)(task, max_episode_steps=-1, disable_env_checker=True)
    except gymnasium.error.DependencyNotInstalled as error:
        raise ImportError(f"gym/{task} needs a package that is missing: {error}") from error
    except ModuleNotFoundError as error:
        raise ImportError(f"gym/{task} needs a module that is missing: {error}") from error
    except gymnasium.error.Error as error:
        raise ValueError(f"unknown task gym/{task} ({error}); nearest: {nearest(task, _runnable_ids())}") from error


def _maker(task: str) -> Callable[..., Any]:
    import gymnasium

    registered = gymnasium.registry.get(task)
    elsewhere = registered is not None and not str(registered.entry_point).startswith("humanoid_bench.")
    if elsewhere or not HUMANOID_BENCH.fullmatch(task):
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

    space = getattr(env, f"{kind}_space")
    if not isinstance(space, gymnasium.spaces.Box) or len(space.shape) != 1:
        raise ValueError(f"gym/{task} has the {kind} space {space}; only a Box with one axis is supported")
    return int(space.shape[0])


def _episode_steps(env: Any) -> int:
    import gymnasium

    registered = gymnasium.spec(env.spec.id).max_episode_steps
    return DEFAULT_EPISODE_STEPS if registered is None else int(registered)


class GymTask(Simulator):
    """One Gymnasium environment."""

    def __init__(self, task: str) -> None:
        self.name, self.env = f"gym/{task}", _make(task)
        spec = task_spec(task)
        self.obs_dim, self.action_dim, self.max_episode_steps = spec.obs_dim, spec.action_dim, spec.max_episode_steps
        box = self.env.action_space
        self.dtype = box.dtype
        self.centre, self.half_width = to_box(box.low, box.high)
        self.is_mujoco = hasattr(getattr(self.env.unwrapped, "data", None), "warning")
        self.next_seed: int | None = None
        self.camera: Camera | None = None

    def seed(self, seed: int) -> None:
        self.next_seed = seed

    def reset(self) -> NDArray[Any]:
        seed, self.next_seed = self.next_seed, None
        return self.env.reset(seed=seed)[0]

    def step(self, action: NDArray[np.float64]) -> Transition:
        control = (self.centre + self.half_width * action).astype(self.dtype)
        obs, reward, terminated, truncated, _ = self.env.step(control)
        if self.is_mujoco:
            mujoco_state.check_stable(mujoco_state.instabilities(self.env.unwrapped.data))
        return Transition(obs, float(reward), bool(terminated), bool(truncated))

    def get_state(self) -> State | None:
        raw = self.env.unwrapped
        state = {"random": json.dumps(raw.np_random.bit_generator.state), "next_seed": self.next_seed}
        if _is_a(raw, "gymnasium.envs.mujoco"):
            return {**state, "physics": mujoco_state.capture(raw.model, raw.data)}
        if _is_a(raw, "gymnasium.envs.classic_control") and isinstance(getattr(raw, "state", None), np.ndarray):
            return {**state, "array": torch.from_numpy(raw.state.copy())}
        return None

    def set_state(self, state: State) -> None:
        self.env.reset(seed=0)  # a new environment refuses to step before its first reset
        raw = self.env.unwrapped
        raw.np_random.bit_generator.state = json.loads(state["random"])
        self.next_seed = state["next_seed"]
        if "physics" in state:
            mujoco_state.restore(raw.model, raw.data, state["physics"])
        else:
            raw.state = state["array"].numpy().copy()

    def render(self, height: int, width: int) -> NDArray[np.uint8]:
        """MuJoCo environments only: the environment's own 'track' camera where its model has one."""
        raw = self.env.unwrapped
        if not hasattr(raw, "model") or not hasattr(raw, "data"):
            raise RuntimeError(f"{self.name} draws no pictures: it is not a MuJoCo environment")
        if self.camera is None:
            self.camera = Camera(raw.model, raw.data, camera=0)
        return self.camera.render(height, width)


def _is_a(env: Any, package: str) -> bool:
    return type(env).__module__.startswith(package + ".")
