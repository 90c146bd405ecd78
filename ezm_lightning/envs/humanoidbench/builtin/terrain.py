"""The robot's surroundings: one function per task adds walls, stairs, slides, hurdles, poles, a tunnel or a maze.

Sizes are HumanoidBench 0.2's, in m; the robot starts at (0, 0) and looks along x. All of it collides and has no mass,
since it is fixed to the world. Rewards refer to some geoms by name: see ``contacts``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import mujoco
import numpy as np

STONE, WOOD, STEEL = (0.62, 0.64, 0.67, 1.0), (0.72, 0.55, 0.38, 1.0), (0.75, 0.33, 0.27, 1.0)
GLASS = (0.6, 0.7, 0.8, 0.25)  # so that cameras see through it

STAIR_CENTRES, STEP_HEIGHT, STEP_DEPTH, NUM_STEPS = (3.2, 9.2, 15.2, 21.2), 0.18, 0.6, 5
SLIDE_START, SLIDE_LENGTH, SLIDE_PEAK, NUM_SLIDES = 0.3, 10.0, 1.75, 9
HALF_WIDTH = 5.0  # of stairs, slides and hurdles
HURDLE_X, HURDLE_HEIGHT, HURDLE_DEPTH = range(7, 71, 7), 0.375, 0.06
NUM_POLE_ROWS, POLE_SPACING, POLE_RADIUS, POLE_HEIGHT = 41, 1.5, 0.05, 2.0
TUNNEL_X, TUNNEL_HALF_WIDTH, TUNNEL_HEIGHT, TUNNEL_WALL = (2.2, 18.2), 1.15, 1.15, 0.4
BLOCK, BLOCK_HEIGHT = 1.5, 1.2
MAZE = (  # seen from above, x to the right; the first row has the largest y
    "#######",
    "#     #",
    "### # #",
    "#     #",
    "# # ###",
    "#     #",
    "#######",
)
MAZE_CORNER = (-2.25, -2.25)  # x, y of the maze's lower left corner
CHECKPOINTS = {"a": (0, 0), "b": (3, 0), "c": (3, 6), "d": (6, 6)}


def box(
    body: Any, low: Sequence[float], high: Sequence[float], *, name: str = "", rgba: Sequence[float] = STONE
) -> None:
    """A box between two corners (x, y, z)."""
    centre, half = (np.array(high) + np.array(low)) / 2, (np.array(high) - np.array(low)) / 2
    body.add_geom(name=name, type=mujoco.mjtGeom.mjGEOM_BOX, pos=centre, size=half, rgba=rgba, mass=0)


def add_stairs(spec: Any) -> None:
    """Four pyramids of five steps, with walls at the sides and behind."""
    body = spec.worldbody.add_body(name="stairs")
    for centre in STAIR_CENTRES:
        for step in range(NUM_STEPS):
            half = STEP_DEPTH * (NUM_STEPS - step - 0.5)
            bottom, top = step * STEP_HEIGHT, (step + 1) * STEP_HEIGHT
            box(body, (centre - half, -HALF_WIDTH, bottom), (centre + half, HALF_WIDTH, top))
    for low, high in (((-2, -5.15), (29, -4.95)), ((-2, 4.95), (29, 5.15)), ((-2.2, -7.25), (-2, 7.25))):
        box(body, (*low, 0), (*high, 4), rgba=GLASS)


def add_slides(spec: Any) -> None:
    """Nine roofs in a row, up at 19 degrees and down again, with walls at the sides and behind."""
    outline = ((0.0, 0.0), (SLIDE_LENGTH / 2, SLIDE_PEAK), (SLIDE_LENGTH, 0.0))
    corners = [(SLIDE_START + x, y, z) for x, z in outline for y in (HALF_WIDTH, -HALF_WIDTH)]
    spec.add_mesh(name="slide", uservert=np.ravel(corners))
    body = spec.worldbody.add_body(name="slides")
    for i in range(NUM_SLIDES):
        position = (i * SLIDE_LENGTH, 0, 0)
        body.add_geom(type=mujoco.mjtGeom.mjGEOM_MESH, meshname="slide", pos=position, rgba=WOOD, mass=0)
    for low, high in (((-4.15, -5.3), (101.85, -5)), ((-4.15, 5), (101.85, 5.3)), ((-4.15, -5.15), (-3.85, 5.15))):
        box(body, (*low, 0), (*high, 8), rgba=GLASS)


def add_hurdles(spec: Any) -> None:
    """Ten hurdles across the whole track, 7 m apart; touching the walls beside and behind the track costs reward."""
    body = spec.worldbody.add_body(name="hurdles")
    box(body, (-0.5, -5, 0), (70.5, -4.45, 2), name="left_barrier_collision", rgba=GLASS)
    box(body, (-0.5, 4.45, 0), (70.5, 5, 2), name="right_barrier_collision", rgba=GLASS)
    box(body, (-0.575, -5, 0), (-0.475, 5, 2), name="behind_barrier_collision", rgba=GLASS)
    for x in HURDLE_X:
        low, high = (x - HURDLE_DEPTH / 2, -HALF_WIDTH, 0), (x + HURDLE_DEPTH / 2, HALF_WIDTH, HURDLE_HEIGHT)
        box(body, low, high, rgba=WOOD)


def add_poles(spec: Any) -> None:
    """41 rows of poles, 1 m apart, with four and three poles in turn; 'pole_r1_c1' is the leftmost of the first row."""
    body = spec.worldbody.add_body(name="poles")
    for low, high in (((-0.75, -3.3), (40.75, -3)), ((-0.75, 3), (40.75, 3.3)), ((-0.75, -3), (-0.45, 3))):
        box(body, (*low, 0), (*high, 2), rgba=GLASS)
    size = (POLE_RADIUS, POLE_HEIGHT / 2, 0)
    for row in range(1, NUM_POLE_ROWS + 1):
        count = 4 if row % 2 else 3
        for column in range(1, count + 1):
            body.add_geom(
                name=f"pole_r{row}_c{column}",
                type=mujoco.mjtGeom.mjGEOM_CYLINDER,
                pos=(row, POLE_SPACING * ((count + 1) / 2 - column), POLE_HEIGHT / 2),
                size=size,
                rgba=STEEL,
                mass=0,
            )


def add_tunnel(spec: Any) -> None:
    """A straight tunnel, too low to walk in."""
    body, (start, end) = spec.worldbody.add_body(name="tunnel"), TUNNEL_X
    inner, outer, top = TUNNEL_HALF_WIDTH, TUNNEL_HALF_WIDTH + TUNNEL_WALL, TUNNEL_HEIGHT + TUNNEL_WALL
    box(body, (start, -outer, 0), (end, -inner, top), rgba=GLASS)
    box(body, (start, inner, 0), (end, outer, top), rgba=GLASS)
    box(body, (start, -inner, TUNNEL_HEIGHT), (end, inner, top), rgba=GLASS)


def add_maze(spec: Any) -> None:
    """30 blocks, named 'block_collision_<row><column>' by their cell in MAZE. Nothing may be added after them.

    Their geoms have the highest ids, by which the reward recognises them. Marks above the checkpoints do not collide.
    """
    for name, (x, y) in CHECKPOINTS.items():
        spec.worldbody.add_geom(
            name=f"intersection_{name}",
            pos=(x, y, 1),
            size=(0.05, 0, 0),
            rgba=STEEL,
            group=1,
            contype=0,
            conaffinity=0,
            mass=0,
        )
    body, (x0, y0) = spec.worldbody.add_body(name="maze"), MAZE_CORNER
    for row, line in enumerate(MAZE):
        for column, cell in enumerate(line):
            if cell == "#":
                left, near = x0 + column * BLOCK, y0 + (len(MAZE) - 1 - row) * BLOCK
                name = f"block_collision_{row}{column}"
                box(body, (left, near, 0), (left + BLOCK, near + BLOCK, BLOCK_HEIGHT), name=name)


def add_nothing(spec: Any) -> None:
    """The bare floor."""


TERRAINS: dict[str, Callable[[Any], None]] = {
    "stand": add_nothing,
    "walk": add_nothing,
    "run": add_nothing,
    "stair": add_stairs,
    "crawl": add_tunnel,
    "slide": add_slides,
    "pole": add_poles,
    "hurdle": add_hurdles,
    "maze": add_maze,
}
