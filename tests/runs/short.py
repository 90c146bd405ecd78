"""Tasks that cost next to nothing and can be saved: `tasks=[tests.runs.short/point]`, for tests of whole runs."""

from __future__ import annotations

import numpy as np
import torch

from ezm_lightning.envs import Simulator, Transition

SIZE = [
    "experiment=debug",
    "tasks=[tests.runs.short/point]",
    "model.latent_dim=16",
    "planner.num_simulations=2",
    "planner.max_num_considered_actions=2",
    "warmup_env_steps=100",
    "evaluate.interval=1_000_000",
]


def budget(updates: int) -> str:
    """The override for so many updates: 8 simulator steps each, after the warm-up."""
    return f"env_steps_per_task={100 + 8 * updates}"


class Point(Simulator):
    """A point that is paid for lying near the origin."""

    obs_dim, action_dim, max_episode_steps = 3, 1, 20

    def seed(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)

    def reset(self) -> np.ndarray:
        self.place = self.random.uniform(-1, 1, self.obs_dim)
        return self.place

    def step(self, action: np.ndarray) -> Transition:
        self.place = np.clip(self.place + 0.2 * action.mean(), -1, 1)
        return Transition(self.place, 1 - abs(self.place[0]), bool(self.place[1] > 0.95))

    def get_state(self) -> dict:
        state = self.random.bit_generator.state["state"]
        return {"place": torch.from_numpy(self.place.copy()), "state": str(state["state"]), "inc": str(state["inc"])}

    def set_state(self, state: dict) -> None:
        self.place = state["place"].numpy().copy()
        words = {"state": int(state["state"]), "inc": int(state["inc"])}
        generator = np.random.PCG64()
        generator.state = generator.state | {"state": words, "has_uint32": 0, "uinteger": 0}
        self.random = np.random.Generator(generator)


TASKS = {"point": Point, "other_point": Point}
