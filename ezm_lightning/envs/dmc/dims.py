"""The tasks of ``dm_control.suite``, from a table: (obs_dim, action_dim) of each, in the suite's order.

A test compares the table to the suite. Nothing heavy is imported, so that a wrong name is refused at once.
"""

from __future__ import annotations

from ezm_lightning.envs.spec import TaskSpec
from ezm_lightning.errors import nearest

EPISODE_STEPS = 1000
REWARD_RANGE = (0.0, 1.0)  # of a control step; LQR's rewards are costs

DIMS: dict[str, tuple[int, int]] = {
    "acrobot-swingup": (6, 1),
    "acrobot-swingup_sparse": (6, 1),
    "ball_in_cup-catch": (8, 2),
    "cartpole-balance": (5, 1),
    "cartpole-balance_sparse": (5, 1),
    "cartpole-swingup": (5, 1),
    "cartpole-swingup_sparse": (5, 1),
    "cartpole-two_poles": (8, 1),
    "cartpole-three_poles": (11, 1),
    "cheetah-run": (17, 6),
    "dog-stand": (223, 38),
    "dog-walk": (223, 38),
    "dog-trot": (223, 38),
    "dog-run": (223, 38),
    "dog-fetch": (232, 38),
    "finger-spin": (9, 2),
    "finger-turn_easy": (12, 2),
    "finger-turn_hard": (12, 2),
    "fish-upright": (21, 5),
    "fish-swim": (24, 5),
    "hopper-stand": (15, 4),
    "hopper-hop": (15, 4),
    "humanoid-stand": (67, 21),
    "humanoid-walk": (67, 21),
    "humanoid-run": (67, 21),
    "humanoid-run_pure_state": (55, 21),
    "humanoid_CMU-stand": (137, 56),
    "humanoid_CMU-walk": (137, 56),
    "humanoid_CMU-run": (137, 56),
    "lqr-lqr_2_1": (4, 1),
    "lqr-lqr_6_2": (12, 2),
    "manipulator-bring_ball": (44, 5),
    "manipulator-bring_peg": (44, 5),
    "manipulator-insert_ball": (44, 5),
    "manipulator-insert_peg": (44, 5),
    "pendulum-swingup": (3, 1),
    "point_mass-easy": (4, 2),
    "point_mass-hard": (4, 2),
    "quadruped-walk": (78, 12),
    "quadruped-run": (78, 12),
    "quadruped-escape": (101, 12),
    "quadruped-fetch": (90, 12),
    "reacher-easy": (6, 2),
    "reacher-hard": (6, 2),
    "stacker-stack_2": (49, 5),
    "stacker-stack_4": (63, 5),
    "swimmer-swimmer6": (25, 5),
    "swimmer-swimmer15": (61, 14),
    "walker-stand": (24, 6),
    "walker-walk": (24, 6),
    "walker-run": (24, 6),
}


def known_tasks() -> list[str]:
    """'<domain>-<task>' of the whole suite."""
    return list(DIMS)


def task_spec(task: str) -> TaskSpec:
    """The dimensions of a task. Raises ValueError for an unknown task, with the nearest names."""
    if task not in DIMS:
        raise ValueError(f"unknown task dmc/{task}; nearest: {nearest(task, DIMS)}")
    obs_dim, action_dim = DIMS[task]
    if task.startswith("lqr"):
        return TaskSpec(f"dmc/{task}", obs_dim, action_dim, EPISODE_STEPS)
    return TaskSpec(
        f"dmc/{task}",
        obs_dim,
        action_dim,
        EPISODE_STEPS,
        success_score=EPISODE_STEPS * REWARD_RANGE[1],
        reward_range=REWARD_RANGE,
        reward_scale=1.0,
    )
