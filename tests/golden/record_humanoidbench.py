"""Records traces of the original HumanoidBench: ``python -m tests.golden.record_humanoidbench DIR [TASK ...]``.

It needs the original package (``ezm doctor`` says how to install it), and MuJoCo 3.17.0 if the traces shall be the ones
of the tests. Each file ``DIR/<task>.npz`` holds 5 runs of 60 steps from the seeds 0 to 4: S runs, T steps,

    [S, T+1, ...]   qpos qvel qacc_warmstart obs, in the maze maze_stage and move_direction
    [S, T, ...]     action ctrl reward terminated, info_* (parts of the reward), feat_* (what rewards read)
    [S, T, n, 2]    contact: pairs of ranks among the geoms that can collide; -1 where there is no contact
    [S, ...]        seed, in reach also goal
    ()              mujoco_version

Stepping goes on after a termination. ``tests.golden.humanoidbench`` compares the project's own tasks with the files.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mujoco
import numpy as np

from ezm_lightning.envs.humanoidbench import TASKS, original

STEPS = 60
SCALES = (1.0, 1.0, 1.0, 0.1, 0.1)  # of the uniform actions; the seed of a run is its place here
Record = dict[str, Any]


def record_task(task: str) -> dict[str, np.ndarray]:
    """All arrays of one task."""
    runs = [record_run(task, seed, scale) for seed, scale in enumerate(SCALES)]
    width = max(len(pairs) for run in runs for pairs in run["contact"])
    for run in runs:
        run["contact"] = [pad(pairs, width) for pairs in run["contact"]]
    arrays = {name: np.array([run[name] for run in runs]) for name in runs[0]}
    return arrays | {"seed": np.arange(len(SCALES)), "mujoco_version": np.array(mujoco.__version__)}


def record_run(task: str, seed: int, scale: float) -> dict[str, Any]:
    """One run: lists over time by name, and what holds for the whole run."""
    env = original.make(f"{task}-v0", max_episode_steps=-1, disable_env_checker=True)
    obs, _ = env.reset(seed=seed)
    raw = env.unwrapped
    random = np.random.default_rng(10_000 + seed)
    states, steps = [state(raw, obs)], []
    for _ in range(STEPS):
        action = (scale * random.uniform(-1, 1, raw.action_space.shape)).astype(np.float32)
        obs, reward, terminated, _, info = env.step(action)
        outcome = {"action": action, "ctrl": raw.data.ctrl.copy(), "reward": reward, "terminated": bool(terminated)}
        steps.append(outcome | dict(parts(info)) | dict(features(raw)) | {"contact": contacts(raw)})
        states.append(state(raw, obs))
    whole = {"goal": np.array(raw.task.goal)} if task.endswith("-reach") else {}
    env.close()
    return over_time(states) | over_time(steps) | whole


def over_time(records: list[Record]) -> dict[str, list[Any]]:
    """Records of single times as lists over time."""
    return {name: [record[name] for record in records] for name in records[0]}


def state(raw: Any, obs: np.ndarray) -> Record:
    """What the simulation continues from, and the observation."""
    data = raw.data
    record = {"qpos": data.qpos.copy(), "qvel": data.qvel.copy(), "qacc_warmstart": data.qacc_warmstart.copy()}
    if hasattr(raw.task, "maze_stage"):
        record |= {"maze_stage": raw.task.maze_stage, "move_direction": np.array(raw.task.move_direction, float)}
    return record | {"obs": np.array(obs)}


def parts(info: dict[str, Any]) -> Iterator[tuple[str, float]]:
    """The numbers of a step's info."""
    for name, value in info.items():
        if np.ndim(value) == 0 and np.issubdtype(np.asarray(value).dtype, np.number):
            yield f"info_{name}", float(value)


def features(raw: Any) -> Iterator[tuple[str, Any]]:
    """What rewards read, as MuJoCo leaves it after a step."""
    model, data = raw.model, raw.data
    pelvis, torso = data.body("pelvis"), data.body("torso_link")
    yield "feat_head_z", data.site("head").xpos[2]
    yield "feat_torso_zz", torso.xmat[8]
    yield "feat_imu", data.site("imu").xpos.copy()
    yield "feat_com_vel", data.sensor("pelvis_subtreelinvel").data.copy()
    yield "feat_pelvis_xpos", pelvis.xpos.copy()
    yield "feat_pelvis_xmat", pelvis.xmat.copy()
    yield "feat_pelvis_xquat", pelvis.xquat.copy()
    yield "feat_left_foot_z", data.site("left_foot").xpos[2]
    yield "feat_right_foot_z", data.site("right_foot").xpos[2]
    yield "feat_left_hand", data.site("left_hand").xpos.copy()
    yield "feat_actuator_force", data.actuator_force.copy()
    yield "feat_ncon", float(data.ncon)
    if "chair" in (model.body(i).name for i in range(model.nbody)):
        yield "feat_chair_xpos", data.body("chair").xpos.copy()


def contacts(raw: Any) -> np.ndarray:
    """Pairs [n, 2] of touching geoms, each as its rank among those that can collide."""
    rank = np.cumsum(raw.model.geom_contype | raw.model.geom_conaffinity != 0) - 1
    return rank[raw.data.contact.geom].astype(np.int16)


def pad(pairs: np.ndarray, width: int) -> np.ndarray:
    """``pairs`` with rows of -1 up to ``width`` rows."""
    return np.concatenate([pairs, np.full((width - len(pairs), 2), -1, np.int16)])


def main(arguments: list[str] | None = None) -> int:
    """The exit status: 0, or 1 if the original package cannot be used."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=Path)
    parser.add_argument("tasks", nargs="*", default=list(TASKS), metavar="task")
    options = parser.parse_args(arguments)
    options.directory.mkdir(parents=True, exist_ok=True)
    for task in options.tasks:
        try:
            arrays = record_task(task)
        except (ImportError, ValueError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        np.savez_compressed(options.directory / f"{task}.npz", **arrays)
        print(f"{task}: {len(SCALES)} runs of {STEPS} steps")
    return 0


if __name__ == "__main__":
    sys.exit(main())
