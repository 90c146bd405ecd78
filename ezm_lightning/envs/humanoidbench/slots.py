"""m environments of one HumanoidBench task: MuJoCo steps them one by one, rewards are computed for all at once."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import mujoco
import numpy as np
import torch
from numpy.typing import NDArray

from ezm_lightning.envs import mujoco_state
from ezm_lightning.envs.humanoidbench.contacts import make_touched
from ezm_lightning.envs.humanoidbench.rewards import MAZE_DIRECTIONS, RULES, Features, Parts
from ezm_lightning.envs.humanoidbench.suite import FRAME_SKIP, TASKS
from ezm_lightning.envs.rendering import Camera
from ezm_lightning.envs.slots import PhysicsSlots, State
from ezm_lightning.envs.spec import TaskSpec

RESET_NOISE = 0.01  # added to every entry of qpos, m and rad alike
GOAL_BOX = np.array([[-2.0, -2.0, 0.2], [2.0, 2.0, 2.0]])  # m, reach
CAMERAS = {"maze": "cam_maze", "hurdle": "cam_hurdle"}


class HumanoidSlots(PhysicsSlots):
    """Slots over ``num_slots`` MjData of one model.

    A step is 10 physics steps of 2 ms. Each slot has two random streams with its seed. The noise of a reset comes from
    ``np.random.Generator(PCG64)``, as in Gymnasium's environments. The place of the robot or the goal (sit_hard, reach)
    comes from ``np.random.RandomState``; the original uses NumPy's global one.
    """

    def __init__(
        self, spec: TaskSpec, model: Any, num_slots: int, *, action_repeat: int, ignore_termination: bool
    ) -> None:
        task = TASKS[spec.name.partition("/")[2]]
        super().__init__(spec, num_slots, action_repeat=action_repeat, ignore_termination=ignore_termination)
        self.model, self.kind, self.rule = model, task.kind, RULES[task.kind]
        self.touched = make_touched(task.kind, model)
        self.data = [mujoco.MjData(model) for _ in range(num_slots)]
        self.features = _empty_features(model, num_slots)
        self.actuators = [data.ctrl for data in self.data]  # views, as in the next line
        self.instabilities = [mujoco_state.instabilities(data) for data in self.data]
        self.reads = [_reads(model, data, self.features, row) for row, data in enumerate(self.data)]
        low, high = model.actuator_ctrlrange.astype(np.float32).T  # float32, as the original's action space
        self.low, self.width = low, high - low
        self.parts: Parts = {}  # of the last step's reward, each [m]
        self.cameras: dict[int, Camera] = {}
        self.seed(range(num_slots))

    def seed(self, seeds: Sequence[int]) -> None:
        self.noise = [np.random.default_rng(seed) for seed in seeds]
        self.placement = [np.random.RandomState(seed) for seed in seeds]

    def reset(self, rows: Sequence[int]) -> NDArray[np.float64]:
        for row in rows:
            self._reset_row(row)
            self._read(row)
        return self.observe()[list(rows)]

    def _reset_row(self, row: int) -> None:
        model, data = self.model, self.data[row]
        mujoco.mj_resetDataKeyframe(model, data, 0)
        mujoco.mj_forward(model, data)
        data.qpos[:] += self.noise[row].uniform(-RESET_NOISE, RESET_NOISE, model.nq)
        mujoco.mj_forward(model, data)
        if self.kind == "sit_hard":
            _place_sitter(data.qpos, self.placement[row])
            mujoco.mj_forward(model, data)
        if self.kind == "reach":
            self.features.goal[row] = self.placement[row].uniform(GOAL_BOX[0], GOAL_BOX[1])
        self.features.stage[row], self.features.direction[row] = 0, MAZE_DIRECTIONS[0]
        self.elapsed[row] = 0

    def controls(self, action: NDArray[np.float64]) -> NDArray[np.float32]:
        return (action.astype(np.float32) + 1) / 2 * self.width + self.low

    def act(self, row: int, control: NDArray[np.floating]) -> None:
        self.actuators[row][:] = control
        mujoco.mj_step(self.model, self.data[row], FRAME_SKIP)
        mujoco_state.check_stable(self.instabilities[row])
        self._read(row)

    def judge(self, rows: NDArray[np.bool_]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        paid, self.parts = self.rule.reward(self.features)
        return paid, self.rule.terminated(self.features)

    def _read(self, row: int) -> None:
        for target, source in self.reads[row]:
            target[...] = source
        if self.touched is not None:
            self.features.touched[row] = self.touched(self.data[row].contact.geom)

    def observe(self) -> NDArray[np.float64]:
        """[m, obs_dim]: positions and velocities; reach adds its hand and its goal."""
        f = self.features
        if self.kind == "reach":
            return np.concatenate([f.qpos, f.qvel, f.left_hand, f.goal], -1)
        return np.concatenate([f.qpos, f.qvel], -1)

    def get_state(self) -> list[State]:
        return [self._row_state(row) for row in range(len(self.data))]

    def _row_state(self, row: int) -> State:
        _, key, position, has_gauss, gauss = self.placement[row].get_state()
        return {
            "model": self.spec.note,
            "elapsed": int(self.elapsed[row]),
            "physics": mujoco_state.capture(self.model, self.data[row]),
            "stage": int(self.features.stage[row]),
            "direction": self.features.direction[row].tolist(),
            "goal": self.features.goal[row].tolist(),
            "noise": json.dumps(self.noise[row].bit_generator.state),
            "placement_key": torch.from_numpy(np.asarray(key).astype(np.int64)),
            "placement": [int(position), int(has_gauss), float(gauss)],
        }

    def set_state(self, states: Sequence[State]) -> list[int]:
        for row, state in enumerate(states):
            self._set_row_state(row, state)
        return []

    def _set_row_state(self, row: int, state: State) -> None:
        if state["model"] != self.spec.note:
            raise ValueError(
                f"{self.spec.name} was saved on {state['model'] or 'HumanoidBench assets'} and cannot continue on "
                f"{self.spec.note or 'HumanoidBench assets'}; set HUMANOID_BENCH_ASSETS as it was"
            )
        mujoco_state.restore(self.model, self.data[row], state["physics"])
        self._read(row)
        self.elapsed[row] = state["elapsed"]
        self.features.stage[row], self.features.direction[row] = state["stage"], state["direction"]
        self.features.goal[row] = state["goal"]
        self.noise[row].bit_generator.state = json.loads(state["noise"])
        key = state["placement_key"].numpy().astype(np.uint32)
        self.placement[row].set_state(("MT19937", key, *state["placement"]))

    def render(self, row: int, height: int, width: int) -> NDArray[np.uint8]:
        """The task's own camera, which follows the robot."""
        if row not in self.cameras:
            camera = self.model.camera(CAMERAS.get(self.kind, "cam_default")).id
            self.cameras[row] = Camera(self.model, self.data[row], camera=camera)
        return self.cameras[row].render(height, width)


def _place_sitter(qpos: NDArray[np.float64], placement: np.random.RandomState) -> None:
    """sit_hard: a random position before the chair and a random heading, without noise in tilt."""
    qpos[0] = placement.uniform(0.2, 0.4)
    qpos[1] = placement.uniform(-0.15, 0.15)
    half_yaw = placement.uniform(-1.8, 1.8) / 2
    qpos[3:7] = np.cos(half_yaw), 0.0, 0.0, np.sin(half_yaw)


def _empty_features(model: Any, m: int) -> Features:
    widths = {
        "qpos": model.nq, "qvel": model.nv, "actuator_force": model.nu, "com_vel": 3, "imu": 3, "pelvis_xpos": 3,
        "pelvis_xmat": 9, "pelvis_xquat": 4, "left_hand": 3, "chair_xpos": 3, "goal": 3, "direction": 2,
    }  # fmt: skip
    arrays: dict[str, Any] = {name: np.zeros((m, width)) for name, width in widths.items()}
    arrays |= {name: np.zeros(m) for name in ("head_z", "torso_zz", "left_foot_z", "right_foot_z")}
    return Features(**arrays, touched=np.zeros(m, bool), stage=np.zeros(m, np.int64))


def _reads(
    model: Any, data: Any, features: Features, row: int
) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Pairs of views: (a row of a feature, the part of MjData that is copied to it)."""
    pelvis, torso = model.body("pelvis").id, model.body("torso_link").id
    site = {name: data.site_xpos[model.site(name).id] for name in ("head", "imu", "left_foot", "right_foot")}
    velocity = model.sensor("pelvis_subtreelinvel").adr[0]
    sources = {
        "qpos": data.qpos,
        "qvel": data.qvel,
        "actuator_force": data.actuator_force,
        "head_z": site["head"][2:],
        "torso_zz": data.xmat[torso, 8:],
        "com_vel": data.sensordata[velocity : velocity + 3],
        "imu": site["imu"],
        "pelvis_xpos": data.xpos[pelvis],
        "pelvis_xmat": data.xmat[pelvis],
        "pelvis_xquat": data.xquat[pelvis],
        "left_foot_z": site["left_foot"][2:],
        "right_foot_z": site["right_foot"][2:],
        "left_hand": data.site_xpos[model.site("left_hand").id],
    }
    bodies = [model.body(i).name for i in range(model.nbody)]
    if "chair" in bodies:
        sources["chair_xpos"] = data.xpos[bodies.index("chair")]
    return [(getattr(features, name)[row : row + 1].reshape(source.shape), source) for name, source in sources.items()]
