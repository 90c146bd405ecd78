"""A sparse task that costs next to nothing: `tasks=[tests.runs.corner/far]`, and a policy that solves it."""

from __future__ import annotations

import numpy as np

from ezm_lightning.envs import Transition
from tests.runs.plane import Plane

CORNER = np.array([0.8, 0.8])


class Far(Plane):
    """A point that starts near the origin and is paid 1 a step for lying near a corner, which it reaches by going
    straight there for sixteen steps; random steps never take it there."""

    max_episode_steps = 40

    def step(self, action: np.ndarray) -> Transition:
        place = self.move(0.05 * action)
        return Transition(place, float(np.abs(place - CORNER).max() < 0.15), False)


TASKS = {"far": Far}


def to_the_corner(obs: np.ndarray, task: str) -> np.ndarray:
    """Straight there at full speed, then still."""
    return np.clip(5 * (CORNER - obs), -1, 1)
