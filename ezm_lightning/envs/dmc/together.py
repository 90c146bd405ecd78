"""The suite's own rewards and observations of several environments in one call.

Its code reads MuJoCo's arrays by name and computes with NumPy. Here each array has one more axis, the last, for the
environments: ``physics.named.data.xpos["torso", "z"]`` is [m], and code written for one number computes m. This needs
elementwise code; ``TASKS`` are the tasks whose code is elementwise, and the tests compare each of them.
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
    """m environments of one task as a single physics for its code; ``task`` is that of any of them."""

    def __init__(self, task: Any, physics: Sequence[Any]) -> None:
        self.task, self.num = task, len(physics)
        data, model = _Stacks([slot.data for slot in physics]), _Stacks([slot.model for slot in physics])
        data.model = model
        named = physics[0].named
        self.stacks, self.physics = (data, model), object.__new__(type(physics[0]))
        self.physics._data = data
        self.physics._named = SimpleNamespace(
            data=_NamedStacks(data, named.data), model=_NamedStacks(model, named.model)
        )

    def rewards(self) -> NDArray[np.float64]:
        """[m], in the current states of the simulations."""
        for stack in self.stacks:
            stack.refresh()
        reward: NDArray[np.float64] = self.task.get_reward(self.physics)
        return reward

    def observations(self) -> NDArray[np.float64]:
        """[m, obs_dim], in the states of the last call of ``rewards``."""
        parts = self.task.get_observation(self.physics).values()
        return np.concatenate([part.reshape(-1, self.num) for part in parts]).T


class _Stacks:
    """Arrays of several MjData or MjModel, each [..., m], made when first read; other fields are the first's."""

    model: Any  # for MjData: the value of ``physics.model``

    def __init__(self, structs: Sequence[Any]) -> None:
        self._structs = structs
        self._copies: list[tuple[NDArray[Any], NDArray[Any]]] = []  # (target, source), views

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
    """The arrays of ``_Stacks``, indexed by the names of the first environment."""

    def __init__(self, stacks: _Stacks, named: Any) -> None:
        self._stacks, self._like = stacks, named

    def __getattr__(self, name: str) -> Any:
        like = getattr(self._like, name)
        indexer = type(like)(self._stacks, name, like.axes)
        setattr(self, name, indexer)
        return indexer
