"""Runs the learning experiments of results/README.md; `make results` reports them.

    python -m benchmarks.learning run single --workers 2      # a group of runs, side by side, one core each

A run leaves ``results/<group>/<run>.csv`` (its eval.csv) and one line in ``results/runs.jsonl`` with seed, command,
commit, wall-clock and machine. A run that is already there is not repeated.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    runner = commands.add_parser("run")
    runner.add_argument("group", choices=sorted(groups()))
    runner.add_argument("--workers", type=int, default=2)
    runner.add_argument("--only", default="", help="only runs whose name contains this")
    arguments = parser.parse_args()
    runs = [(name, o) for name, o in groups()[arguments.group].items() if arguments.only in name]
    with ThreadPoolExecutor(arguments.workers) as pool:
        for done in [pool.submit(run, arguments.group, name, overrides) for name, overrides in runs]:
            done.result()


if __name__ == "__main__":
    main()
