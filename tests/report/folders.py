"""Folders of runs as several versions have written them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

HEADER = "env_steps,update,task,return,return_std,return_ignoring_termination,episodes"
CONFIG = """\
name: {name}
seed: {seed}
env_steps_per_task: {budget}
torch_threads: 2
batch_size: {batch_size}
tasks: {{names: [{task}], action_repeat: 2}}
trainer: {{accelerator: cpu}}
run_dir: ${{hydra:runtime.output_dir}}
"""
Points = Sequence[tuple[int, float]]


def curve(points: Points, task: str = "dmc/walker-walk", *, fall: float = 0.0, header: str = HEADER) -> str:
    """The text of an eval.csv; ignoring terminations the return is ``fall`` higher."""
    rows = [f"{step},{step},{task},{value},1.0,{value + fall},5" for step, value in points]
    return "\n".join([header, *(row.rsplit(",", HEADER.count(",") - header.count(","))[0] for row in rows)]) + "\n"


def make_run(
    folder: Path,
    points: Points,
    *,
    seed: int = 1,
    name: str = "mine",
    task: str = "dmc/walker-walk",
    budget: int = 100,
    batch_size: int = 64,
    fall: float = 0.0,
    hydra: str = "hydra",
    started: Sequence[dict] = (),
) -> Path:
    """A run's folder; without points it has no eval.csv, without ``started`` no run.json."""
    (folder / hydra).mkdir(parents=True)
    config = CONFIG.format(name=name, seed=seed, budget=budget, batch_size=batch_size, task=task)
    (folder / hydra / "config.yaml").write_text(config)
    (folder / hydra / "overrides.yaml").write_text(f"- experiment=mine\n- seed={seed}\n")
    if points:
        (folder / "eval.csv").write_text(curve(points, task, fall=fall))
    if started:
        seconds = sum(start.get("seconds", 0) for start in started)
        (folder / "run.json").write_text(json.dumps({"starts": list(started), "seconds": seconds}))
    return folder


def start(command: str, *, commit: str = "0123456789abcdef", clean: bool = True, seconds: float = 1800, **host) -> dict:
    """An entry of run.json."""
    machine = {"name": "box", "cpus": 8, "threads": 2, "processes": 1, "device": "cpu", **host}
    return {"command": command, "git": {"commit": commit, "clean": clean}, "host": machine, "seconds": seconds}
