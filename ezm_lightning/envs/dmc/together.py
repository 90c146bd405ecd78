"""The suite's own rewards and observations of several environments in one call.

Its code reads MuJoCo's arrays by name and computes with NumPy. Here each of those arrays has the environments as one
more axis, the last: ``physics.named.data.xpos["torso", "z"]`` is [m], and what is written for one number computes m.
That holds where the code is elementwise; ``TASKS`` are those of whose it does, and the tests compare every task.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

TASKS = (
    "cheetah-run", "fish-upright", "hopper-hop", "pendulum-swingup", "walker-run", "walker-stand", "walker-walk",
)  # fmt: skip


class Together:
    """m environments of one task, seen by its code as one. ``physics``: theirs, ``task``: any one's."""

    def __init__(self, task: Any, physics: Sequence[Any]) -> None:
        self.task, self.num = task, len(physics)
        data, model = _Stacks([each.data for each in physics]), _Stacks([each.model for each in physics])
        data.model = model
        named = physics[0].named
        self.stacks, self.physics = (data, model), object.__new__(type(physics[0]))
        self.physics._data = data
        self.physics._named = SimpleNamespace(
            data=_NamedStacks(data, named.data), model=_NamedStacks(model, named.model)
        )

    def rewards(self) -> NDArray[np.float64]:
        """[m], of what the simulations are at now."""
        for stack in self.stacks:
            stack.refresh()
        reward: NDArray[np.float64] = self.task.get_reward(self.physics)
        return reward

    def observations(self) -> NDArray[np.float64]:
        """[m, obs_dim], of what the simulations were at when rewards were last asked for."""
        parts = self.task.get_observation(self.physics).values()
        return np.concatenate([part.reshape(-1, self.num) for part in parts]).T


class _Stacks:
    """Arrays of several MjData or MjModel, each [..., m], made when first read; other fields are the first's."""

    model: Any  # of MjData: where ``physics.model`` looks

    def __init__(self, structs: Sequence[Any]) -> None:
        self._structs = structs
        self._copies: list[tuple[NDArray[Any], NDArray[Any]]] = []  # (where to, from), views

    def __getattr__(self, name: str) -> Any:
        fields = [getattr(struct, name) for struct in self._structs]
        if not isinstance(fields[0], np.ndarray):
            return fields[0]
        stack = np.stack(fields, -1)
        self._copies += [(stack[..., i], field) for i, field in enumerate(fields)]
        setattr(self, name, stack)
        return stack

    def refresh(self) -> None:
        for target, source in self._copies:
            target[...] = source


class _NamedStacks:
    """The same arrays, read by the names of the first environment's."""

    def __init__(self, stacks: _Stacks, named: Any) -> None:
        self._stacks, self._like = stacks, named

    def __getattr__(self, name: str) -> Any:
        like = getattr(self._like, name)
        indexer = type(like)(self._stacks, name, like.axes)
        setattr(self, name, indexer)
        return indexer
