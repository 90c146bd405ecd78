"""The Unitree H1 in numbers: for each link its mass, its joint, its actuator and the shapes that collide.

Frames, masses, inertias, joint ranges, gains and force limits are the published ones: Unitree's H1 description
(BSD-3-Clause, HangZhou YuShu Technology) as HumanoidBench 0.2 uses it (commit 791405f). Units are m, kg, rad, N m;
quaternions are (w, x, y, z); x points forward, y to the left, z up. Only the left side is in the table: the right
side is its mirror image.

The shapes are this project's own. The original collides with the convex hull of each link's mesh; here capsules,
cylinders and boxes replace it. They were fitted by least squares on two distances and rounded to mm: the extents of the
two bodies in each of 1500 directions, and the distances of points inside the hull from the shapes. Their extents differ
from the hull's by 1-3 mm (root mean square over directions, 1 cm at most), and they fill 88-105 % of its volume. The
sole is a box: flat, 7 cm below the ankle, 29.4 cm long and 2.8 cm wide, as the hull's is.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

Vector = tuple[float, float, float]
Quaternion = tuple[float, float, float, float]
NO_TURN: Quaternion = (1.0, 0.0, 0.0, 0.0)


class Capsule(NamedTuple):
    """All points within ``radius`` of the segment from ``start`` to ``end``."""

    start: Vector
    end: Vector
    radius: float


class Cylinder(NamedTuple):
    """A cylinder with flat ends at ``start`` and ``end``."""

    start: Vector
    end: Vector
    radius: float


class Box(NamedTuple):
    """A box along the link's axes."""

    centre: Vector
    half_size: Vector


Shape = Capsule | Cylinder | Box


class Inertial(NamedTuple):
    """Mass, its centre in the link's frame, and the moments about the principal axes, whose rotation is ``turn``."""

    mass: float
    centre: Vector
    turn: Quaternion
    moments: Vector


class Drive(NamedTuple):
    """A position actuator: force = kp (target - q) - kv dq/dt, within +-limit."""

    kp: float
    kv: float
    limit: float


@dataclass(frozen=True)
class Link:
    """A body with the hinge that joins it to its parent; the body is called ``joint`` + '_link'."""

    joint: str
    parent: str  # a body's name
    position: Vector  # in the parent's frame
    axis: Vector
    range: tuple[float, float]
    drive: Drive
    inertial: Inertial
    shapes: tuple[Shape, ...]
    turn: Quaternion = NO_TURN

    @property
    def body(self) -> str:
        return f"{self.joint}_link"


DAMPING, ARMATURE = 1.0, 0.1  # of every joint: N m s, kg m^2
HIP, KNEE, ANKLE = Drive(200, 5, 200), Drive(300, 6, 300), Drive(40, 2, 40)
TORSO_YAW, SHOULDER, ELBOW = Drive(300, 6, 200), Drive(100, 2, 40), Drive(100, 2, 18)
X, Y, Z = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)


def _across(x: float, half_width: float, z: float, radius: float) -> Capsule:
    """A capsule from right to left."""
    return Capsule((x, -half_width, z), (x, half_width, z), radius)


def _mirror(v: Vector) -> Vector:
    return v[0], -v[1], v[2]


def _mirror_turn(q: Quaternion) -> Quaternion:
    return q[0], -q[1], q[2], -q[3]


def _mirror_shape(shape: Shape) -> Shape:
    if isinstance(shape, Box):
        return Box(_mirror(shape.centre), shape.half_size)
    return shape._replace(start=_mirror(shape.start), end=_mirror(shape.end))


def _both_sides(shape: Shape) -> tuple[Shape, Shape]:
    return shape, _mirror_shape(shape)


PELVIS_INERTIAL = Inertial(
    5.39, (-0.0002, 4e-05, -0.04522), (0.498303, 0.499454, -0.500496, 0.501741), (0.0490211, 0.0445821, 0.00824619)
)
PELVIS_SHAPES: tuple[Shape, ...] = (
    Box((0.001, 0, -0.040), (0.058, 0.052, 0.044)),
    *_both_sides(Cylinder((0, 0.084, -0.078), (0, 0.084, -0.047), 0.069)),
    _across(0.006, 0.101, -0.042, 0.044),
    _across(0.037, 0.104, -0.052, 0.033),
    _across(-0.031, 0.097, -0.047, 0.038),
)

LEFT_LEG = (
    Link(
        "left_hip_yaw", "pelvis", (0, 0.0875, -0.1742), Z, (-0.43, 0.43), HIP,
        Inertial(2.244, (-0.04923, 0.0001, 0.0072), (0.69699, 0.219193, 0.233287, 0.641667),
                 (0.00304494, 0.00296885, 0.00189201)),
        (Cylinder((-0.102, 0, 0), (-0.032, 0, 0), 0.06),),
    ),
    Link(
        "left_hip_roll", "left_hip_yaw_link", (0.039468, 0, 0), X, (-0.43, 0.43), HIP,
        Inertial(2.232, (-0.0058, -0.00319, -9e-05), (0.0438242, 0.70721, -0.0729075, 0.701867),
                 (0.00243264, 0.00225325, 0.00205492)),
        (
            Cylinder((-0.008, -0.043, 0.003), (0.007, 0.024, -0.003), 0.055),
            Box((-0.055, 0, 0), (0.013, 0.054, 0.023)),
            Capsule((-0.023, -0.014, 0.016), (-0.029, 0, 0.020), 0.046),
            Capsule((-0.038, -0.001, -0.027), (-0.037, 0.021, -0.009), 0.037),
        ),
    ),
    Link(
        "left_hip_pitch", "left_hip_roll_link", (0, 0.11536, 0), Y, (-3.14, 2.53), HIP,
        Inertial(4.152, (0.00746, -0.02346, -0.08193), (0.979828, 0.0513522, -0.0169854, -0.192382),
                 (0.0829503, 0.0821457, 0.00510909)),
        (
            Cylinder((0, -0.092, -0.004), (0, 0.026, 0.003), 0.058),
            Capsule((0.029, -0.065, -0.024), (0.033, -0.008, -0.383), 0.030),
            Capsule((-0.022, -0.056, -0.008), (0.004, -0.007, -0.377), 0.039),
            Capsule((0.030, 0, -0.032), (0.030, 0.002, -0.409), 0.033),
            Capsule((-0.040, 0.010, 0.011), (0.005, 0.014, -0.419), 0.021),
            Capsule((0.011, -0.032, -0.249), (0.021, -0.004, -0.409), 0.039),
            Capsule((0.025, -0.011, -0.417), (0.029, 0.006, -0.417), 0.029),
        ),
    ),
    Link(
        "left_knee", "left_hip_pitch_link", (0, 0, -0.4), Y, (-0.26, 2.05), KNEE,
        Inertial(1.721, (-0.00136, -0.00512, -0.1384), (0.626132, -0.034227, -0.0416277, 0.777852),
                 (0.0125237, 0.0123104, 0.0019428)),
        (
            Capsule((0.016, 0, 0.007), (0.019, 0, 0.024), 0.024),
            Capsule((0.018, -0.001, -0.014), (0.022, 0, -0.385), 0.034),
            Capsule((-0.020, -0.006, -0.079), (0.012, -0.001, -0.384), 0.035),
            Capsule((-0.044, -0.034, -0.106), (-0.045, 0.024, -0.115), 0.013),
            Capsule((0.014, -0.014, -0.105), (0.016, 0.003, -0.099), 0.034),
            Capsule((0, -0.008, -0.030), (-0.020, 0, -0.090), 0.032),
        ),
    ),
    Link(
        "left_ankle", "left_knee_link", (0, 0, -0.4), Y, (-0.87, 0.52), ANKLE,
        Inertial(0.552448, (0.048568, 0, -0.045609), (0.489385, 0.510394, 0.510394, 0.489385),
                 (0.00362, 0.00355701, 0.000149987)),
        (
            Box((0.05, 0, -0.064), (0.147, 0.014, 0.006)),
            Capsule((-0.003, 0, -0.004), (0.165, 0, -0.055), 0.015),
            Capsule((-0.003, 0, -0.004), (-0.070, 0, -0.053), 0.015),
            Capsule((-0.025, 0, -0.042), (0.090, 0, -0.044), 0.015),
        ),
    ),
)  # fmt: skip

TORSO = Link(
    "torso", "pelvis", (0, 0, 0), Z, (-2.35, 2.35), TORSO_YAW,
    Inertial(17.789, (0.000489, 0.002797, 0.20484), (0.999989, -0.00130808, -0.00282289, -0.00349105),
             (0.487315, 0.409628, 0.127837)),
    (
        Box((0.012, 0, 0.294), (0.065, 0.088, 0.264)),
        Capsule((0.002, 0, 0.079), (0.040, 0, 0.675), 0.079),
        *_both_sides(Capsule((-0.040, 0.076, 0.035), (-0.030, 0.111, 0.425), 0.037)),
        *_both_sides(Capsule((0.042, 0.077, 0.033), (0.007, 0.137, 0.391), 0.035)),
        *_both_sides(Capsule((0.011, 0.067, 0.320), (0.012, 0.052, 0.458), 0.088)),
        *_both_sides(Capsule((0.002, 0.090, 0.395), (0.052, 0.005, 0.675), 0.076)),
        *_both_sides(Capsule((-0.004, 0.109, 0.403), (0.016, 0.108, 0.404), 0.060)),
    ),
)  # fmt: skip

LEFT_ARM = (
    Link(
        "left_shoulder_pitch", "torso_link", (0.0055, 0.15535, 0.42999), Y, (-2.87, 2.87), SHOULDER,
        Inertial(1.033, (0.005045, 0.053657, -0.015715), (0.814858, 0.579236, -0.0201072, -0.00936488),
                 (0.00129936, 0.000987113, 0.000858198)),
        (
            Cylinder((-0.002, 0.001, 0), (-0.002, 0.086, 0), 0.033),
            Capsule((-0.003, 0.043, 0.003), (-0.004, 0.070, -0.004), 0.036),
            Capsule((-0.013, 0.043, -0.039), (-0.013, 0.077, -0.034), 0.027),
            Capsule((0.008, 0.047, -0.041), (0.008, 0.078, -0.032), 0.025),
        ),
        turn=(0.976296, 0.216438, 0, 0),
    ),
    Link(
        "left_shoulder_roll", "left_shoulder_pitch_link", (-0.0055, 0.0565, -0.0165), X, (-0.34, 3.11), SHOULDER,
        Inertial(0.793, (0.000679, 0.00115, -0.094076), (0.732491, 0.00917179, 0.0766656, 0.676384),
                 (0.00170388, 0.00158256, 0.00100336)),
        (
            Cylinder((0, -0.002, -0.131), (0, 0.002, -0.088), 0.047),
            Capsule((0.029, -0.002, -0.002), (0.010, -0.014, -0.051), 0.022),
            Capsule((0.031, -0.016, 0.005), (0.008, -0.027, -0.122), 0.016),
            Capsule((0.031, 0.016, 0.005), (0.008, 0.027, -0.122), 0.016),
            Capsule((0.011, 0, -0.060), (0, 0, -0.088), 0.039),
            Capsule((0.035, 0, 0.028), (0.016, 0, -0.101), 0.007),
        ),
        turn=(0.976296, -0.216438, 0, 0),
    ),
    Link(
        "left_shoulder_yaw", "left_shoulder_roll_link", (0, 0, -0.1343), Z, (-1.3, 4.45), ELBOW,
        Inertial(0.839, (0.01365, 0.002767, -0.16266), (0.703042, -0.0331229, -0.0473362, 0.708798),
                 (0.00408038, 0.00370367, 0.000622687)),
        (
            Box((-0.001, 0, -0.104), (0.024, 0.024, 0.104)),
            Capsule((-0.006, -0.002, -0.023), (0.006, 0.002, -0.221), 0.025),
            Capsule((0.021, 0, -0.027), (0.040, 0, -0.214), 0.028),
        ),
    ),
    Link(
        "left_elbow", "left_shoulder_yaw_link", (0.0185, 0, -0.198), Y, (-1.25, 2.61), ELBOW,
        Inertial(0.669, (0.15908, -0.000144, -0.015776), (0.0765232, 0.720327, 0.0853116, 0.684102),
                 (0.00601829, 0.00600579, 0.000408305)),
        (
            Capsule((-0.006, 0, 0.006), (0.279, 0, -0.018), 0.037),
            Capsule((-0.006, 0, -0.007), (0.278, 0, -0.018), 0.037),
        ),
    ),
)  # fmt: skip


def mirrored(link: Link) -> Link:
    """The right side's link: reflected at y = 0, which reverses rotations about x and z, not about y."""
    low, high = link.range
    inertial = link.inertial._replace(centre=_mirror(link.inertial.centre), turn=_mirror_turn(link.inertial.turn))
    return replace(
        link,
        joint=link.joint.replace("left", "right"),
        parent=link.parent.replace("left", "right"),
        position=_mirror(link.position),
        turn=_mirror_turn(link.turn),
        range=(low, high) if link.axis == Y else (-high, -low),
        inertial=inertial,
        shapes=tuple(_mirror_shape(shape) for shape in link.shapes),
    )


# In the order of the joints in qpos and of the actions: parents come before children.
LINKS: tuple[Link, ...] = (
    *LEFT_LEG,
    *(mirrored(link) for link in LEFT_LEG),
    TORSO,
    *LEFT_ARM,
    *(mirrored(link) for link in LEFT_ARM),
)

# Points that rewards and sensors refer to: name, body, position in the body's frame.
SITES: tuple[tuple[str, str, Vector], ...] = (
    ("com", "pelvis", (0, 0, 0)),
    ("left_foot", "left_ankle_link", (0, 0, -0.05)),
    ("right_foot", "right_ankle_link", (0, 0, -0.05)),
    ("head", "torso_link", (0, 0, 0.7)),
    ("imu", "torso_link", (-0.04452, -0.01891, 0.27756)),
    ("left_hand", "left_elbow_link", (0.31, 0, -0.01)),
    ("right_hand", "right_elbow_link", (0.31, 0, -0.01)),
)

KEY_HEIGHT = 0.98  # of the pelvis in the key frame
KEY_JOINTS = {  # the other joints are at 0
    f"{side}_{joint}": angle
    for side in ("left", "right")
    for joint, angle in (("hip_pitch", -0.4), ("knee", 0.8), ("ankle", -0.4))
}
