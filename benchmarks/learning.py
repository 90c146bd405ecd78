"""Runs the learning experiments of results/README.md and draws their curves.

    python -m benchmarks.learning run single --workers 2      # a group of runs, side by side, one core each
    python -m benchmarks.learning draw                        # results/*.png and the summary table

A run leaves ``results/<group>/<run>.csv`` (its eval.csv) and one line in ``results/runs.jsonl`` with seed, command,
commit, wall-clock and machine. A run that is already there is not repeated.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent.parent / "results"
CARTPOLE = ("balance", "balance_sparse", "swingup", "swingup_sparse")
HARD = ("pendulum-swingup", "ball_in_cup-catch")
SEEDS = (1, 2, 3)


def groups() -> dict[str, dict[str, list[str]]]:
    """Every run by group and name: its overrides of ``ezm train``."""
    single = {
        f"{task}_seed{seed}": ["experiment=dmc_cpu", f"tasks=dmc/cartpole-{task}", f"seed={seed}"]
        for seed in SEEDS
        for task in ("swingup", "balance")
    }
    alone = {
        f"{task}_seed{seed}": ["experiment=cartpole_25k", f"tasks=dmc/cartpole-{task}", f"seed={seed}"]
        for seed in SEEDS
        for task in CARTPOLE
    }
    together = {f"four_seed{seed}": ["experiment=cartpole_25k", f"seed={seed}"] for seed in SEEDS}
    hard = {
        preset: {task: [f"experiment={preset}", f"tasks=dmc/{task}", "seed=1", *rest] for task in HARD}
        for preset, rest in (("dmc_cpu", ["env_steps_per_task=50_000"]), ("dmc_gpu", ["trainer=cpu"]))
    }
    humanoid = {"seed1": ["experiment=h1_cpu", "seed=1", "torch_threads=1", "env_steps_per_task=40_000"]}
    return {"single": single, "together": together, "alone": alone, "h1_cpu": humanoid, **hard}


def run(group: str, name: str, overrides: list[str]) -> None:
    """One run in a process of its own, one thread; keeps its curve and its record."""
    target = RESULTS / group / f"{name}.csv"
    if target.exists():
        return
    run_dir = Path("runs") / "learning" / group / name
    command = ["ezm", "train", *overrides]
    started = time.time()
    with open(_fresh(run_dir) / "log.txt", "w") as log:
        done = subprocess.run(
            [sys.executable, "-m", "ezm_lightning.commands.cli", "train", *overrides, f"hydra.run.dir={run_dir}"],
            stdout=log, stderr=subprocess.STDOUT, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=False,
        )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed, see {run_dir}/log.txt")
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(run_dir / "eval.csv", target)
    record = {
        "group": group,
        "run": name,
        "command": " ".join(command),
        "commit": _git("rev-parse", "--short", "HEAD"),
        "seconds": round(time.time() - started),
        "machine": f"{platform.machine()} CPU, {os.cpu_count()} cores, one thread a run",
        "final": {row["task"]: float(row["return"]) for row in read(target)[-_num_tasks(target) :]},
    }
    with open(RESULTS / "runs.jsonl", "a") as file:
        file.write(json.dumps(record) + "\n")


def _fresh(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], capture_output=True, text=True, check=True).stdout.strip()


def read(path: Path) -> list[dict[str, str]]:
    """The rows of a curve."""
    with open(path) as file:
        return list(csv.DictReader(file))


def _num_tasks(path: Path) -> int:
    return len({row["task"] for row in read(path)})


def curve(path: Path, task: str) -> tuple[list[int], list[float]]:
    """Simulator steps and returns of one task in one run."""
    rows = [row for row in read(path) if row["task"].endswith(f"-{task}")]
    return [int(row["env_steps"]) for row in rows], [float(row["return"]) for row in rows]


def draw() -> None:
    """The figures of the groups that have been run."""
    import matplotlib

    matplotlib.use("Agg")
    for group, figure in (
        ("single", draw_single), ("together", draw_together), ("dmc_gpu", draw_hard), ("h1_cpu", draw_h1)
    ):  # fmt: skip
        if (RESULTS / group).exists():
            figure()


@contextlib.contextmanager
def _panels(name: str, count: int, **style: Any) -> Iterator[Any]:
    """``count`` axes side by side, saved as ``results/<name>.png``."""
    import matplotlib.pyplot as plt

    _, axes = plt.subplots(1, count, layout="constrained", **style)
    yield axes
    axes[0].set_ylabel("return")
    axes[0].legend(fontsize="small")
    plt.savefig(RESULTS / f"{name}.png", dpi=120)


def draw_single() -> None:
    """A panel a task, a line a seed, the goal dotted."""
    with _panels("single", 2, figsize=(9, 3.2), sharey=True) as axes:
        for axis, (task, goal) in zip(axes, (("balance", 900), ("swingup", 700)), strict=True):
            runs = {path.stem.split("_")[-1]: path for path in sorted((RESULTS / "single").glob(f"{task}_seed*.csv"))}
            _draw_runs(axis, task, runs, goal)
            axis.set(title=f"cartpole-{task}", xlabel="simulator steps", ylim=(0, 1020))


def _draw_runs(axis: Any, task: str, runs: dict[str, Path], goal: float) -> None:
    """A task's curve of each run by its label, and the goal dotted."""
    for label, path in runs.items():
        axis.plot(*curve(path, task), marker="o", markersize=3, label=label)
    axis.axhline(goal, color="gray", linestyle=":", linewidth=1)


def draw_together() -> None:
    """A panel a task, one agent on four tasks against one agent a task."""
    with _panels("together", 4, figsize=(13, 3.2), sharey=True) as axes:
        for axis, task in zip(axes, CARTPOLE, strict=True):
            for label, color, paths in (
                ("one agent, four tasks", "C0", sorted((RESULTS / "together").glob("four_seed*.csv"))),
                ("one agent a task", "C1", sorted((RESULTS / "alone").glob(f"{task}_seed*.csv"))),
            ):
                for index, path in enumerate(paths):
                    axis.plot(*curve(path, task), color=color, alpha=0.8, label=label if index == 0 else None)
            axis.set(title=f"cartpole-{task}", xlabel="simulator steps a task", ylim=(0, 1020))


def draw_hard() -> None:
    """A panel a task; dotted what EfficientZero-V2 has at 50 k steps."""
    with _panels("dmc_gpu", 2, figsize=(9, 3.2), sharey=True) as axes:
        for axis, task, goal in zip(axes, HARD, (824, 964), strict=True):
            _draw_runs(axis, task.partition("-")[2], {"seed 1": RESULTS / "dmc_gpu" / f"{task}.csv"}, goal)
            axis.set(title=task, xlabel="simulator steps", ylim=(-20, 1020))


def draw_h1() -> None:
    """A panel a task; the goal dotted, the returns of zero actions dashed."""
    with _panels("h1_cpu", 2, figsize=(9, 3.2)) as axes:
        for axis, (task, goal, zero) in zip(axes, (("stand", 42, 34), ("crawl", 450, 292)), strict=True):
            _draw_runs(axis, task, {path.stem: path for path in sorted((RESULTS / "h1_cpu").glob("*.csv"))}, goal)
            axis.axhline(zero, color="gray", linestyle="--", linewidth=1)
            axis.set(title=f"hb/h1-{task}", xlabel="simulator steps a task")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    runner = commands.add_parser("run")
    runner.add_argument("group", choices=sorted(groups()))
    runner.add_argument("--workers", type=int, default=2)
    runner.add_argument("--only", default="", help="only runs whose name contains this")
    commands.add_parser("draw")
    arguments = parser.parse_args()
    if arguments.command == "draw":
        return draw()
    runs = [(name, o) for name, o in groups()[arguments.group].items() if arguments.only in name]
    with ThreadPoolExecutor(arguments.workers) as pool:
        for done in [pool.submit(run, arguments.group, name, overrides) for name, overrides in runs]:
            done.result()


if __name__ == "__main__":
    main()
