"""The models of the nine ``h1-*`` tasks, made from numbers: nothing is downloaded, no file is read.

``h1_table`` describes the robot, ``terrain`` its surroundings; here MuJoCo's ``MjSpec`` joins them. Names, order and
meaning of joints, actuators, sites, sensors and cameras are HumanoidBench's, so rewards and saved observations can be
used with both. The robot's links collide with simple shapes instead of convex hulls, so contacts and trajectories are
close to the original's but not the same.
"""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np

from ezm_lightning.envs.humanoidbench.builtin import h1_table as h1
from ezm_lightning.envs.humanoidbench.builtin.terrain import TERRAINS

PALE, DARK = (0.78, 0.79, 0.81, 1.0), (0.16, 0.17, 0.19, 1.0)
DARK_LINKS = ("hip_yaw", "hip_roll", "ankle", "shoulder_pitch", "shoulder_yaw")
HIDDEN = 4  # the group of the sites, which are not drawn
# Cameras that follow the robot: position, directions of the picture's right and up.
CAMERAS = {
    "cam_default": ((2, 3, 0.8), (-1, 0.5, 0, -0.2, -0.2, 1)),
    "cam_maze": ((3, 3, 3), (-0.5, 0.5, 0, -0.4, -0.4, 1)),
    "cam_hurdle": ((-3, 3, 3), (-0.5, -0.5, 0, 0.4, -0.4, 1)),
}


def build_model(task: str) -> Any:
    """The compiled MjModel of 'h1-walk': nq 26, nv 25, nu 19. Raises ValueError for a task that is not built in."""
    return build_spec(task).compile()


def build_spec(task: str) -> Any:
    """The MjSpec of 'h1-walk', to be changed before it is compiled. Raises ValueError as ``build_model`` does."""
    robot, _, kind = task.partition("-")
    if robot != "h1" or kind not in TERRAINS:
        raise ValueError(f"there is no built-in model of {task}; there are {', '.join(f'h1-{k}' for k in TERRAINS)}")
    spec = mujoco.MjSpec()
    spec.modelname = f"{task} (built-in)"
    _set_options(spec)
    _add_scene(spec)
    _add_robot(spec)
    _add_actuators(spec)
    _add_sensors(spec)
    TERRAINS[kind](spec)
    _add_key(spec)
    return spec


def _set_options(spec: Any) -> None:
    spec.compiler.degree = False
    option = spec.option
    option.timestep, option.integrator = 0.002, mujoco.mjtIntegrator.mjINT_EULER
    option.solver, option.iterations, option.ls_iterations = mujoco.mjtSolver.mjSOL_NEWTON, 100, 50
    spec.stat.extent, spec.stat.center = 3.0, (0, 0, 1)  # of the robot, for the clipping of cameras and for shadows


def _add_scene(spec: Any) -> None:
    """An infinite floor (geom 0), light from above and a sky."""
    light, sky = spec.visual.headlight, mujoco.mjtTexture.mjTEXTURE_SKYBOX
    light.ambient, light.diffuse, light.specular = (0.35,) * 3, (0.45,) * 3, (0.0,) * 3
    gradient, checker = mujoco.mjtBuiltin.mjBUILTIN_GRADIENT, mujoco.mjtBuiltin.mjBUILTIN_CHECKER
    spec.add_texture(
        name="sky", type=sky, builtin=gradient, rgb1=(0.62, 0.72, 0.84), rgb2=(0.95, 0.96, 0.98), width=128, height=128
    )
    flat = mujoco.mjtTexture.mjTEXTURE_2D
    spec.add_texture(
        name="tiles", type=flat, builtin=checker, rgb1=(0.76, 0.78, 0.8), rgb2=(0.64, 0.67, 0.7), width=128, height=128
    )
    floor = spec.add_material(name="floor", texuniform=True, texrepeat=(1, 1), specular=0.2)
    floor.textures[mujoco.mjtTextureRole.mjTEXROLE_RGB] = "tiles"
    world = spec.worldbody
    world.add_light(
        pos=(0, 0, 10), dir=(0, 0, -1), diffuse=(0.5, 0.5, 0.5), type=mujoco.mjtLightType.mjLIGHT_DIRECTIONAL
    )
    world.add_geom(name="floor", type=mujoco.mjtGeom.mjGEOM_PLANE, size=(0, 0, 0.05), material="floor")


def _add_robot(spec: Any) -> None:
    pelvis = spec.worldbody.add_body(name="pelvis", pos=(0, 0, 2.7))
    _set_inertial(pelvis, h1.PELVIS_INERTIAL)
    pelvis.add_freejoint(name="free_base")
    _add_shapes(pelvis, h1.PELVIS_SHAPES, PALE)
    for name, (position, axes) in CAMERAS.items():
        camera = pelvis.add_camera(name=name, pos=position, mode=mujoco.mjtCamLight.mjCAMLIGHT_TRACKCOM)
        camera.alt.type, camera.alt.xyaxes = mujoco.mjtOrientation.mjORIENTATION_XYAXES, axes
    bodies = {"pelvis": pelvis}
    for link in h1.LINKS:
        bodies[link.body] = _add_link(bodies[link.parent], link)
    for name, body, place in h1.SITES:
        bodies[body].add_site(name=name, pos=place, size=(0.001, 0, 0), group=HIDDEN)
        if name.endswith("hand"):
            bodies[body].add_body(name=name, pos=place)  # massless, to measure its velocity


def _add_link(parent: Any, link: h1.Link) -> Any:
    body = parent.add_body(name=link.body, pos=link.position, quat=link.turn)
    _set_inertial(body, link.inertial)
    joint = body.add_joint(name=link.joint, axis=link.axis, range=link.range, armature=h1.ARMATURE)
    joint.damping[0] = h1.DAMPING
    _add_shapes(body, link.shapes, DARK if link.joint.partition("_")[2] in DARK_LINKS else PALE)
    return body


def _set_inertial(body: Any, inertial: h1.Inertial) -> None:
    body.explicitinertial = True
    body.mass, body.ipos, body.iquat, body.inertia = inertial


def _add_shapes(body: Any, shapes: tuple[h1.Shape, ...], rgba: tuple[float, ...]) -> None:
    for shape in shapes:
        if isinstance(shape, h1.Box):
            body.add_geom(type=mujoco.mjtGeom.mjGEOM_BOX, pos=shape.centre, size=shape.half_size, rgba=rgba, mass=0)
            continue
        round_end = isinstance(shape, h1.Capsule)
        kind = mujoco.mjtGeom.mjGEOM_CAPSULE if round_end else mujoco.mjtGeom.mjGEOM_CYLINDER
        body.add_geom(type=kind, fromto=(*shape.start, *shape.end), size=(shape.radius, 0, 0), rgba=rgba, mass=0)


def _add_actuators(spec: Any) -> None:
    """One position actuator per joint; the range of its target is the joint's range."""
    for link in h1.LINKS:
        actuator = spec.add_actuator(name=link.joint, target=link.joint, trntype=mujoco.mjtTrn.mjTRN_JOINT)
        actuator.set_to_position(kp=link.drive.kp, kv=link.drive.kv)
        actuator.ctrlrange, actuator.forcerange = link.range, (-link.drive.limit, link.drive.limit)


def _add_sensors(spec: Any) -> None:
    kind, site, body = mujoco.mjtSensor, mujoco.mjtObj.mjOBJ_SITE, mujoco.mjtObj.mjOBJ_BODY
    for name, sensor, measured, on in (
        ("left_foot_sensor", kind.mjSENS_TOUCH, site, "left_foot"),
        ("right_foot_sensor", kind.mjSENS_TOUCH, site, "right_foot"),
        ("pelvis_subtreelinvel", kind.mjSENS_SUBTREELINVEL, body, "pelvis"),
        ("left_hand_subtreelinvel", kind.mjSENS_SUBTREELINVEL, body, "left_hand"),
        ("right_hand_subtreelinvel", kind.mjSENS_SUBTREELINVEL, body, "right_hand"),
        ("body_velocimeter", kind.mjSENS_VELOCIMETER, site, "com"),
    ):
        spec.add_sensor(name=name, type=sensor, objtype=measured, objname=on)


def _add_key(spec: Any) -> None:
    """'qpos0': knees bent a little, the feet just above the floor."""
    joints = [h1.KEY_JOINTS.get(link.joint, 0.0) for link in h1.LINKS]
    spec.add_key(name="qpos0", qpos=np.array([0, 0, h1.KEY_HEIGHT, 1, 0, 0, 0, *joints]))
