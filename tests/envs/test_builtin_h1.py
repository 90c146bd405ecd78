"""The built-in H1 against HumanoidBench's own: names, masses, kinematics, stance, terrain, what a fall is worth."""

import mujoco
import numpy as np
import pytest
import torch

from ezm_lightning.agent import load
from ezm_lightning.checkpoints.contents import read_checkpoint
from ezm_lightning.checkpoints.runs import newest_checkpoint
from ezm_lightning.commands import train
from ezm_lightning.envs.humanoidbench import BUILT_IN
from ezm_lightning.envs.humanoidbench.assets import VARIABLE
from ezm_lightning.envs.humanoidbench.builtin import h1_table
from ezm_lightning.envs.humanoidbench.builtin.robot import build_model, build_spec
from ezm_lightning.envs.humanoidbench.suite import FRAME_SKIP
from tests.golden import HOW_TO_GET_ASSETS, original_assets
from tests.test_player import write_checkpoint

TASKS = [f"h1-{kind}" for kind in ("stand", "walk", "run", "stair", "crawl", "slide", "pole", "hurdle", "maze")]
LEG = ("hip_yaw", "hip_roll", "hip_pitch", "knee", "ankle")
ARM = ("shoulder_pitch", "shoulder_roll", "shoulder_yaw", "elbow")
JOINTS = [
    *(f"{side}_{joint}" for side in ("left", "right") for joint in LEG),
    "torso",
    *(f"{side}_{joint}" for side in ("left", "right") for joint in ARM),
]


@pytest.fixture(scope="module")
def models():
    return {task: build_model(task) for task in TASKS}


@pytest.fixture(scope="module")
def walk(models):
    return models["h1-walk"]


@pytest.fixture(scope="module")
def original():
    folder = original_assets()
    if folder is None:
        pytest.skip(f"no HumanoidBench assets: {HOW_TO_GET_ASSETS}")
    return mujoco.MjModel.from_xml_path(str(folder / "envs" / "h1_pos_walk.xml"))


def names(model, kind, count):
    return [getattr(model, kind)(i).name for i in range(count)]


def at_key(model):
    data = mujoco.MjData(model)
    mujoco.mj_resetDataKeyframe(model, data, 0)
    return data


@pytest.mark.parametrize("task", ["h1-fly", "h1hand-walk", "walk", "h1"])
def test_other_tasks_are_refused(task):
    with pytest.raises(ValueError, match="h1-walk"):
        build_spec(task)


@pytest.mark.parametrize("task", TASKS)
def test_names_orders_and_sizes(models, task):
    model = models[task]
    assert (model.nq, model.nv, model.nu) == (26, 25, 19)
    assert names(model, "joint", model.njnt) == ["free_base", *JOINTS]
    assert names(model, "actuator", model.nu) == JOINTS
    assert model.geom(0).name == "floor" and model.key(0).name == "qpos0"
    assert model.body(1).name == "pelvis" and model.body_subtreemass[1] == pytest.approx(51.65, abs=1e-3)
    for kind, wanted in (
        ("site", ("head", "imu", "left_foot", "right_foot", "left_hand", "right_hand")),
        ("camera", ("cam_default", "cam_maze", "cam_hurdle")),
        ("sensor", ("left_foot_sensor", "right_foot_sensor", "pelvis_subtreelinvel", "body_velocimeter")),
        ("body", ("torso_link", "left_hand", "right_ankle_link")),
    ):
        for name in wanted:
            getattr(model, kind)(name)  # KeyError where it is missing


def test_solver_and_drives(walk):
    option = walk.opt
    assert (option.timestep, option.iterations, option.ls_iterations) == (0.002, 100, 50)
    assert option.solver == mujoco.mjtSolver.mjSOL_NEWTON and option.integrator == mujoco.mjtIntegrator.mjINT_EULER
    assert not option.disableflags & mujoco.mjtDisableBit.mjDSBL_EULERDAMP
    np.testing.assert_array_equal(walk.actuator_ctrlrange, walk.jnt_range[1:])
    np.testing.assert_array_equal(walk.actuator_gainprm[:, 0], -walk.actuator_biasprm[:, 1])
    knee, elbow = walk.actuator("left_knee"), walk.actuator("right_elbow")
    assert (knee.gainprm[0], knee.biasprm[2], list(knee.forcerange)) == (300, -6, [-300, 300])
    assert (elbow.gainprm[0], elbow.biasprm[2], list(elbow.forcerange)) == (100, -2, [-18, 18])


def test_what_collides(models):
    walk, maze = models["h1-walk"], models["h1-maze"]
    assert (walk.geom_contype == 1).all() and (walk.geom_conaffinity == 1).all()
    np.testing.assert_allclose(walk.geom_friction, np.tile([1, 0.005, 0.0001], (walk.ngeom, 1)))
    first = maze.geom("block_collision_00").id
    assert [name[:15] for name in names(maze, "geom", maze.ngeom)[first:]] == ["block_collision"] * 30
    poles = [name for name in names(models["h1-pole"], "geom", models["h1-pole"].ngeom) if "pole_r" in name]
    assert len(poles) == 144 and poles[0] == "pole_r1_c1" and poles[-1] == "pole_r41_c4"
    for side in ("left", "right", "behind"):
        models["h1-hurdle"].geom(f"{side}_barrier_collision")


def test_the_right_side_mirrors_the_left(walk):
    """Turning joints about x and z the other way reflects every centre of mass at y = 0."""
    data, rng = mujoco.MjData(walk), np.random.default_rng(0)
    joints = {name: rng.uniform(-0.3, 0.3) for name in JOINTS if name.startswith("left")}
    for name, angle in joints.items():
        data.joint(name).qpos[0] = angle
        sign = 1 if walk.joint(name).axis[1] else -1
        data.joint(name.replace("left", "right")).qpos[0] = sign * angle
    mujoco.mj_forward(walk, data)
    for name in joints:
        left, right = data.body(f"{name}_link"), data.body(f"{name}_link".replace("left", "right"))
        np.testing.assert_allclose(left.xipos, right.xipos * [1, -1, 1], atol=1e-9)
    assert h1_table.mirrored(h1_table.mirrored(h1_table.LEFT_ARM[1])).range == h1_table.LEFT_ARM[1].range


def reach(model, body, directions):
    """How far the round and square geoms of a body extend in its frame, [number of directions]."""
    reaches = []
    for geom in np.flatnonzero(model.geom_bodyid == model.body(body).id):
        turn = np.zeros(9)
        mujoco.mju_quat2Mat(turn, model.geom_quat[geom])
        local, size = directions @ turn.reshape(3, 3), model.geom_size[geom]
        along, across = np.abs(local[:, 2]), np.hypot(local[:, 0], local[:, 1])
        extent = {
            mujoco.mjtGeom.mjGEOM_BOX: np.abs(local) @ size,
            mujoco.mjtGeom.mjGEOM_CAPSULE: along * size[1] + size[0],
            mujoco.mjtGeom.mjGEOM_CYLINDER: along * size[1] + across * size[0],
        }[mujoco.mjtGeom(model.geom_type[geom])]
        reaches.append(directions @ model.geom_pos[geom] + extent)
    return np.max(reaches, axis=0)


def hull_reach(model, body, directions):
    """The same of a body's one mesh."""
    geom = int(np.flatnonzero(model.geom_bodyid == model.body(body).id)[0])
    mesh, turn = model.mesh(model.geom_dataid[geom]), np.zeros(9)
    vertices = model.mesh_vert[mesh.vertadr[0] : mesh.vertadr[0] + mesh.vertnum[0]]
    mujoco.mju_quat2Mat(turn, model.geom_quat[geom])
    return (directions @ (vertices @ turn.reshape(3, 3).T + model.geom_pos[geom]).T).max(-1)


def test_shapes_reach_as_far_as_the_hulls_they_stand_for(walk, original):
    directions = np.random.default_rng(0).normal(size=(500, 3))
    directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
    for body in ("pelvis", *(f"{name}_link" for name in JOINTS if not name.endswith("hip_yaw"))):
        gap = reach(walk, body, directions) - hull_reach(original, body, directions)
        assert np.abs(gap).max() < 0.011, body
        assert np.sqrt((gap**2).mean()) < 0.003, body


def test_the_sole_is_flat_and_long(walk):
    directions = np.array([[0.0, 0, -1], [1, 0, 0], [-1, 0, 0], [0, 1, 0]])
    for side in ("left", "right"):
        np.testing.assert_allclose(reach(walk, f"{side}_ankle_link", directions), [0.07, 0.2, 0.1, 0.015], atol=0.004)


def test_dynamics_without_contacts_are_the_originals(walk, original):
    """Same positions of all bodies and the same accelerations from the same state and forces."""
    rng = np.random.default_rng(0)
    for _ in range(5):
        turn, joints = rng.normal(size=4), rng.uniform(*walk.jnt_range[1:].T)
        qpos, qvel = np.concatenate([rng.normal(size=3), turn / np.linalg.norm(turn), joints]), rng.normal(size=25)
        ours, theirs = (mujoco.MjData(model) for model in (walk, original))
        for model, data in ((walk, ours), (original, theirs)):
            data.qpos[:], data.qvel[:], data.ctrl[:] = qpos, qvel, joints[::-1]
            mujoco.mj_kinematics(model, data)
            mujoco.mj_comPos(model, data)
            data.qpos[2] += 10  # above the floor
            mujoco.mj_step1(model, data)
            mujoco.mj_fwdActuation(model, data)
            mujoco.mj_fwdAcceleration(model, data)
        for body in range(1, original.nbody):
            np.testing.assert_allclose(ours.body(original.body(body).name).xpos, theirs.xpos[body], atol=1e-9)
        np.testing.assert_allclose(ours.qfrc_smooth, theirs.qfrc_smooth, rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(ours.qacc_smooth, theirs.qacc_smooth, rtol=1e-6, atol=1e-5)
        np.testing.assert_allclose(ours.sensordata[2:], theirs.sensordata[2:], atol=1e-9)


def test_holding_the_key_frame_it_leans_as_the_original_does(walk):
    """The original's pelvis is 0.9375 m high after 0.3 s, 0.9036 m after 1 s, while it slowly falls backwards."""
    data = at_key(walk)
    data.ctrl[:] = data.qpos[7:]
    heights = {}
    for step in range(1, 501):
        mujoco.mj_step(walk, data)
        heights[step] = data.qpos[2]
    assert heights[150] == pytest.approx(0.9375, abs=0.005)
    assert heights[500] == pytest.approx(0.9036, abs=0.01)


def height(model, data, x, y, start=6.0):
    """Of what a ray down from ``start`` meets first."""
    met, solid = np.zeros(1, np.int32), np.array([1, 0, 0, 0, 0, 0], np.uint8)  # marks are in group 1
    distance = mujoco.mj_ray(model, data, np.array([x, y, start]), np.array([0.0, 0.0, -1.0]), solid, 1, -1, met)
    return start - distance


@pytest.mark.parametrize(
    ("task", "x", "y", "expected"),
    [
        ("h1-walk", 5, 0, 0), ("h1-walk", 1000, 1000, 0),
        ("h1-stair", 0.4, 1, 0), ("h1-stair", 0.6, 1, 0.18), ("h1-stair", 1.2, -4.9, 0.36), ("h1-stair", 3.2, 0, 0.9),
        ("h1-stair", 21.4, 0, 0.9), ("h1-stair", 24, 0, 0), ("h1-stair", 5, 5.05, 4), ("h1-stair", -2.1, 0, 4),
        ("h1-slide", 0.2, 0, 0), ("h1-slide", 2.8, 1, 0.875), ("h1-slide", 5.3, 0, 1.75), ("h1-slide", 9.3, -4, 0.35),
        ("h1-slide", 84.3, 2, 1.4), ("h1-slide", 91, 0, 0),
        ("h1-hurdle", 7, 0, 0.375), ("h1-hurdle", 7.04, 0, 0), ("h1-hurdle", 70, -4, 0.375), ("h1-hurdle", 3, -4.6, 2),
        ("h1-hurdle", -0.525, 0, 2),
        ("h1-pole", 1, 0.75, 2), ("h1-pole", 1, 0, 0), ("h1-pole", 2, 0, 2), ("h1-pole", 41.04, -2.25, 2),
        ("h1-pole", 20, 3.15, 2), ("h1-pole", -0.6, 0, 2),
        ("h1-crawl", 2, 0, 0), ("h1-crawl", 2.3, 0, 1.55), ("h1-crawl", 18.1, 1.4, 1.55), ("h1-crawl", 10, 1.6, 0),
        ("h1-maze", 0, 0, 0), ("h1-maze", 3, 0, 0), ("h1-maze", 3, 6, 0), ("h1-maze", 6, 6, 0),
        ("h1-maze", -1.5, 0, 1.2), ("h1-maze", 1.5, 1.5, 1.2), ("h1-maze", 1.5, 3, 0), ("h1-maze", 1.5, 4.5, 1.2),
    ],
)  # fmt: skip
def test_terrain_is_as_high_as_it_should_be(models, task, x, y, expected):
    model = models[task]
    data = at_key(model)
    data.qpos[2] = 50  # the robot out of the way
    mujoco.mj_forward(model, data)
    met = height(model, data, x, y)
    assert met == pytest.approx(expected, abs=1e-6)


def test_the_tunnel_is_115_cm_high(models):
    model = models["h1-crawl"]
    data = at_key(model)
    mujoco.mj_forward(model, data)
    met = np.zeros(1, np.int32)
    up = mujoco.mj_ray(model, data, np.array([10.0, 0.0, 0.5]), np.array([0.0, 0.0, 1.0]), None, 1, -1, met)
    left = mujoco.mj_ray(model, data, np.array([10.0, 0.0, 0.5]), np.array([0.0, 1.0, 0.0]), None, 1, -1, met)
    assert (up, left) == pytest.approx((0.65, 1.15))


def test_terrain_stops_the_robot(models):
    """Thrown forward between the poles of the first row, it meets the middle one of the second."""
    model = models["h1-pole"]
    data = at_key(model)
    data.qvel[0], touched = 8.0, set()
    for _ in range(150):
        mujoco.mj_step(model, data)
        touched |= {model.geom(i).name for i in np.unique(data.contact.geom)}
    assert "pole_r2_c2" in touched


def test_a_random_policy_falls_after_about_a_second(walk):
    """Original: 57 steps of 20 ms on average, standard deviation 24. Three standard errors of 12 episodes are 21."""
    rng, lengths = np.random.default_rng(0), []
    low, high = walk.actuator_ctrlrange.T
    for _ in range(12):
        data, steps = at_key(walk), 0
        data.qpos += rng.uniform(-0.01, 0.01, walk.nq)
        while data.qpos[2] >= 0.2 and steps < 300:
            data.ctrl[:] = rng.uniform(low, high)
            mujoco.mj_step(walk, data, FRAME_SKIP)
            steps += 1
        lengths.append(steps)
    assert np.mean(lengths) == pytest.approx(57, abs=21)


@pytest.mark.parametrize(
    "notes, robot",
    [
        (None, None),  # an older checkpoint does not say
        ({"hb/h1-stand": BUILT_IN}, None),
        ({"hb/h1-stand": "h1 (an older robot)"}, "hb/h1-stand on h1 (an older robot)"),
        ({}, "hb/h1-stand"),  # upstream's
    ],
)
def test_an_agent_of_another_robot_is_told_apart(notes, robot, tmp_path, recwarn, monkeypatch):
    monkeypatch.setenv(VARIABLE, "builtin")
    file = write_checkpoint(tmp_path / "a.ckpt", "h1_cpu", ["hb/h1-stand"])
    content = torch.load(file)
    if notes is not None:
        content["hyper_parameters"]["task_notes"] = notes
    torch.save(content, file)
    load(file)
    said = [str(warning.message) for warning in recwarn if "was trained on" in str(warning.message)]
    assert said == ([f"{file} was trained on {robot}, and here is hb/h1-stand on {BUILT_IN}"] if robot else [])


def test_a_checkpoint_names_its_robot(tmp_path):
    line = ["experiment=h1_cpu", "tasks.names=[hb/h1-stand]", "humanoid_bench.assets=builtin", "evaluate=null"]
    line += ["envs_per_task=1", "warmup_env_steps=200", "env_steps_per_task=204", "env_steps_per_update=2"]
    assert train.main([*line, f"hydra.run.dir={tmp_path}"]) == 0
    saved = read_checkpoint(newest_checkpoint(tmp_path))["hyper_parameters"]
    assert saved["task_notes"] == {"hb/h1-stand": "h1 (built-in collision shapes)"}
