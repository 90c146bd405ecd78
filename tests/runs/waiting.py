"""Waits to be interrupted: `tasks=[tests.runs.waiting/point]`, WAIT=PLACE:FILE, the file says that it waits."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np

from ezm_lightning.envs import Transition
from tests.runs.short import Point


def wait(place: str) -> None:
    wanted, _, file = os.environ.get("WAIT", "").partition(":")
    if place == wanted:
        Path(file).touch()
        time.sleep(300)


class Waiting(Point):
    """Waits in its first reset or its first step, if at all."""

    def reset(self) -> np.ndarray:
        wait("reset")
        return super().reset()

    def step(self, action: np.ndarray) -> Transition:
        wait("step")
        return super().step(action)


TASKS = {"point": Waiting}
wait("import")
