"""The 23 tasks by name: dimensions and published scores. Imports no simulator.

Success scores are HumanoidBench's ``success_bar``; random scores are the EZ-M paper's (arXiv 2603.01452, Tables 1 and
2), kept as constants of the normalised score (R - random) / (success - random). On the same physics a uniformly random
policy scores up to twice as much on the tasks that end with a fall.
"""

from __future__ import annotations

from dataclasses import dataclass

EPISODE_STEPS = 1000
FRAME_SKIP = 10  # physics steps of 2 ms per environment step: 50 Hz


@dataclass(frozen=True)
class HumanoidTask:
    """The description of a task, which needs no assets."""

    name: str  # 'h1-walk'
    obs_dim: int  # positions and velocities of robot and objects; reach adds the hand and its goal
    action_dim: int
    random_score: float
    success_score: float

    @property
    def robot(self) -> str:
        """'h1' or 'h1hand'."""
        return self.name.partition("-")[0]

    @property
    def kind(self) -> str:
        """The robot's job, such as 'walk'."""
        return self.name.partition("-")[2]


H1_DIMS, H1HAND_DIMS = (51, 19), (151, 61)

TASKS: dict[str, HumanoidTask] = {
    task.name: task
    for task in (
        HumanoidTask("h1-stand", *H1_DIMS, 10.545, 800.0),
        HumanoidTask("h1-walk", *H1_DIMS, 2.377, 700.0),
        HumanoidTask("h1-run", *H1_DIMS, 2.02, 700.0),
        HumanoidTask("h1-stair", *H1_DIMS, 3.112, 700.0),
        HumanoidTask("h1-crawl", *H1_DIMS, 272.658, 700.0),
        HumanoidTask("h1-slide", *H1_DIMS, 3.191, 700.0),
        HumanoidTask("h1-pole", *H1_DIMS, 20.09, 700.0),
        HumanoidTask("h1-hurdle", *H1_DIMS, 2.214, 700.0),
        HumanoidTask("h1-maze", *H1_DIMS, 106.441, 1200.0),
        HumanoidTask("h1hand-stand", *H1HAND_DIMS, 11.973, 800.0),
        HumanoidTask("h1hand-walk", *H1HAND_DIMS, 2.505, 700.0),
        HumanoidTask("h1hand-run", *H1HAND_DIMS, 1.927, 700.0),
        HumanoidTask("h1hand-stair", *H1HAND_DIMS, 3.161, 700.0),
        HumanoidTask("h1hand-crawl", *H1HAND_DIMS, 278.868, 700.0),
        HumanoidTask("h1hand-slide", *H1HAND_DIMS, 3.142, 700.0),
        HumanoidTask("h1hand-pole", *H1HAND_DIMS, 19.721, 700.0),
        HumanoidTask("h1hand-hurdle", *H1HAND_DIMS, 2.371, 700.0),
        HumanoidTask("h1hand-maze", *H1HAND_DIMS, 106.233, 1200.0),
        HumanoidTask("h1hand-sit_simple", *H1HAND_DIMS, 10.768, 750.0),
        HumanoidTask("h1hand-sit_hard", 164, 61, 2.477, 750.0),
        HumanoidTask("h1hand-balance_simple", 164, 61, 10.17, 800.0),
        HumanoidTask("h1hand-balance_hard", 177, 61, 10.032, 800.0),
        HumanoidTask("h1hand-reach", 157, 61, -50.024, 12000.0),
    )
}
