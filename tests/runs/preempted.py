"""A task whose simulator has its process preempted, once: `tasks=[tests.runs.preempted/point]`, PREEMPT=FOLDER:SEED.

SLURM tells a job that is preempted by SIGTERM, then by the signal that submitit requeues it on.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np

from ezm_lightning.envs import Transition
from tests.runs.short import Point


class Preempted(Point):
    """Signals at its 55th step; of all processes the first one that gets there."""

    steps = 0

    def step(self, action: np.ndarray) -> Transition:
        self.steps += 1
        if self.steps == 55:
            self.preempt(Path(os.environ["PREEMPT"]))
        return super().step(action)

    def preempt(self, told: Path) -> None:
        try:
            told.mkdir()
        except FileExistsError:
            return
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGUSR2)


TASKS = {"point": Preempted}
