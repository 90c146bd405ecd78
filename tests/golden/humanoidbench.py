"""Compares the HumanoidBench tasks with traces of the original: ``python -m tests.golden.humanoidbench DIR``.

Every ``*.npz`` of DIR holds trajectories of one task, which the original package has stepped on the MuJoCo version that
the file names. ``tests.golden.record_humanoidbench`` records such files and describes their arrays. There are three
checks; the last two need that MuJoCo version:

    reward      rewards, their parts and terminations from the stored features: 1e-12
    step        from every stored state (qpos, qvel, warm start, controls), one step: all equal
    trajectory  from the stored seeds, the whole run without a touch: all equal (files with seeds)

Equal is tolerance 0, for rewards and their parts what the same formulas lose on the stored features: 0 where NumPy's
exp rounds as it did when the traces were made (AVX-512), else one unit in the last place of a Gaussian, 2.3e-16.

Assets: ``--assets FOLDER``, else the folder assets_minimal beside DIR, else what the package finds. Exit status 0 if
all agree, else 1.
"""

import argparse
import os
import sys
import warnings
import zipfile
from collections import defaultdict
from pathlib import Path

import mujoco
import numpy as np

from ezm_lightning.envs.humanoidbench import make
from ezm_lightning.envs.humanoidbench.rewards import MAZE_DIRECTIONS, RULES, Features
from ezm_lightning.envs.humanoidbench.slots import HumanoidSlots
from ezm_lightning.envs.humanoidbench.suite import TASKS

REWARD_TOLERANCE = 1e-12
ARRAYS = ("qpos", "qvel", "qacc_warmstart", "obs", "action", "ctrl", "reward", "terminated", "contact")
Worst = dict[str, float]  # by quantity


def load_trace(path: Path) -> dict[str, np.ndarray]:
    """The arrays of one file; a ValueError names a file that cannot be read, lacks an array or is of another task."""
    try:
        with np.load(path) as arrays:
            trace = {name: arrays[name] for name in arrays}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path}: not a readable .npz ({error})") from error
    missing = [name for name in (*ARRAYS, "mujoco_version") if name not in trace]
    if missing:
        raise ValueError(f"{path}: not a trace, it lacks {', '.join(missing)}")
    if path.stem not in TASKS:
        raise ValueError(f"{path}: {path.stem!r} is none of the 23 tasks")
    return trace


def make_slots(task: str, num_slots: int) -> HumanoidSlots:
    return make(task, num_slots, action_repeat=1, ignore_termination=True)


def worst(found: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference; a NaN on one side only is infinitely wrong."""
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    if found.shape != expected.shape:
        return np.inf
    if not found.size:
        return 0.0
    return float(np.nan_to_num(np.abs(found - expected).max(), nan=np.inf))


def note(errors: Worst, name: str, found: np.ndarray, expected: np.ndarray) -> None:
    errors[name] = max(errors.get(name, 0.0), worst(found, expected))


def note_outcome(errors: Worst, trace: dict[str, np.ndarray], at: tuple, outcome: dict[str, np.ndarray]) -> None:
    """Rewards, their parts and terminations at an index of the trace."""
    note(errors, "reward", outcome["reward"], trace["reward"][at])
    note(errors, "terminated", outcome["terminated"], trace["terminated"][at])
    parts = [name for name in trace if name.startswith("info_")]
    for name in parts:
        key = name.removeprefix("info_")
        found = outcome["reward"] if key == "per_timestep_reward" else outcome["parts"].get(key)
        note(errors, name, np.nan if found is None else found, trace[name][at])


def take_step(slots: HumanoidSlots, trace: dict[str, np.ndarray], t: int, errors: Worst) -> None:
    """Steps every run of the trace from time t and compares what comes out."""
    result = slots.step(trace["action"][:, t].astype(np.float64))
    at = (slice(None), t)
    note(errors, "ctrl", [data.ctrl for data in slots.data], trace["ctrl"][at])
    note(errors, "obs", result.obs, trace["obs"][:, t + 1])
    note(errors, "qpos", slots.features.qpos, trace["qpos"][:, t + 1])
    note(errors, "qvel", slots.features.qvel, trace["qvel"][:, t + 1])
    note(errors, "qacc_warmstart", [data.qacc_warmstart for data in slots.data], trace["qacc_warmstart"][:, t + 1])
    if "maze_stage" in trace:
        note(errors, "maze_stage", slots.features.stage, trace["maze_stage"][:, t + 1])
        note(errors, "move_direction", slots.features.direction, trace["move_direction"][:, t + 1, :2])
    outcome = {"reward": result.reward, "terminated": result.termination, "parts": slots.parts}
    note_outcome(errors, trace, at, outcome)


def check_steps(slots: HumanoidSlots, trace: dict[str, np.ndarray]) -> Worst:
    """One step at a time from every stored state."""
    errors: Worst = {}
    runs, steps = trace["reward"].shape
    slots.reset(range(runs))
    if "goal" in trace:
        slots.features.goal[:] = trace["goal"]
    for t in range(steps):
        for run, data in enumerate(slots.data):
            data.qpos[:], data.qvel[:] = trace["qpos"][run, t], trace["qvel"][run, t]
            data.qacc_warmstart[:] = trace["qacc_warmstart"][run, t]
        if "maze_stage" in trace:
            slots.features.stage[:] = trace["maze_stage"][:, t]
            slots.features.direction[:] = trace["move_direction"][:, t, :2]
        take_step(slots, trace, t, errors)
    return errors


def check_trajectories(slots: HumanoidSlots, trace: dict[str, np.ndarray]) -> Worst:
    """From the seeds to the end."""
    errors: Worst = {}
    slots.seed([int(seed) for seed in trace["seed"]])
    note(errors, "first obs", slots.reset(range(len(trace["seed"]))), trace["obs"][:, 0])
    if "goal" in trace:
        note(errors, "goal", slots.features.goal, trace["goal"])
    for t in range(trace["reward"].shape[1]):
        take_step(slots, trace, t, errors)
    return errors


def stored_features(slots: HumanoidSlots, trace: dict[str, np.ndarray], t: int) -> Features:
    """What the original read after step t; contacts are stored as ranks among the geoms that can collide."""
    model, runs = slots.model, len(trace["reward"])
    collidable = np.flatnonzero(model.geom_contype | model.geom_conaffinity)
    empty = {"qpos": trace["qpos"][:, t + 1], "qvel": trace["qvel"][:, t + 1], "chair_xpos": np.zeros((runs, 3))}
    stored = {name.removeprefix("feat_"): values[:, t] for name, values in trace.items() if name.startswith("feat_")}
    stored.pop("ncon", None)
    pairs = [collidable[ranks[(ranks >= 0).all(-1)]] for ranks in trace["contact"][:, t]]
    return Features(
        **(empty | stored),
        touched=np.array([slots.touched is not None and slots.touched(pair) for pair in pairs]),
        goal=trace.get("goal", np.zeros((runs, 3))),
        stage=trace["maze_stage"][:, t].copy() if "maze_stage" in trace else np.zeros(runs, np.int64),
        direction=trace["move_direction"][:, t, :2].copy() if "move_direction" in trace else MAZE_DIRECTIONS[:1],
    )


def check_rewards(slots: HumanoidSlots, trace: dict[str, np.ndarray]) -> Worst:
    """The formulas alone."""
    errors: Worst = {}
    for t in range(trace["reward"].shape[1]):
        features = stored_features(slots, trace, t)
        reward, parts = RULES[slots.kind].reward(features)
        outcome = {"reward": reward, "parts": parts, "terminated": RULES[slots.kind].terminated(features)}
        note_outcome(errors, trace, (slice(None), t), outcome)
    return errors


def check_file(path: Path) -> dict[str, tuple[int, Worst]]:
    """check -> (steps compared, largest error by quantity)."""
    trace = load_trace(path)
    runs, steps = trace["reward"].shape
    slots = make_slots(path.stem, runs)
    checks = {"reward": check_rewards}
    if str(trace["mujoco_version"]) == mujoco.__version__:
        checks |= {"step": check_steps}
        checks |= {"trajectory": check_trajectories} if "seed" in trace else {}
    return {name: (runs * steps, check(slots, trace)) for name, check in checks.items()}


def find_files(directory: Path) -> list[Path]:
    """The files to check; a ValueError if there are none."""
    if not directory.is_dir():
        raise ValueError(f"{directory}: no such directory")
    files = sorted(directory.glob("*.npz"))
    if not files:
        raise ValueError(f"{directory}: holds no *.npz file")
    return files


def use_assets(directory: Path, given: Path | None) -> None:
    """Names the assets for this process."""
    beside = directory.resolve().parent / "assets_minimal"
    if given is not None or beside.is_dir():
        os.environ["HUMANOID_BENCH_ASSETS"] = str(given or beside)
    warnings.filterwarnings("ignore", message=".*differ from HumanoidBench.*")


def report(name: str, steps: int, errors: Worst, rounding: Worst) -> bool:
    """Prints a line a check; whether it is within its tolerance. ``rounding``: the errors of the reward check."""
    allowed = dict.fromkeys(errors, REWARD_TOLERANCE) if name == "reward" else rounding
    bad = {quantity: error for quantity, error in errors.items() if not error <= allowed.get(quantity, 0.0)}
    largest = max(errors, key=errors.__getitem__)
    text = ", ".join(f"{quantity} {error:.3g}" for quantity, error in bad.items()) or "all agree"
    print(f"  {name:<11}{steps:>6} steps, worst {errors[largest]:.3g} ({largest}): {text}")
    return not bad


def main(arguments: list[str] | None = None) -> int:
    """Exit status; prints the checks of each task and the worst error of each quantity."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=Path)
    parser.add_argument("--assets", type=Path)
    options = parser.parse_args(arguments)
    total: dict[str, Worst] = defaultdict(dict)
    steps, failed = defaultdict(int), 0
    try:
        files = find_files(options.directory)
        use_assets(options.directory, options.assets)
        for path in files:
            print(path.stem)
            checks = check_file(path)
            for name, (count, errors) in checks.items():
                failed += not report(name, count, errors, rounding=checks["reward"][1])
                steps[name] += count
                for quantity, error in errors.items():
                    total[name][quantity] = max(total[name].get(quantity, 0.0), error)
    except (ValueError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for name, errors in total.items():
        print(f"{name}: {steps[name]} steps; " + ", ".join(f"{key} {value:.3g}" for key, value in errors.items()))
    if "step" not in total:
        print(f"physics not compared: the traces are of another MuJoCo than {mujoco.__version__}")
    print(f"{len(files)} tasks, {sum(steps.values())} steps compared, {failed} checks beyond tolerance")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
