"""The exact state of an environment around a MuJoCo simulation that also keeps state in Python.

Goals, targets and counters of Meta-World and of gymnasium-robotics are attributes of the environment; mazes and the
kitchen hold a second environment with the simulation inside. So the state has the physics, the random generator and
every plain attribute (numbers, arrays, lists and sets of words), also of the environments within. Both packages are
tested to resume bit for bit. Another package may have state elsewhere.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
import torch

from ezm_lightning.envs import mujoco_state

State = dict[str, Any]
# Fields of the model that resets in the two packages change: positions of goals, tables, walls and objects.
MODEL_FIELDS = ("body_pos", "body_quat", "geom_pos", "geom_quat", "geom_rgba", "site_pos", "site_quat", "site_rgba")
NUMBERS = "biuf"  # NumPy's letters for booleans, integers and floating-point numbers


def capture(env: Any) -> State:
    """The state of an unwrapped environment; tensors, numbers and words that share no memory with it."""
    simulation = {"physics": mujoco_state.capture(env.model, env.data, MODEL_FIELDS)} if _simulates(env) else {}
    return {
        "random": json.dumps(env.np_random.bit_generator.state),
        "attributes": {name: _kept(value) for name, value in vars(env).items() if _is_plain(value)},
        "inner": {name: capture(inner) for name, inner in _inner(env)},
        **simulation,
    }


def restore(env: Any, state: State) -> None:
    """Restores a captured state in an environment that has been reset, so that its views of the simulation exist.

    Raises ValueError if the state belongs to another model or another MuJoCo version.
    """
    env.np_random.bit_generator.state = json.loads(state["random"])
    for name, inner in _inner(env):
        restore(inner, state["inner"][name])
    if "physics" in state:
        mujoco_state.restore(env.model, env.data, state["physics"], MODEL_FIELDS)
    for name, value in state["attributes"].items():
        setattr(env, name, _given_back(value))


def simulation(env: Any) -> tuple[Any, Any] | None:
    """(MjModel, MjData) of an unwrapped environment or of the one within it; None if there is none."""
    holders = [holder for holder in (env, *dict(_inner(env)).values()) if _holds_simulation(holder)]
    return (holders[0].model, holders[0].data) if holders else None


def _holds_simulation(env: Any) -> bool:
    return hasattr(env, "model") and hasattr(getattr(env, "data", None), "warning")


def _simulates(env: Any) -> bool:
    """Whether the simulation is this environment's own. The kitchen, for example, refers to that of its robot."""
    return _holds_simulation(env) and not any(_holds_simulation(inner) for _, inner in _inner(env))


def _inner(env: Any) -> Iterator[tuple[str, Any]]:
    return ((name, value.unwrapped) for name, value in vars(env).items() if isinstance(value, gymnasium.Env))


def _is_plain(value: Any) -> bool:
    if isinstance(value, np.ndarray):
        return value.dtype.kind in NUMBERS and _owns_its_memory(value)
    if isinstance(value, list | set):
        return all(isinstance(entry, str) for entry in value)
    return isinstance(value, bool | int | float | np.bool_ | np.number)


def _owns_its_memory(array: np.ndarray) -> bool:
    """False for a view of the simulation, which changes with it, as ``obj_init_pos`` in some tasks of Meta-World."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array.base is None


def _kept(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.bool_ | np.number):
        return torch.from_numpy(np.array(value))
    return sorted(value) if isinstance(value, set) else list(value) if isinstance(value, list) else value


def _given_back(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.numpy().copy()[()]  # [()] makes a scalar of its own type again
    return list(value) if isinstance(value, list) else value
