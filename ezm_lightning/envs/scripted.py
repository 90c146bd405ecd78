"""Policies that nobody had to train: controllers written by hand, and those that packages of tasks bring along.

A policy is a function of one observation, at the task's own width, to an action of it in [-1, 1].
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ezm_lightning.errors import nearest

Policy = Callable[[NDArray[Any]], NDArray[Any]]
LUNAR_LANDER = "gym/LunarLander-v3?continuous=true"
SWING_UPS = ("dmc/cartpole-swingup", "dmc/cartpole-swingup_sparse")


def scripted_policy(task: str) -> Policy:
    """A new controller of a task. Raises ValueError for a task that has none, naming the nearest that has, and
    ImportError where the package that brings it is missing."""
    if task in SWING_UPS:
        return swing_up
    if task == LUNAR_LANDER:
        return lunar_lander
    if task.startswith("mw/"):
        return meta_world(task)
    known = [*SWING_UPS, LUNAR_LANDER, "mw/..."]
    raise ValueError(
        f"{task} has no scripted policy; nearest: {nearest(task, known, 1)} (there are {', '.join(known)}); "
        "one of yours is policy=MODULE.FUNCTION"
    )


def policy_of(name: str, task: str) -> Policy:
    """The policy that ``name`` stands for: ``scripted``, or a function of obs and task as MODULE.FUNCTION.

    Raises ValueError where there is no such function.
    """
    if name == "scripted":
        return scripted_policy(task)
    module, _, function = name.rpartition(".")
    try:
        policy = getattr(importlib.import_module(module), function, None) if module else None
    except ModuleNotFoundError as error:
        raise ValueError(f"policy={name}: {error}; give MODULE.FUNCTION, a function of obs and task") from error
    if not callable(policy):
        raise ValueError(f"policy={name} is no function; nearest: scripted")
    return lambda obs: policy(obs, task)


def swing_up(obs: NDArray[Any]) -> NDArray[Any]:
    """Pumps energy into the pole of cartpole until it stands, then holds it there by linear feedback.

    Energy shaping (Åström and Furuta 2000): the cart is pushed by the sign of E θ̇ cos θ, here without its jumps, where
    E is 0 for a pole at rest upright, and is drawn to the middle. One turns into the other smoothly, so that a network
    can follow. The observation is x, cos θ, sin θ, ẋ, θ̇ with θ = 0 upright.
    """
    x, cos, sin, v, w = (float(value) for value in obs)
    energy = w * w / 3 + 9.81 * (cos - 1)  # of a rod of length 1, over half its mass
    pump = 1.5 * np.tanh(energy / 8) * np.tanh(w * cos) - 0.6 * x - 0.2 * v
    hold = np.clip(5.0 * np.arctan2(sin, cos) + 1.3 * w + 0.5 * x + 0.8 * v, -2, 2)
    near = _sigmoid(20 * (cos - 0.85)) * _sigmoid(3 * (4.5 - abs(w)))
    return np.array([np.tanh(near * hold + (1 - near) * pump)], np.float32)


def _sigmoid(x: float) -> float:
    return float(0.5 * (1 + np.tanh(x / 2)))


def lunar_lander(obs: NDArray[Any]) -> NDArray[Any]:
    """Gymnasium's own controller of the continuous lander."""
    try:
        from gymnasium.envs.box2d import lunar_lander as module
    except ImportError as error:
        raise ImportError(f"{LUNAR_LANDER} needs Box2D ({error}): pip install 'ezm-lightning[box2d]'") from error
    lander = SimpleNamespace(unwrapped=SimpleNamespace(continuous=True))  # all that it asks of the environment
    return np.clip(np.asarray(module.heuristic(lander, obs), np.float32), -1, 1)


def meta_world(task: str) -> Policy:
    """Meta-World's own controller of a task."""
    try:
        from metaworld.policies import ENV_POLICY_MAP
    except ImportError as error:
        from ezm_lightning.envs.metaworld import HOW_TO_INSTALL

        raise ImportError(f"{task} needs Meta-World ({error}); {HOW_TO_INSTALL}") from error
    name = task.removeprefix("mw/")
    if name not in ENV_POLICY_MAP:
        raise ValueError(f"{task} has no scripted policy; nearest: mw/{nearest(name, ENV_POLICY_MAP, 1)}")
    return partial(_clipped, ENV_POLICY_MAP[name]())


def _clipped(controller: Any, obs: NDArray[Any]) -> NDArray[Any]:
    return np.clip(np.asarray(controller.get_action(obs.astype(np.float64)), np.float32), -1, 1)
