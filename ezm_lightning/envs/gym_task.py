"""One Gymnasium environment as a simulator: its box of actions, flat observations, success, exact state, pictures.

Actions in [-1, 1] are mapped onto the action Box, and whole numbers are rounded. A dimension without bounds gets the
action unchanged; a dimension with one bound uses the interval of length 2 at that bound. A Dict of observations is
flattened as by ``gymnasium.spaces.flatten``: the keys in alphabetical order (``achieved_goal``, ``observation``).

Environments of ``gymnasium.envs.mujoco``, of classic control, and those of ``mw/`` and ``gr/`` are saved exactly. Other
environments may have state in Python, and wrappers may have state of their own, so with either a new episode starts
when a run is resumed.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray

from ezm_lightning.envs import checks, gym_state, mujoco_state
from ezm_lightning.envs.checks import Unfit
from ezm_lightning.envs.rendering import Camera
from ezm_lightning.envs.simulator import Simulator, Transition
from ezm_lightning.envs.slots import State, to_box
from ezm_lightning.envs.spec import TaskSpec

SUCCESS_KEYS = ("success", "is_success")
STATELESS = (gymnasium.wrappers.OrderEnforcing, gymnasium.wrappers.PassiveEnvChecker)


class GymTask(Simulator):
    """The environment ``env`` (without Gymnasium's own time limit) of the task ``spec``.

    ``kept_whole``: ``gym_state`` saves its whole state. ``camera``: the index of the model's camera for pictures (0 is
    'track' in Gymnasium's own environments), -1 for a distant view.
    """

    def __init__(self, spec: TaskSpec, env: Any, *, kept_whole: bool = False, camera: int = 0) -> None:
        self.name, self.env = spec.name, env
        self.obs_dim, self.action_dim, self.max_episode_steps = spec.obs_dim, spec.action_dim, spec.max_episode_steps
        self.reports_success = spec.reports_success
        box = env.action_space
        self.dtype = box.dtype
        self.centre, self.half_width = to_box(box.low, box.high)
        self.low, self.high = box.low, box.high
        self.is_whole = self.dtype.kind in "iu"
        self.may_leave_box = bool(self.is_whole or (self.centre != 0).any())  # by rounding of the last bit
        self.is_flat = isinstance(env.observation_space, gymnasium.spaces.Box)
        self.simulation = gym_state.simulation(env.unwrapped)
        self.next_seed: int | None = None
        self.kept_whole = kept_whole
        self.camera_index = camera
        self.camera: Camera | None = None

    def seed(self, seed: int) -> None:
        self.next_seed = seed

    def reset(self) -> NDArray[Any]:
        result = self.env.reset(seed=self.next_seed)
        self.next_seed = None
        self._find_simulation()
        return self.flattened(checks.gym_reset(result))

    def _find_simulation(self) -> None:
        """Looks the simulation up again: a reset may have built another one. What it counted before is forgotten."""
        found, before = gym_state.simulation(self.env.unwrapped), self.simulation
        if found is None or before is None or found[0] is not before[0] or found[1] is not before[1]:
            self.simulation = found
            if self.camera is not None:
                self.camera.close()
                self.camera = None
        if self.simulation is not None:
            mujoco_state.instabilities(self.simulation[1])[:] = 0  # a reset that does not call mj_resetData keeps them

    def step(self, action: NDArray[np.float64]) -> Transition:
        obs, reward, terminated, truncated, info = checks.gym_step(self.env.step(self.control(action)))
        if self.simulation is not None:
            mujoco_state.check_stable(mujoco_state.instabilities(self.simulation[1]))
        success = success_of(info) if self.reports_success else None
        if (terminated or truncated) and not self.reports_success and _tells_success(info):
            warnings.warn(
                f"{self.name} says only when an episode ends whether it succeeded, so no success is reported; "
                "let every step have the key",
                stacklevel=2,
            )
        return Transition(self.flattened(obs), reward, terminated, truncated, success=success)

    def control(self, action: NDArray[np.float64]) -> NDArray[Any]:
        """An action in [-1, 1] mapped to the Box."""
        control = self.centre + self.half_width * action
        control = (np.rint(control) if self.is_whole else control).astype(self.dtype)
        return np.minimum(np.maximum(control, self.low), self.high) if self.may_leave_box else control

    def flattened(self, obs: Any) -> NDArray[Any]:
        """An observation as one array. Raises Unfit if it is not in its space."""
        if self.is_flat:
            return obs
        try:
            _check_entries(self.env.observation_space, obs)
            return gymnasium.spaces.flatten(self.env.observation_space, obs)
        except Unfit:
            raise
        except (KeyError, TypeError, IndexError, ValueError) as error:
            entries = sorted(obs) if isinstance(obs, Mapping) else checks.kind(obs)
            raise Unfit(f"observes {entries}, its space is {self.env.observation_space}") from error

    def get_state(self) -> State | None:
        raw = self.env.unwrapped
        if self.kept_whole:
            return {"next_seed": self.next_seed, "whole": gym_state.capture(raw)}
        if not _only_stateless(self.env):
            return None
        if _is_a(raw, "gymnasium.envs.mujoco"):
            state: State = {"physics": mujoco_state.capture(raw.model, raw.data)}
        elif _is_a(raw, "gymnasium.envs.classic_control") and isinstance(getattr(raw, "state", None), np.ndarray):
            state = {"array": torch.from_numpy(raw.state.copy())}
        else:
            return None
        return {"random": json.dumps(raw.np_random.bit_generator.state), "next_seed": self.next_seed, **state}

    def set_state(self, state: State) -> None:
        self.env.reset(seed=0)  # a new environment refuses to step before its first reset
        self._find_simulation()
        raw, self.next_seed = self.env.unwrapped, state["next_seed"]
        if "whole" in state:
            return gym_state.restore(raw, state["whole"])
        raw.np_random.bit_generator.state = json.loads(state["random"])
        if "physics" in state:
            mujoco_state.restore(raw.model, raw.data, state["physics"])
        else:
            raw.state = state["array"].numpy().copy()

    def close(self) -> None:
        self.env.close()

    @property
    def draws(self) -> bool:
        return self.simulation is not None

    def render(self, height: int, width: int) -> NDArray[np.uint8]:
        """MuJoCo environments only."""
        if self.simulation is None:
            raise RuntimeError(f"{self.name} draws no pictures: it is not a MuJoCo environment")
        if self.camera is None:
            self.camera = Camera(*self.simulation, camera=self.camera_index)
        return self.camera.render(height, width)


def flat_size(space: Any) -> int | None:
    """The size of a Box with one axis, or of a Dict of them; None for any other space."""
    if isinstance(space, gymnasium.spaces.Dict):
        sizes = [size for entry in space.spaces.values() if (size := flat_size(entry)) is not None]
        return sum(sizes) if len(sizes) == len(space.spaces) else None
    return int(space.shape[0]) if isinstance(space, gymnasium.spaces.Box) and len(space.shape) == 1 else None


def _check_entries(space: Any, obs: Any, where: str = "the observation") -> None:
    """Raises Unfit for an entry of another shape: side by side two of them could have the right width."""
    for key, part in space.spaces.items():
        if isinstance(part, gymnasium.spaces.Dict):
            _check_entries(part, obs[key], f"{where}[{key!r}]")
        elif np.shape(obs[key]) != part.shape:
            raise Unfit(f"{where}[{key!r}] has the shape {np.shape(obs[key])}, its space has {part.shape}")


def success_of(info: Mapping[str, Any]) -> bool | None:
    """Whether a step's ``info`` reports success; None if it has no such key.

    FrankaKitchen lists the tasks that are not completed instead.
    """
    if not isinstance(info, Mapping):
        raise Unfit(f"the info of a step is {checks.kind(info)}, a dict is expected")
    for key in SUCCESS_KEYS:
        if key in info:
            return checks.flag(info[key], f"info[{key!r}]")
    return not info["tasks_to_complete"] if "tasks_to_complete" in info else None


def _tells_success(info: Any) -> bool:
    return isinstance(info, Mapping) and not info.keys().isdisjoint(SUCCESS_KEYS)


def _only_stateless(env: Any) -> bool:
    """Whether no layer around the environment has state that is not saved."""
    while isinstance(env, gymnasium.Wrapper):
        if type(env) not in STATELESS:
            return False
        env = env.env
    return True


def _is_a(env: Any, package: str) -> bool:
    return type(env).__module__.startswith(package + ".")
