"""Environments that do what they should not: for Gymnasium, or in ``TASKS``."""

from __future__ import annotations

import os
import tempfile
from typing import ClassVar

import gymnasium
import numpy as np
from gymnasium import spaces

from ezm_lightning.envs import Simulator, Transition


class Odd(gymnasium.Env):
    """A good environment of three numbers and two actions; 50 steps, 0.5 a step."""

    def __init__(self, render_mode=None):
        self.observation_space = spaces.Box(-np.inf, np.inf, (3,), np.float64)
        self.action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)

    def observe(self):
        return self.np_random.uniform(-1, 1, 3)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self.observe(), {}

    def step(self, action):
        self.t += 1
        return self.observe(), 0.5, False, False, {}


def stepping(*result):
    """An environment whose steps return ``result``; a function in it is called with the environment."""

    class Env(Odd):
        def step(self, action):
            self.t += 1
            return tuple(part(self) if callable(part) else part for part in result)

    return Env


def observed(env):
    return env.observe()


class Exits(Odd):
    code: object = "licence expired"

    def step(self, action):
        raise SystemExit(self.code)


class ExitsAtReset(Exits):
    code = 3

    def reset(self, *, seed=None, options=None):
        raise SystemExit(self.code)


class ExitsWhenBuilt(Odd):
    def __init__(self, render_mode=None):
        raise SystemExit


class ExitsLater(Odd):
    def step(self, action):
        if self.t == 7:
            raise SystemExit("no more licences")
        return super().step(action)


class NeedsArgument(Odd):
    def __init__(self, path, render_mode=None):
        super().__init__()


class NoSpaces(Odd):
    def __init__(self, render_mode=None):
        pass


class CloseRaises(Odd):
    def close(self):
        raise RuntimeError("viewer already closed")


class ChangesFolder(Odd):
    def __init__(self, render_mode=None):
        super().__init__()
        os.chdir(tempfile.mkdtemp())


class ChangesFolderLater(Odd):
    def reset(self, *, seed=None, options=None):
        os.chdir(tempfile.mkdtemp())
        return super().reset(seed=seed)


class LosesFolder(Odd):
    """Works in a folder that is deleted."""

    def reset(self, *, seed=None, options=None):
        folder = tempfile.mkdtemp()
        os.chdir(folder)
        os.rmdir(folder)
        return super().reset(seed=seed)


class OldReset(Odd):
    def reset(self, *, seed=None, options=None):
        return super().reset(seed=seed)[0]


class NarrowLater(Odd):
    """Its observations have one number from step 4 of an episode on."""

    def step(self, action):
        obs, *rest = super().step(action)
        return obs[:1] if self.t >= 4 else obs, *rest


class Huge(Odd):
    size = 1e30

    def step(self, action):
        obs, *rest = super().step(action)
        return obs * (self.size if self.t in (7, 8) else 1), *rest


class PaysAfterItsEnd(Odd):
    """Each step pays 1 and terminates."""

    def step(self, action):
        return self.observe(), 1.0, True, False, {}


class RefusesAfterItsEnd(Odd):
    end = 12

    def step(self, action):
        if self.t >= self.end:
            raise RuntimeError("step() after the episode's end: call reset()")
        obs, reward, _, _, info = super().step(action)
        return obs, reward, self.t == self.end, False, info


class RefusesWithinRepeats(RefusesAfterItsEnd):
    end = 11  # the first of the two steps of a decision


def boxed(low, high, dtype=np.float32):
    """An environment that raises for an action outside its Box."""

    class Env(Odd):
        def __init__(self, render_mode=None):
            super().__init__()
            self.action_space = spaces.Box(np.array(low, dtype), np.array(high, dtype), dtype=dtype)

        def step(self, action):
            if not self.action_space.contains(action):
                raise AssertionError(f"{action!r} is outside of {self.action_space}")
            Env.seen.append(np.array(action))
            return super().step(action)

        seen: ClassVar[list] = []

    return Env


class DictLacksKey(Odd):
    def __init__(self, render_mode=None):
        super().__init__()
        box = spaces.Box(-1, 1, (2,), np.float64)
        self.observation_space = spaces.Dict({"here": box, "goal": box})

    def observe(self):
        return {"here": np.zeros(2)}


class Good(Simulator):
    obs_dim, action_dim, max_episode_steps = 3, 2, 50

    def seed(self, seed):
        self.random = np.random.default_rng(seed)

    def reset(self):
        self.place, self.t = self.random.uniform(-1, 1, 3), 0
        return self.place

    def step(self, action):
        self.t += 1
        self.place = np.clip(self.place + 0.1 * action.mean(), -1, 1)
        return Transition(self.place, 0.5, False)


class ChangesAction(Good):
    given: ClassVar[list] = []

    def step(self, action):
        self.given.append(float(action[0]))
        action *= 0.5
        return super().step(action)


class SavesArrays(Good):
    def get_state(self):
        return {
            "place": self.place.copy(),
            "t": np.int64(self.t),
            "random": self.random.bit_generator.state,
            "nested": [(np.float32(0.5), np.array(["a", "bc"])), {"key": np.zeros((0, 2))}],
        }

    def set_state(self, state):
        assert type(state["place"]) is np.ndarray and type(state["t"]) is np.int64
        (half, words), empty = state["nested"]
        assert half == np.float32(0.5) and words.tolist() == ["a", "bc"] and empty["key"].shape == (0, 2)
        self.place, self.t = state["place"].copy(), int(state["t"])
        self.random = np.random.default_rng()
        self.random.bit_generator.state = state["random"]


class SavesObject(SavesArrays):
    def get_state(self):
        return {"place": self.place, "deep": {"generator": self.random}}


class SavesOnly(Good):
    def get_state(self):
        return {"t": 1}


class Forgets(Good):
    obs_dim = property(lambda self: self.missing)


class NoObsDim(Simulator):
    action_dim = 2


class NoStep(Good):
    step = Simulator.step


class ReturnsTuple(Good):
    def step(self, action):
        return tuple(super().step(action))[:3]


class ReturnsNothing(Good):
    def step(self, action):
        super().step(action)


class Broken(Good):
    def step(self, action):
        raise RuntimeError("always")


SHARED = Good()


def limited(limit):
    class Limited(Good):
        max_episode_steps = limit

    return Limited


def paying(reward=0.5, terminated=False):
    class Pays(Good):
        def step(self, action):
            return super().step(action)._replace(reward=reward, terminated=terminated)

    return Pays


TASKS = {
    "good": Good, "saves_arrays": SavesArrays, "saves_object": SavesObject, "saves_only": SavesOnly,
    "changes_action": ChangesAction, "no_obs_dim": NoObsDim, "no_step": NoStep, "tuple": ReturnsTuple,
    "nothing": ReturnsNothing, "broken": Broken, "gym": Odd, "number": 3, "endless": limited(float("inf")),
    "unlimited": limited(None), "zero": limited(0), "half": limited(2.5), "yes": limited(True), "forgets": Forgets,
    "refuses": lambda: (_ for _ in ()).throw(OSError("no display")), "shared": lambda: SHARED,
}  # fmt: skip
