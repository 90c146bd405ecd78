"""Rewards and terminations of the 23 tasks, over m environments of a task at once.

Each function takes the ``Features`` of a step and returns the reward [m] with its parts, named as in HumanoidBench's
``info``. The order of operations is HumanoidBench's (MIT, commit 791405f), so that with equal physics every number is
equal to the last bit; ``tolerance`` is the Control Suite's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from dm_control.utils.rewards import tolerance
from numpy.typing import NDArray

Array = NDArray[np.float64]
Parts = dict[str, Array]

STAND_HEIGHT, CRAWL_HEIGHT = 1.65, 0.8  # m, of the head
BOARD_HEIGHT = 0.37  # m
WALK_SPEED, POLE_SPEED, RUN_SPEED, MAZE_SPEED = 1.0, 0.5, 5.0, 2.0  # m/s, of the centre of mass
CRAWL_ORIENTATION = np.array([0.75, 0.0, 0.65, 0.0])
MAZE_CHECKPOINTS = np.array([[0, 0], [3, 0], [3, 6], [6, 6], [6, 6]], np.float64)  # m, x and y
MAZE_DIRECTIONS = np.array([[1, 0], [0, 1], [1, 0], [0, 1]], np.float64)  # taken when checkpoint k is reached
MAZE_RADIUS = 0.4  # m
LAST_STAGE = len(MAZE_CHECKPOINTS) - 1


@dataclass
class Features:
    """The inputs of rewards in m environments, as MuJoCo leaves them after a step: ``qpos`` and ``qvel`` at its end,
    derived quantities at the start of its last physics step. Metres, metres per second, newton metres."""

    qpos: Array  # [m, nq]
    qvel: Array  # [m, nv]
    actuator_force: Array  # [m, nu]
    head_z: Array  # [m]
    torso_zz: Array  # [m], cosine between the torso's axis and up
    com_vel: Array  # [m, 3], of the whole robot
    imu: Array  # [m, 3], a point in the torso
    pelvis_xpos: Array  # [m, 3]
    pelvis_xmat: Array  # [m, 9]
    pelvis_xquat: Array  # [m, 4]
    left_foot_z: Array  # [m]
    right_foot_z: Array  # [m]
    left_hand: Array  # [m, 3]
    chair_xpos: Array  # [m, 3], 0 in tasks without a chair
    touched: NDArray[np.bool_]  # [m], a contact that costs reward or ends the episode, see ``contacts``
    goal: Array  # [m, 3], reach
    stage: NDArray[np.int64]  # [m], maze: checkpoints reached
    direction: Array  # [m, 2], maze: the direction to walk in


def small_control(f: Features) -> Array:
    """In [0.8, 1]: 1 without any force."""
    effort = tolerance(f.actuator_force, margin=10, value_at_margin=0, sigmoid="quadratic").mean(-1)
    return (4 + effort) / 5


def standing_tall(head_z: Array, height: float = STAND_HEIGHT) -> Array:
    return tolerance(head_z, bounds=(height, np.inf), margin=STAND_HEIGHT / 4)


def upright(f: Features, least: float = 0.9, margin: float = 1.9) -> Array:
    return tolerance(f.torso_zz, bounds=(least, np.inf), sigmoid="linear", margin=margin, value_at_margin=0)


def forward(f: Features, speed: float) -> Array:
    """In [1/6, 1]: 1 at ``speed`` or faster along x."""
    bounds = (speed, np.inf)
    move = tolerance(f.com_vel[:, 0], bounds=bounds, margin=speed, value_at_margin=0, sigmoid="linear")
    return (5 * move + 1) / 6


def still(f: Features) -> Array:
    return tolerance(f.com_vel[:, :2], margin=2).mean(-1)


def discount(f: Features) -> Array:
    """0.1 after a forbidden contact, else 1."""
    return np.where(f.touched, 0.1, 1.0)


def stand(f: Features) -> tuple[Array, Parts]:
    parts = {"small_control": small_control(f), "standing": standing_tall(f.head_z), "upright": upright(f)}
    parts |= {"stand_reward": parts["standing"] * parts["upright"], "dont_move": still(f)}
    return parts["small_control"] * parts["stand_reward"] * parts["dont_move"], parts


def _gait(f: Features, speed: float, least_upright: float = 0.9) -> Parts:
    parts = {"standing": standing_tall(f.head_z), "upright": upright(f, least_upright)}
    parts |= {"stand_reward": parts["standing"] * parts["upright"], "small_control": small_control(f)}
    return parts | {"move": forward(f, speed)}


def walk(f: Features) -> tuple[Array, Parts]:
    parts = _gait(f, WALK_SPEED)
    return parts["small_control"] * parts["stand_reward"] * parts["move"], parts


def run(f: Features) -> tuple[Array, Parts]:
    parts = _gait(f, RUN_SPEED)
    return parts["small_control"] * parts["stand_reward"] * parts["move"], parts


def hurdle(f: Features) -> tuple[Array, Parts]:
    parts = _gait(f, RUN_SPEED, least_upright=0.8) | {"wall_collision_discount": discount(f)}
    reward = parts["small_control"] * parts["stand_reward"] * parts["move"] * parts["wall_collision_discount"]
    return reward, parts


def pole(f: Features) -> tuple[Array, Parts]:
    parts = _gait(f, POLE_SPEED) | {"collision_discount": discount(f)}
    reward = 0.5 * (parts["small_control"] * parts["stand_reward"]) + 0.5 * parts["move"]
    return reward * parts["collision_discount"], parts


def climb(f: Features) -> tuple[Array, Parts]:
    """Stair and slide: the height of the head is measured from the feet."""
    tall = [tolerance(f.head_z - foot, bounds=(1.2, np.inf), margin=0.45) for foot in (f.left_foot_z, f.right_foot_z)]
    parts = {"standing": tall[0] * tall[1], "upright": upright(f, 0.5)}
    parts |= {"stand_reward": parts["standing"] * parts["upright"], "small_control": small_control(f)}
    parts |= {"move": forward(f, WALK_SPEED)}
    return parts["stand_reward"] * parts["small_control"] * parts["move"], parts


def crawl(f: Features) -> tuple[Array, Parts]:
    low = (CRAWL_HEIGHT - 0.2, CRAWL_HEIGHT + 0.2)
    off = f.pelvis_xquat - CRAWL_ORIENTATION
    lying = tolerance(np.sqrt(np.vecdot(off, off)), margin=1)
    parts = {
        "crawling": tolerance(f.imu[:, 2], bounds=low, margin=1),
        "crawling_head": tolerance(f.head_z, bounds=low, margin=1),
        "small_control": small_control(f),
        "move": forward(f, WALK_SPEED),
        "in_tunnel": tolerance(f.imu[:, 1], bounds=(-1, 1), margin=0),
    }
    reward = (
        0.1 * parts["small_control"]
        + 0.25 * np.minimum(parts["crawling"], parts["crawling_head"])
        + 0.4 * parts["move"]
        + 0.25 * lying
    ) * parts["in_tunnel"]
    return reward, parts


def maze(f: Features) -> tuple[Array, Parts]:
    """Advances ``stage`` and ``direction`` in place first; the first step of an episode earns 100."""
    bonus = advance_stage(f)
    parts = {
        "stand_reward": standing_tall(f.head_z) * upright(f),
        "small_control": small_control(f),
        "move": (5 * np.where(f.stage == LAST_STAGE, 1.0, _heading(f)) + 1) / 6,
        "wall_collision_discount": discount(f),
        "stage_convert_reward": bonus,
        "checkpoint_proximity_reward": tolerance(_distance(MAZE_CHECKPOINTS[f.stage], f.imu[:, :2]), margin=1),
        "success_subtasks": f.stage.astype(np.float64),
    }
    reward = (
        0.2 * (parts["stand_reward"] * parts["small_control"])
        + 0.4 * parts["move"]
        + 0.4 * parts["checkpoint_proximity_reward"]
    ) * parts["wall_collision_discount"] + bonus
    return reward, parts


def advance_stage(f: Features) -> Array:
    """The bonus of a checkpoint reached in this step: 100 times its number."""
    reached = _distance(f.pelvis_xpos[:, :2], MAZE_CHECKPOINTS[f.stage]) < MAZE_RADIUS
    advanced = reached & (f.stage < LAST_STAGE)
    f.direction[advanced] = MAZE_DIRECTIONS[f.stage[advanced]]
    f.stage[advanced] += 1
    return np.where(advanced, 100.0 * f.stage, 0.0)


def _heading(f: Features) -> Array:
    along = [
        tolerance(f.com_vel[:, axis] - f.direction[:, axis] * MAZE_SPEED, margin=1, value_at_margin=0, sigmoid="linear")
        for axis in (0, 1)
    ]
    return along[0] * along[1]


def _distance(a: Array, b: Array) -> Array:
    return np.sqrt(np.vecdot(a - b, a - b))


def sit(f: Features) -> tuple[Array, Parts]:
    x, y = f.qpos[:, 0] - f.chair_xpos[:, 0], f.qpos[:, 1] - f.chair_xpos[:, 1]
    on_chair = tolerance(x, bounds=(-0.19, 0.19), margin=0.2) * tolerance(y, margin=0.1)
    parts = {
        "sitting": tolerance(f.qpos[:, 2], bounds=(0.68, 0.72), margin=0.2),
        "upright": upright(f, 0.95, margin=0.9),
        "sitting_posture": tolerance(f.head_z - f.imu[:, 2], bounds=(0.35, 0.45), margin=0.3),
        "small_control": small_control(f),
        "dont_move": still(f),
    }
    parts["sit_reward"] = (0.5 * parts["sitting"] + 0.5 * on_chair) * parts["upright"] * parts["sitting_posture"]
    return parts["small_control"] * parts["sit_reward"] * parts["dont_move"], parts


def balance(f: Features) -> tuple[Array, Parts]:
    parts = {
        "small_control": small_control(f),
        "standing": standing_tall(f.head_z, STAND_HEIGHT + BOARD_HEIGHT),
        "upright": upright(f),
        "dont_move": still(f),
    }
    parts["stand_reward"] = parts["standing"] * parts["upright"]
    return parts["small_control"] * parts["stand_reward"] * parts["dont_move"], parts


def reach(f: Features) -> tuple[Array, Parts]:
    distance = np.sqrt(np.square(f.left_hand - f.goal).sum(-1))
    parts = {
        "hand_dist": distance,
        "healthy_reward": f.pelvis_xmat[:, 8] * 5.0,
        "motion_penalty": np.square(f.qvel).sum(-1),
        "reward_close": np.where(distance < 1, 5.0, 0.0),
        "reward_success": np.where(distance < 0.05, 10.0, 0.0),
    }
    reward = (
        parts["healthy_reward"] - 0.0001 * parts["motion_penalty"] + parts["reward_close"] + parts["reward_success"]
    )
    return reward, parts


def lower_than(height: float) -> Callable[[Features], NDArray[np.bool_]]:
    """The pelvis has come down to ``height`` metres."""
    return lambda f: f.qpos[:, 2] < height


def never(f: Features) -> NDArray[np.bool_]:
    return np.zeros(len(f.qpos), bool)


@dataclass(frozen=True)
class Rule:
    """The reward and the termination of a kind of task."""

    reward: Callable[[Features], tuple[Array, Parts]]
    terminated: Callable[[Features], NDArray[np.bool_]]


def _tilted(f: Features) -> NDArray[np.bool_]:
    return f.torso_zz < 0.1


RULES: dict[str, Rule] = {
    "stand": Rule(stand, lower_than(0.2)),
    "walk": Rule(walk, lower_than(0.2)),
    "run": Rule(run, lower_than(0.2)),
    "hurdle": Rule(hurdle, lower_than(0.2)),
    "stair": Rule(climb, _tilted),
    "slide": Rule(climb, _tilted),
    "crawl": Rule(crawl, never),
    "pole": Rule(pole, lower_than(0.5)),
    "maze": Rule(maze, lower_than(0.2)),
    "sit_simple": Rule(sit, lower_than(0.5)),
    "sit_hard": Rule(sit, lower_than(0.5)),
    "balance_simple": Rule(balance, lambda f: (f.qpos[:, 2] < 0.8) | f.touched),
    "balance_hard": Rule(balance, lambda f: (f.qpos[:, 2] < 0.8) | f.touched),
    "reach": Rule(reach, never),
}
