"""One task as a Gymnasium environment, for loops, wrappers and algorithms that expect one."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from ezm_lightning.envs.sources import make_slots, task_spec

Obs = NDArray[np.float32]


class TaskEnv(gymnasium.Env):
    """A task by its name, ``dmc/walker-walk``, as a Gymnasium environment.

    Observations are Box [obs_dim] float32, actions Box [action_dim] float32 in [-1, 1], which the task scales to its
    own range. An action is held for ``action_repeat`` simulator steps, whose rewards are summed. An episode ends with
    ``terminated`` at the task's own end and with ``truncated`` at its time limit. ``info`` has ``success`` if the task
    reports it. ``render`` returns a picture [height, width, 3] uint8.

    ``seed`` seeds the first ``reset`` if that has no seed. Raises ValueError for an unknown task and for an
    ``action_repeat`` below 1, ImportError for a missing simulator.
    """

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012 - as Gymnasium has it
    render_mode = "rgb_array"

    def __init__(self, task: str, *, action_repeat: int = 1, seed: int = 0) -> None:
        if action_repeat < 1:
            raise ValueError(f"action_repeat={action_repeat} must be at least 1; nearest: 1")
        self.task, self.task_spec = task, task_spec(task)
        self.picture_size = (240, 320)  # height, width
        self.observation_space = spaces.Box(-np.inf, np.inf, (self.task_spec.obs_dim,), np.float32)
        self.action_space = spaces.Box(-1.0, 1.0, (self.task_spec.action_dim,), np.float32)
        self._slots = make_slots(task, 1, action_repeat=action_repeat, ignore_termination=False)
        self._seed: int | None = seed

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Obs, dict[str, Any]]:
        """The first observation [obs_dim] of a new episode, and no info."""
        super().reset(seed=seed)
        chosen = self._seed if seed is None else seed
        if chosen is not None:
            self._slots.seed([chosen])
        self._seed = None  # later episodes continue the task's random numbers
        return self._obs(self._slots.reset([0])), {}

    def step(self, action: Any) -> tuple[Obs, float, bool, bool, dict[str, Any]]:
        """Observation [obs_dim], summed reward, terminated, truncated, info.

        Raises ValueError for an action of another width or that is not finite, RuntimeError if the simulator fails.
        """
        array = np.asarray(action, np.float64)
        if array.shape != self.action_space.shape or not np.isfinite(array).all():
            raise ValueError(f"{self.task} takes a finite action of shape {list(self.action_space.shape)}, got {array}")
        step = self._slots.step(np.clip(array, -1, 1)[None])
        if step.faults:
            raise RuntimeError(f"the simulator of {self.task} failed: {step.faults[0]}") from step.faults[0]
        terminated, truncated = bool(step.termination[0]), bool(step.truncated[0])
        info = {} if step.success is None else {"success": bool(step.success[0])}
        return self._obs(step.obs), float(step.reward[0]), terminated, truncated, info

    def render(self) -> NDArray[np.uint8]:
        """A picture [height, width, 3] of the simulation. Raises RuntimeError if OpenGL does not work."""
        return self._slots.render(0, *self.picture_size)

    def close(self) -> None:
        """Closes the simulator; warns if it cannot be closed."""
        self._slots.close()

    def _obs(self, rows: NDArray[np.floating]) -> Obs:
        return np.asarray(rows, np.float32)[0]
