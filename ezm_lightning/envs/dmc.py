"""DeepMind Control Suite: ``dmc/<domain>-<task>`` for every task of ``dm_control.suite``.

Observations are the suite's arrays flattened in its own key order; episodes last 1000 control steps (also the LQR
tasks', which the suite leaves endless); a discount of 0 is a termination. Rewards lie in [0, 1] a control step (LQR's
are costs). Physics, rewards and observations are the suite's own, called without the layers that build time steps.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ezm_lightning.envs import physics_state
from ezm_lightning.envs.dmc_dims import DIMS
from ezm_lightning.envs.rendering import HELP, Camera, choose_gl
from ezm_lightning.envs.simulator import Simulator, SimulatorSlots, State, Transition, to_box
from ezm_lightning.envs.tasks import TaskSpec, nearest

EPISODE_STEPS = 1000
# What the suite's tasks change in their model when an episode begins (targets, terrain, gains).
MODEL_FIELDS = (
    "body_pos", "body_quat", "geom_pos", "geom_size", "geom_rgba", "site_pos", "site_quat", "site_size", "site_rgba",
    "light_pos", "dof_damping", "wrap_prm", "hfield_data",
)  # fmt: skip


def known_tasks() -> list[str]:
    """'<domain>-<task>' of the whole suite, from a table: nothing is imported."""
    return list(DIMS)


def task_spec(task: str) -> TaskSpec:
    """Dimensions from the table. Raises ValueError for an unknown task, naming the nearest."""
    if task not in DIMS:
        raise ValueError(f"unknown task dmc/{task}; nearest: {nearest(task, DIMS)}")
    obs_dim, action_dim = DIMS[task]
    return TaskSpec(f"dmc/{task}", obs_dim, action_dim, EPISODE_STEPS, success_score=_success_score(task))


def make(task: str, num_slots: int, *, action_repeat: int, ignore_termination: bool) -> SimulatorSlots:
    """``num_slots`` environments of a task."""
    spec = task_spec(task)
    simulators = [SuiteTask(task) for _ in range(num_slots)]
    return SimulatorSlots(spec, simulators, action_repeat=action_repeat, ignore_termination=ignore_termination)


def _success_score(task: str) -> float | None:
    return None if task.startswith("lqr") else 1000.0


def _load(task: str) -> Any:
    choose_gl()  # before the import, which picks a renderer
    try:
        from dm_control import suite

        from ezm_lightning.envs.dmc_physics import quicken
    except ModuleNotFoundError as error:
        raise ImportError(
            f"dmc/{task} needs the DeepMind Control Suite, which is not installed ({error}); pip install dm-control"
        ) from error
    except (ImportError, AttributeError, RuntimeError) as error:
        raise ImportError(
            f"dm_control cannot be imported with MUJOCO_GL={os.environ.get('MUJOCO_GL')} ({error}); {HELP}"
        ) from error
    domain, _, name = task.partition("-")
    with _quiet():
        env = suite.load(domain, name, task_kwargs={"random": 0})  # LQR draws its model here: one for all slots
    quicken(env.physics)
    return env


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the suite's models from warning, once a slot, of the deprecated settings they are written with."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


class SuiteTask(Simulator):
    """One environment of the suite."""

    max_episode_steps = EPISODE_STEPS

    def __init__(self, task: str) -> None:
        env = _load(task)
        self.obs_dim, self.action_dim = DIMS[task]
        self.physics, self.task, self.num_substeps = env.physics, env.task, env._n_sub_steps
        spec = env.action_spec()
        self.centre, self.half_width = to_box(spec.minimum, spec.maximum)
        self.camera: Camera | None = None

    def seed(self, seed: int) -> None:
        self.task.random.seed(seed)

    def reset(self) -> NDArray[np.float64]:
        with self.physics.reset_context():
            self.task.initialize_episode(self.physics)
        return self._obs()

    def advance(self, action: NDArray[np.float64], steps: int, stop_at_termination: bool) -> Transition:
        """As the suite's ``step``, with the observation computed only after the last repeat."""
        physics, task = self.physics, self.task
        control = self.centre + self.half_width * action
        reward, terminated, truncated = 0.0, False, False
        for taken in range(1, steps + 1):  # noqa: B007 - told below
            task.before_step(control, physics)
            physics.step(self.num_substeps)
            task.after_step(physics)
            reward += float(task.get_reward(physics))
            discount = task.get_termination(physics)
            if discount is not None:
                terminated |= discount == 0.0
                truncated = discount != 0.0
            if truncated or (terminated and stop_at_termination):
                break
        return Transition(self._obs(), reward, terminated, truncated, taken)

    def _obs(self) -> NDArray[np.float64]:
        return np.concatenate([x.ravel() for x in self.task.get_observation(self.physics).values()])

    def get_state(self) -> State:
        model, data = self.physics.model.ptr, self.physics.data.ptr
        _, key, position, has_gauss, gauss = self.task.random.get_state()
        return {
            "physics": physics_state.capture(model, data, MODEL_FIELDS),
            "random_key": torch.from_numpy(key.astype(np.int64)),
            "random": [int(position), int(has_gauss), float(gauss)],
        }

    def set_state(self, state: State) -> None:
        self.reset()  # lets the task note what it notes when an episode begins
        physics_state.restore(self.physics.model.ptr, self.physics.data.ptr, state["physics"], MODEL_FIELDS)
        position, has_gauss, gauss = state["random"]
        key = state["random_key"].numpy().astype(np.uint32)
        self.task.random.set_state(("MT19937", key, position, has_gauss, gauss))

    def render(self, height: int, width: int) -> NDArray[np.uint8]:
        """The suite's first camera."""
        if self.camera is None:
            self.camera = Camera(self.physics.model.ptr, self.physics.data.ptr, camera=0)
        return self.camera.render(height, width)
