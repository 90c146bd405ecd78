"""A point in the plane that begins near the origin; what it is paid for is its subclasses'."""

from __future__ import annotations

import numpy as np

from ezm_lightning.envs import Simulator


class Plane(Simulator):
    """The base of tasks that cost next to nothing."""

    obs_dim, action_dim = 2, 2

    def seed(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)

    def reset(self) -> np.ndarray:
        self.place = self.random.uniform(-0.2, 0.2, 2)
        return self.place

    def move(self, by: np.ndarray) -> np.ndarray:
        """Its new place, within the square of side 2."""
        self.place = np.clip(self.place + by, -1, 1)
        return self.place
