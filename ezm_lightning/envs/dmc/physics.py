"""The suite's ``Physics`` without repeated work at every step: the same arrays, in fewer calls.

Rewards and observations read arrays by name (``physics.named.data.xpos["torso", "z"]``), and the suite resolves the
name at every read. Its step checks MuJoCo's warnings through NumPy and a context manager.
"""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np
from dm_control.mujoco import engine, index

RK4 = int(mujoco.mjtIntegrator.mjINT_RK4)


def quicken(physics: engine.Physics) -> None:
    """Changes a physics to a subclass of its own that remembers names, steps MuJoCo directly and makes no GL contexts.

    Heightfield tasks would make GL contexts at every reset; ``rendering`` draws pictures without them.
    """
    physics.__class__ = type("Physics", (QuickSteps, type(physics)), {"contexts": None})
    physics.pointers = physics.model.ptr, physics.data.ptr
    physics.actuators = physics.data.ctrl
    physics._named = engine.NamedIndexStructs(
        model=_remembering(physics.model, physics.named.model), data=_remembering(physics.data, physics.named.data)
    )


class QuickSteps:
    """Overrides of ``engine.Physics``; it comes first among the bases."""

    pointers: tuple[Any, Any]  # MjModel, MjData
    actuators: Any  # a view of MuJoCo's controls

    def set_control(self, control: Any) -> None:
        self.actuators[:] = control

    def step(self: Any, nstep: int = 1) -> None:
        """As ``engine.Physics.step``, errors included."""
        (model, data), warnings = self.pointers, self._warnings
        before = warnings.tobytes()
        if model.opt.integrator == RK4:
            mujoco.mj_step(model, data, nstep)
        else:  # positions and velocities are computed already: the second half of this step, then the other steps
            mujoco.mj_step2(model, data)
            if nstep > 1:
                mujoco.mj_step(model, data, nstep - 1)
        mujoco.mj_step1(model, data)
        if warnings.tobytes() != before:
            now = warnings.copy()
            warnings[:] = np.frombuffer(before, warnings.dtype)
            with self.check_invalid_state():
                warnings[:] = now


def _remembering(struct: Any, named: Any) -> Any:
    indexers = named._asdict().items()
    return index.make_struct_indexer({name: RememberingIndexer(struct, name, of.axes) for name, of in indexers})


class RememberingIndexer(index.FieldIndexer):
    """A named field that resolves an index of names, integers, slices and lists only at its first read."""

    __slots__ = ("_places",)

    def __init__(self, parent_struct: Any, field_name: str, axis_indexers: Any) -> None:
        super().__init__(parent_struct, field_name, axis_indexers)
        self._places: dict[Any, Any] = {}

    def _convert_key(self, key: Any) -> Any:
        try:
            hashable = key if type(key) is str else _typed(key)
            place = self._places.get(hashable)
        except TypeError:  # an array
            return super()._convert_key(key)
        if place is None:
            place = self._places[hashable] = super()._convert_key(key)
        return place


def _typed(key: Any) -> Any:
    """A hashable form of an index; equal only for indices of equal types (True is not 1). TypeError for arrays."""
    kind = type(key)
    if kind is str:
        return key
    if kind is tuple or kind is list:
        return kind, *[item if type(item) is str else _typed(item) for item in key]
    if kind is slice:
        return kind, key.start, key.stop, key.step
    return kind, key
