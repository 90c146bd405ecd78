"""Runs the learning experiments of results/README.md; `make results` reports them.

    python -m benchmarks.learning run dmc_easy --workers 2                    # a group of runs, one core each
    python -m benchmarks.learning keep dmc_easy walker-walk_seed1 runs/mine   # a finished run that was started by hand

A run leaves ``results/<group>/<run>.csv`` (its eval.csv) and one line in ``results/runs.jsonl`` with seed, command,
commit, time and machine. A run that is already there is not repeated; an interrupted one continues.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from omegaconf import OmegaConf

from ezm_lightning.checkpoints.runs import commits_of, newest_checkpoint
from ezm_lightning.config.folder import config_dir
from ezm_lightning.report.records import flattened

RESULTS = Path(__file__).parent.parent / "results"


def names(tasks: str) -> tuple[str, ...]:
    """The tasks of ``conf/tasks/<tasks>.yaml``."""
    return tuple(OmegaConf.load(config_dir() / "tasks" / f"{tasks}.yaml").names)


def ratio(experiment: str) -> float:
    """``env_steps_per_update`` of ``conf/experiment/<experiment>.yaml``: steps of all its tasks."""
    return OmegaConf.load(config_dir() / "experiment" / f"{experiment}.yaml").env_steps_per_update


DMC_EASY, DEMO, NEWT, H1 = names("dmc_easy"), names("demo"), names("newt_cpu"), names("h1")
DEMO_RATIO = ratio("demo")
BRC_TASKS = ("dmc/cartpole-balance", "dmc/cartpole-swingup", "dmc/walker-walk", "dmc/ball_in_cup-catch")
EIGHT = (*BRC_TASKS, "dmc/cartpole-balance_sparse", "dmc/reacher-easy", "dmc/walker-stand", "dmc/finger-spin")
PAIRS = {"balance_swingup": DEMO[::2], "sparse_two_poles": DEMO[1::2]}  # an easy task and a harder one
TASK_STATISTICS = "model.obs_norm._target_=ezm_lightning.model.obs_norm.TaskObsNorm"  # of observations, a robot each
SEEDS = (1, 2, 3)
BRC_DEMO = (  # BRC with the steps and updates of the demo
    "experiment=brc_cpu",
    "env_steps_per_task=12_000",
    "warmup_env_steps=2_000",
    "evaluate.interval=4_000",
)
EZM = (sys.executable, "-m", "ezm_lightning.commands.cli")


def groups() -> dict[str, dict[str, list[str]]]:
    """Every run by group and name: its overrides of ``ezm train``."""
    dmc_easy = _of_tasks(DMC_EASY, "dmc/", "experiment=dmc_cpu")
    brc = _of_tasks(BRC_TASKS, "dmc/", "experiment=brc_cpu")
    h1 = ["experiment=h1_cpu", "seed=1", "torch_threads=1"]
    alone = {"h1-crawl_seed1": [*h1, "tasks.names=[hb/h1-crawl]", f"env_steps_per_update={ratio('h1_cpu') / len(H1)}"]}
    demo = _of_seeds("experiment=demo", "torch_threads=1")
    told = _of_seeds("experiment=demo", "task_embedding=both", "torch_threads=1")
    groups = {"dmc_easy": dmc_easy, "demo": demo, "demo_both": told, "brc": brc, "ablation": _ablation()}
    groups |= {"h1_cpu": {"seed1": h1}, "h1_alone": alone}
    groups |= _demo_scaling("experiment=demo") | _dmc_scaling("dmc_cpu", TASK_STATISTICS)
    groups |= _ten_scaling() | _newt_scaling()
    of_brc = _demo_scaling(*BRC_DEMO) | _dmc_scaling("brc_cpu")
    of_brc["demo"] = _of_seeds(*BRC_DEMO, "tasks=demo", f"env_steps_per_update={DEMO_RATIO}", "torch_threads=1")
    return groups | {f"brc_{name}": runs for name, runs in of_brc.items()}


def _demo_scaling(*demo: str) -> dict[str, dict[str, list[str]]]:
    """An agent on two tasks of the demo and on one, with as many steps a task and updates a run as on four (``demo``);
    and on one with a quarter of the updates, so that four runs cost what one costs on four."""
    quarter, one, two = (
        [f"env_steps_per_update={steps}", "torch_threads=1"]
        for steps in (DEMO_RATIO, DEMO_RATIO / len(DEMO), 2 * DEMO_RATIO / len(DEMO))
    )
    pairs = {
        f"{name}_seed{seed}": [*demo, f"tasks=[{','.join(tasks)}]", f"seed={seed}", *two]
        for seed in SEEDS
        for name, tasks in PAIRS.items()
    }
    return {
        "two_tasks": pairs,
        "one_task": _of_tasks(DEMO, "dmc/cartpole-", *demo, *one),
        "one_task_quarter": _of_tasks(DEMO, "dmc/cartpole-", *demo, *quarter),
    }


def _ablation() -> dict[str, list[str]]:
    """The demo with the switches of each of the paper's ablations."""
    return {
        f"{name}_{seed}": [*run, *switches]
        for name, switches in ablations().items()
        for seed, run in _of_seeds("experiment=demo", "torch_threads=1").items()
    }


def ablations() -> dict[str, list[str]]:
    """The overrides that each file of ``conf/experiment/ablation`` stands for, by name."""
    switches = {}
    for path in sorted((config_dir() / "experiment" / "ablation").glob("*.yaml")):
        nodes = {key: node for key, node in OmegaConf.load(path).items() if key not in ("defaults", "name")}
        switches[path.stem] = [f"{key}={value}" for key, value in flattened(nodes)]
    return switches


def _ten_scaling() -> dict[str, dict[str, list[str]]]:
    """One agent on the ten tasks of ``dmc_easy``, with as many steps a task and updates a run as one agent a task (the
    group ``dmc_easy``); and one agent a task with a tenth of the updates, so that ten cost what the one costs."""
    tenth = [f"env_steps_per_update={ratio('dmc_cpu') * len(DMC_EASY)}"]
    return {
        "ten_tasks": _of_seeds("experiment=dmc_cpu", "tasks=dmc_easy", *tenth, TASK_STATISTICS),
        "ten_alone": _of_tasks(DMC_EASY, "dmc/", "experiment=dmc_cpu", *tenth),
    }


def _dmc_scaling(experiment: str, *overrides: str) -> dict[str, dict[str, list[str]]]:
    """One agent on eight tasks and on four of them, with as many steps a task and updates a run as on one."""

    def runs(size: int) -> dict[str, list[str]]:
        updates = [f"env_steps_per_update={ratio(experiment) * size}", "torch_threads=1"]
        return _of_parts(EIGHT, size, f"experiment={experiment}", *overrides, *updates)

    return {"eight_tasks": runs(8), "four_tasks": runs(4)}


def _newt_scaling() -> dict[str, dict[str, list[str]]]:
    """One agent on the sixteen tasks of ``newt_cpu``; agents on eight, four and one of them. A run has updates in
    proportion to its tasks, so that it sees as many windows of a task, and a group costs what the one agent costs."""
    newt = ["experiment=newt_cpu", "torch_threads=1"]
    alone = _of_tasks(NEWT, "", *newt)
    return {
        "newt_cpu": _of_seeds(*newt),
        "newt_eight": _of_parts(NEWT, 8, *newt),
        "newt_four": _of_parts(NEWT, 4, *newt),
        "newt_alone": {name.partition("/")[2].replace("?", "_"): overrides for name, overrides in alone.items()},
    }


def _of_seeds(*overrides: str) -> dict[str, list[str]]:
    """A run for each seed."""
    return {f"seed{seed}": [*overrides, f"seed={seed}"] for seed in SEEDS}


def _of_tasks(tasks: Sequence[str], prefix: str, *overrides: str) -> dict[str, list[str]]:
    """A run for each task and seed; its name leaves out the ``prefix`` of the task's."""
    return {
        f"{task.removeprefix(prefix)}_seed{seed}": [*overrides, f"tasks={task}", f"seed={seed}"]
        for seed in SEEDS
        for task in tasks
    }


def _of_parts(tasks: Sequence[str], size: int, *overrides: str) -> dict[str, list[str]]:
    """A run for each ``size`` tasks in their order and seed; its name has the numbers of the first and the last."""
    return {
        f"{first + 1}to{first + size}_seed{seed}": [
            *overrides, f"tasks=[{','.join(tasks[first:first + size])}]", f"seed={seed}"
        ]
        for seed in SEEDS
        for first in range(0, len(tasks), size)
    }  # fmt: skip


def run(group: str, name: str, overrides: list[str]) -> None:
    """One run in a process of its own, one thread; an interrupted one continues. Keeps its curve and its record."""
    if (RESULTS / group / f"{name}.csv").exists():
        return
    run_dir = Path("runs") / "learning" / group / name
    run_dir.mkdir(parents=True, exist_ok=True)
    resume = ["ckpt_path=last"] if newest_checkpoint(run_dir) is not None else []
    with open(run_dir / "output.log", "a") as log:
        done = subprocess.run(
            [*EZM, "train", *overrides, *resume, f"hydra.run.dir={run_dir}"],
            stdout=log, stderr=subprocess.STDOUT, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=False,
        )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"ezm train {' '.join(overrides)} failed, see {run_dir}/output.log")
    keep(group, name, run_dir, overrides)


def keep(group: str, name: str, run_dir: Path, overrides: list[str]) -> None:
    """Copies the curve of a finished run to ``results/``, and adds its line to ``runs.jsonl``."""
    recorded = json.loads((run_dir / "run.json").read_text())
    starts = recorded["starts"]
    line = {
        "group": group,
        "run": name,
        "command": f"ezm train {' '.join(overrides)}",
        "commit": commits_of(starts),
        "seconds": round(recorded["seconds"]),
        "cpu_seconds": round(sum(start["cpu_seconds"] for start in starts)),
        "machine": f"{platform.machine()} CPU, {os.cpu_count()} cores, one thread a run",
        "updates": recorded["update"],
        "final": recorded["returns"],
    }
    target = RESULTS / group / f"{name}.csv"
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(run_dir / "eval.csv", target)
    with open(RESULTS / "runs.jsonl", "a") as file:
        file.write(json.dumps(line) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    runner = commands.add_parser("run")
    runner.add_argument("group", choices=sorted(groups()))
    runner.add_argument("--workers", type=int, default=2)
    runner.add_argument("--only", default="", help="only runs whose name contains this")
    keeper = commands.add_parser("keep")
    keeper.add_argument("group", choices=sorted(groups()))
    keeper.add_argument("name")
    keeper.add_argument("run_dir", type=Path)
    arguments = parser.parse_args()
    runs = groups()[arguments.group]
    if arguments.command == "keep":
        keep(arguments.group, arguments.name, arguments.run_dir, runs[arguments.name])
        return
    chosen = [name for name in runs if arguments.only in name]
    if not chosen:
        parser.error(f"--only={arguments.only}: no run of {arguments.group} has it in its name; try {next(iter(runs))}")
    with ThreadPoolExecutor(arguments.workers) as pool:
        for done in [pool.submit(run, arguments.group, name, runs[name]) for name in chosen]:
            done.result()


if __name__ == "__main__":
    main()
