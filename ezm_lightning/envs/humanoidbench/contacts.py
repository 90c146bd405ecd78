"""The contacts that cost reward or end an episode, from the pairs of geoms that MuJoCo reports."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

FLOOR = 0
Touched = Callable[[NDArray[np.int32]], bool]  # geom ids [contacts, 2] -> whether one of them counts


def make_touched(kind: str, model: Any) -> Touched | None:
    """The check for a kind of task on an MjModel; None if contacts do not matter."""
    if kind == "hurdle":
        walls = ("left_barrier_collision", "right_barrier_collision", "behind_barrier_collision")
        return any_of(_marked(model, lambda name: name in walls))
    if kind == "maze":
        blocks = np.arange(model.ngeom) >= model.geom("block_collision_00").id
        return any_of(blocks)
    if kind == "pole":
        return pole(_marked(model, lambda name: "pole_r" in name))
    if kind.startswith("balance"):
        return fallen(model.geom("pivot_sphere_collision").id, model.geom("stand_board_collision").id)
    return None


def any_of(marked: NDArray[np.bool_]) -> Touched:
    """A contact of any marked geom [ngeom], for example of the side walls of hurdle or of the maze's blocks."""
    return lambda pairs: bool(marked[pairs].any())


def pole(poles: NDArray[np.bool_]) -> Touched:
    """A contact of a pole with anything but the floor."""
    return lambda pairs: bool((poles[pairs].any(-1) & (pairs != FLOOR).all(-1)).any())


def fallen(sphere: int, board: int) -> Touched:
    """A contact of the sphere with anything but floor and board, or of the floor with anything but the sphere."""

    def touched(pairs: NDArray[np.int32]) -> bool:
        has_sphere, has_floor, has_board = ((pairs == geom).any(-1) for geom in (sphere, FLOOR, board))
        return bool(((has_sphere & ~has_floor & ~has_board) | (has_floor & ~has_sphere)).any())

    return touched


def _marked(model: Any, matches: Callable[[str], bool]) -> NDArray[np.bool_]:
    return np.array([matches(model.geom(i).name) for i in range(model.ngeom)])
