"""The exact state of a MuJoCo simulation, enough to continue it bit for bit.

MuJoCo's integration state (time, positions, velocities, activations, controls, warm start, …) determines the next step.
It does not determine the derived arrays (``xpos``, ``cinert``, sensors, …), which a reward may read first: after
``mj_step`` they still belong to the state before the last substep. So they are saved too, with the fields of the model
that the caller's task changes.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

State = dict[str, Any]

# Derived arrays of MjData with a size fixed by the model: all that Python code of an environment reads.
DERIVED_FIELDS = (
    "xpos", "xquat", "xmat", "xipos", "ximat", "xanchor", "xaxis", "geom_xpos", "geom_xmat", "site_xpos", "site_xmat",
    "cam_xpos", "cam_xmat", "light_xpos", "light_xdir", "subtree_com", "subtree_linvel", "subtree_angmom", "cdof",
    "cdof_dot", "cinert", "crb", "cvel", "cacc", "cfrc_int", "cfrc_ext", "qacc", "qacc_smooth", "qfrc_actuator",
    "qfrc_bias", "qfrc_constraint", "qfrc_inverse", "qfrc_passive", "qfrc_smooth", "act_dot", "actuator_force",
    "actuator_length", "actuator_velocity", "ten_length", "ten_velocity", "sensordata", "energy",
)  # fmt: skip


def check_stable(instabilities: NDArray[np.integer]) -> None:
    """Raises FloatingPointError if MuJoCo has reset itself within ``mj_step`` because of NaN, infinite or huge numbers.
    Only its counters show this; a reset clears them."""
    if any(instabilities.tolist()):
        raise FloatingPointError("the simulation became unstable, and MuJoCo reset itself")


def instabilities(data: Any) -> NDArray[np.integer]:
    """MuJoCo's own counters [3] of positions, velocities and accelerations that were not usable; a view."""
    return data.warning.number[_instabilities()]


@functools.cache
def _instabilities() -> slice:
    import mujoco

    return slice(int(mujoco.mjtWarning.mjWARN_BADQPOS), int(mujoco.mjtWarning.mjWARN_BADQACC) + 1)


def capture(model: Any, data: Any, model_fields: Sequence[str] = ()) -> State:
    """The state as tensors, which share no memory with the simulation. ``model``, ``data``: MjModel, MjData."""
    import mujoco

    signature = mujoco.mjtState.mjSTATE_INTEGRATION
    integration = np.empty(mujoco.mj_stateSize(model, signature))
    mujoco.mj_getState(model, data, integration, signature)
    return {
        "mujoco": mujoco.__version__,
        "integration": torch.from_numpy(integration),
        "derived": _packed(data, DERIVED_FIELDS),
        "model": {name: torch.from_numpy(np.array(getattr(model, name))) for name in model_fields},
    }


def restore(model: Any, data: Any, state: State, model_fields: Sequence[str] = ()) -> None:
    """Restores a captured state. Raises ValueError if it belongs to another model or another MuJoCo version."""
    import mujoco

    if state["mujoco"] != mujoco.__version__:
        raise ValueError(f"the state was saved with MuJoCo {state['mujoco']}, this is {mujoco.__version__}")
    signature = mujoco.mjtState.mjSTATE_INTEGRATION
    integration = state["integration"].numpy()
    if integration.size != mujoco.mj_stateSize(model, signature):
        raise ValueError(
            f"the state has {integration.size} numbers, this model needs {mujoco.mj_stateSize(model, signature)}"
        )
    for name in model_fields:
        getattr(model, name)[...] = state["model"][name].numpy()
    mujoco.mj_setState(model, data, integration, signature)
    mujoco.mj_forward(model, data)
    mujoco.mj_setState(model, data, integration, signature)  # replaces the warm start of mj_forward
    _unpack(data, DERIVED_FIELDS, state["derived"])


def _packed(data: Any, names: Sequence[str]) -> torch.Tensor:
    return torch.from_numpy(np.concatenate([getattr(data, name).ravel() for name in names]))


def _unpack(data: Any, names: Sequence[str], packed: torch.Tensor) -> None:
    values, start = packed.numpy(), 0
    for name in names:
        field = getattr(data, name)
        field[...] = values[start : start + field.size].reshape(field.shape)
        start += field.size
