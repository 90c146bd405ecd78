"""What tests of several sources ask of a simulator's saved state."""

import io

import numpy as np
import torch

from ezm_lightning.envs.simulator import Simulator
from ezm_lightning.envs.sources import make_slots


def continues_bit_for_bit(task: str) -> None:
    """Asserts that a simulator put into a saved state repeats the rest of that episode and the next one."""
    saved, other = (make_slots(task, 1, action_repeat=1, ignore_termination=False).simulators[0] for _ in range(2))
    actions = np.random.default_rng(0).uniform(-1, 1, (45, saved.action_dim))
    saved.seed(3)
    saved.reset()
    saved.reset()
    for action in actions[:25]:
        saved.step(action)
    file = io.BytesIO()
    torch.save(saved.get_state(), file)
    file.seek(0)
    expected = _played(saved, actions[25:])
    other.set_state(torch.load(file, weights_only=True))
    assert np.array_equal(_played(other, actions[25:]), expected)


def _played(simulator: Simulator, actions: np.ndarray) -> np.ndarray:
    """Observations, rewards and successes of the rest of an episode, then of another one."""
    seen = []
    for _ in range(2):
        for action in actions:
            step = simulator.step(action)
            seen.append(np.r_[step.obs, step.reward, bool(step.success)])
        seen.append(np.r_[simulator.reset(), 0, 0])
    return np.stack(seen)
