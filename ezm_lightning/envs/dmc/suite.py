"""The environments of ``dm_control.suite``.

Observations are the suite's arrays flattened in its own key order. Episodes last 1000 control steps (also of the LQR
tasks, which have no end in the suite); a discount of 0 is a termination. Rewards lie in [0, 1] per control step (LQR's
are costs). Physics, rewards and observations are the suite's own, called without the layers that build time steps.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ezm_lightning.envs import mujoco_state
from ezm_lightning.envs.dmc import together
from ezm_lightning.envs.dmc.dims import task_spec
from ezm_lightning.envs.rendering import HELP, Camera, choose_gl
from ezm_lightning.envs.slots import PhysicsSlots, State, to_box

# Fields of the model that the suite's tasks change when an episode begins (targets, terrain, gains).
MODEL_FIELDS = (
    "body_pos", "body_quat", "geom_pos", "geom_size", "geom_rgba", "site_pos", "site_quat", "site_size", "site_rgba",
    "light_pos", "dof_damping", "wrap_prm", "hfield_data",
)  # fmt: skip


def _load(task: str) -> Any:
    choose_gl()  # before the import, which picks a renderer
    try:
        from dm_control import suite

        from ezm_lightning.envs.dmc.physics import quicken
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
    """Silences warnings about deprecated settings in the suite's models, which every slot would repeat."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


class SuiteSlots(PhysicsSlots):
    """``num_slots`` environments of one task of the suite."""

    def __init__(self, task: str, num_slots: int, *, action_repeat: int, ignore_termination: bool) -> None:
        super().__init__(task_spec(task), num_slots, action_repeat=action_repeat, ignore_termination=ignore_termination)
        self.simulators = [SuiteTask(task) for _ in range(num_slots)]
        first = self.simulators[0]
        self.centre, self.half_width = first.centre, first.half_width
        physics = [simulator.physics for simulator in self.simulators]
        self.together = together.Together(first.task, physics) if task in together.TASKS else None

    def seed(self, seeds: Sequence[int]) -> None:
        for simulator, seed in zip(self.simulators, seeds, strict=True):
            simulator.task.random.seed(seed)

    def reset(self, rows: Sequence[int]) -> NDArray[np.float64]:
        self.elapsed[list(rows)] = 0
        return np.stack([self.simulators[row].reset() for row in rows])

    def controls(self, action: NDArray[np.float64]) -> NDArray[np.float64]:
        return self.centre + self.half_width * action

    def act(self, row: int, control: NDArray[np.floating]) -> None:
        self.simulators[row].act(control)

    def judge(self, rows: NDArray[np.bool_]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        terminated = np.zeros(self.num_slots, bool)
        if self.together is not None:
            return self.together.rewards(), terminated
        reward = np.zeros(self.num_slots)
        for row in np.flatnonzero(rows).tolist():
            try:
                reward[row], terminated[row] = self.simulators[row].judge()
            except Exception as error:
                self.outcome.faults[row] = error
        return reward, terminated

    def observe(self) -> NDArray[np.float64]:
        if self.together is not None:
            return self.together.observations()
        return np.stack([simulator.observe() for simulator in self.simulators])

    def get_state(self) -> list[State]:
        rows = zip(self.elapsed.tolist(), self.simulators, strict=True)
        return [{"elapsed": elapsed, "simulator": simulator.get_state()} for elapsed, simulator in rows]

    def set_state(self, states: Sequence[State]) -> list[int]:
        for row, state in enumerate(states):
            self.elapsed[row] = state["elapsed"]
            self.simulators[row].set_state(state["simulator"])
        return []

    def render(self, row: int, height: int, width: int) -> NDArray[np.uint8]:
        return self.simulators[row].render(height, width)


class SuiteTask:
    """One environment of the suite: its ``task``, its ``physics``."""

    def __init__(self, task: str) -> None:
        env = _load(task)
        self.physics, self.task, self.num_substeps = env.physics, env.task, env._n_sub_steps
        spec = env.action_spec()
        self.centre, self.half_width = to_box(spec.minimum, spec.maximum)
        self.camera: Camera | None = None

    def reset(self) -> NDArray[np.float64]:
        """The first observation of a new episode."""
        with self.physics.reset_context():
            self.task.initialize_episode(self.physics)
        return self.observe()

    def act(self, control: NDArray[np.floating]) -> None:
        """Physics of one control step; ``control`` is in the units of the suite's actions."""
        self.task.before_step(control, self.physics)
        self.physics.step(self.num_substeps)
        self.task.after_step(self.physics)

    def judge(self) -> tuple[float, bool]:
        """Reward and termination in the current state of the simulation."""
        return float(self.task.get_reward(self.physics)), self.task.get_termination(self.physics) == 0.0

    def observe(self) -> NDArray[np.float64]:
        """[obs_dim]"""
        return np.concatenate([x.ravel() for x in self.task.get_observation(self.physics).values()])

    def get_state(self) -> State:
        model, data = self.physics.model.ptr, self.physics.data.ptr
        _, key, position, has_gauss, gauss = self.task.random.get_state()
        return {
            "physics": mujoco_state.capture(model, data, MODEL_FIELDS),
            "random_key": torch.from_numpy(key.astype(np.int64)),
            "random": [int(position), int(has_gauss), float(gauss)],
        }

    def set_state(self, state: State) -> None:
        self.reset()  # the task initialises attributes when an episode begins
        mujoco_state.restore(self.physics.model.ptr, self.physics.data.ptr, state["physics"], MODEL_FIELDS)
        position, has_gauss, gauss = state["random"]
        key = state["random_key"].numpy().astype(np.uint32)
        self.task.random.set_state(("MT19937", key, position, has_gauss, gauss))

    def render(self, height: int, width: int) -> NDArray[np.uint8]:
        """The suite's first camera."""
        if self.camera is None:
            self.camera = Camera(self.physics.model.ptr, self.physics.data.ptr, camera=0)
        return self.camera.render(height, width)
