"""A sparse task that costs next to nothing: `tasks=[tests.runs.corner/far]`, and a policy that solves it."""

from __future__ import annotations

import numpy as np

from ezm_lightning.envs import Simulator, Transition

CORNER = np.array([0.8, 0.8])


class Far(Simulator):
    """A point that starts near the origin and is paid 1 a step for lying near a corner, which it reaches by going
    straight there for sixteen steps; random steps never take it there."""

    obs_dim, action_dim, max_episode_steps = 2, 2, 40

    def seed(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)

    def reset(self) -> np.ndarray:
        self.place = self.random.uniform(-0.2, 0.2, 2)
        return self.place

    def step(self, action: np.ndarray) -> Transition:
        self.place = np.clip(self.place + 0.05 * action, -1, 1)
        return Transition(self.place, float(np.abs(self.place - CORNER).max() < 0.15), False)


TASKS = {"far": Far}


def to_the_corner(obs: np.ndarray, task: str) -> np.ndarray:
    """Straight there at full speed, then still."""
    return np.clip(5 * (CORNER - obs), -1, 1)
