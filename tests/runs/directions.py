"""Tasks that differ in a direction only, `tasks=[tests.runs.directions/to_0, ...]`, and an encoder that knows it."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ezm_lightning.envs import Transition
from tests.runs.plane import Plane

COUNT = 16  # directions, around the circle


class Towards(Plane):
    """A point in the plane that begins near the origin and is paid for how far it lies in a direction."""

    max_episode_steps = 20
    direction = 0

    def step(self, action: np.ndarray) -> Transition:
        place = self.move(0.2 * action)
        angle = 2 * math.pi * self.direction / COUNT
        return Transition(place, float(place @ [math.cos(angle), math.sin(angle)]), False)


TASKS = {f"to_{i}": type(f"To{i}", (Towards,), {"direction": i}) for i in range(COUNT)}
TEXTS = {f"tests.runs.directions/{task}": f"Point. Direction {i}." for i, task in enumerate(TASKS)}


def circle(texts: Sequence[str]) -> Tensor:
    """[n, 2]: cosine and sine of each text's direction, zeros for a text without one."""
    numbers = [re.search(r"Direction (\d+)", text) for text in texts]
    angles = [None if number is None else 2 * math.pi * int(number[1]) / COUNT for number in numbers]
    return torch.tensor([[0.0, 0.0] if angle is None else [math.cos(angle), math.sin(angle)] for angle in angles])
