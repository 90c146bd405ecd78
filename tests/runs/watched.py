"""Tasks that report success, two that can be drawn and one that cannot: `tasks=[tests.runs.watched/goal]`."""

from __future__ import annotations

import numpy as np

from ezm_lightning.envs import Transition
from tests.runs.short import Point


class Blind(Point):
    """A point that cannot be drawn; a success lies near the origin."""

    reports_success = True
    radius = 0.5  # of a success

    def step(self, action: np.ndarray) -> Transition:
        return super().step(action)._replace(success=bool(abs(self.place[0]) < self.radius))


class Goal(Blind):
    """A bright column at the point's place on a dark ground."""

    def render(self, height: int, width: int) -> np.ndarray:
        picture = np.full((height, width, 3), 40, np.uint8)
        column = round((self.place[0] + 1) / 2 * (width - 1))
        picture[:, max(column - 2, 0) : column + 3] = 255
        return picture


class Other(Goal):
    """The same with a smaller goal."""

    radius = 0.1


TASKS = {"goal": Goal, "other": Other, "blind": Blind}
