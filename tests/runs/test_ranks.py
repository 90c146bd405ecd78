"""Two processes are one run: equal models, the same totals as one process, one evaluation, one end."""

from __future__ import annotations

import csv
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.runs.short import SIZE, budget

ROOT = Path(__file__).parents[2]
UPDATES = 50
TASKS = ["tasks=custom", "tasks.names=[tests.runs.two_ranks/point,tests.runs.two_ranks/point_too]"]
RUN = [
    *(text for text in SIZE if not text.startswith("tasks=")),
    "model.head_norm._target_=ezm_lightning.model.networks.StackedBatchNorm",
    "evaluate.episodes=4",
]
SPEND = [
    *TASKS,
    f"env_steps_per_task={100 + 4 * UPDATES}",  # of each of two tasks
    f"checkpoint.every_n_train_steps={UPDATES // 2}",
    "checkpoint.save_top_k=-1",
    "module.optimizer.lr=1e-3",  # so that fifty updates show
    "trainer.log_every_n_steps=1",  # from the first
]
PYTHON, ALONE = [sys.executable, "-W", "ignore"], {"OMP_NUM_THREADS": "1"}
TWO = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "trainer.precision=32-true"]


def run_in(folder: Path, *overrides: str) -> list[str]:
    return ["-m", "tests.runs.two_ranks", str(folder), *RUN, f"hydra.run.dir={folder}/run", *overrides]


def launch(folder: Path, *overrides: str, **environment: str) -> subprocess.CompletedProcess[str]:
    folder.mkdir(exist_ok=True)
    return subprocess.run(
        [*PYTHON, *run_in(folder, *overrides)],
        cwd=ROOT, env=os.environ | ALONE | environment, capture_output=True, text=True, timeout=500,
    )  # fmt: skip


def reports(folder: Path) -> list[dict]:
    return [json.loads(path.read_text()) for path in sorted(folder.glob("rank*.json"))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same budget spent by one process and by two."""
    folder = tmp_path_factory.mktemp("ranks")
    for name, overrides in (("one", []), ("two", TWO)):
        done = launch(folder / name, *SPEND, *overrides)
        assert done.returncode == 0, done.stderr[-3000:]
    return folder


def half_way(folder: Path, run: Path) -> Path:
    """The folder of a run that has been stopped after half of the updates."""
    shutil.copytree(folder / "two" / "run" / "checkpoints", run / "run" / "checkpoints")
    shutil.rmtree(run / "run" / "checkpoints" / f"step={UPDATES:08d}.ckpt")
    return run


def test_the_ranks_hold_one_model(folder: Path) -> None:
    one, other = reports(folder / "two")
    assert one["updates"] == other["updates"] == UPDATES
    assert (one["learner"], one["target"]) == (other["learner"], other["target"])


def test_torchrun_on_two_hosts_is_the_same_run(folder: Path, tmp_path: Path) -> None:
    """Two agents of torchrun with a process each, as on two hosts, end with the very model, simulators and replay."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    torchrun = [*PYTHON, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1"]
    torchrun += ["--rdzv-backend=c10d", f"--rdzv-endpoint=localhost:{port}"]
    run = run_in(tmp_path, *SPEND, *TWO, "trainer.devices=1", "trainer.num_nodes=2")
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    agents = [subprocess.Popen([*torchrun, *run], cwd=ROOT, env=os.environ | ALONE, **quiet) for _ in range(2)]
    said = [agent.communicate(timeout=500)[1] for agent in agents]
    assert [agent.returncode for agent in agents] == [0, 0], said
    assert reports(tmp_path) == reports(folder / "two")


def test_the_totals_are_those_of_one_process(folder: Path) -> None:
    (alone,) = reports(folder / "one")
    ranks = reports(folder / "two")
    vector_step = 2 * 2  # environments a task × action repeat
    for task in range(2):
        total = sum(rank["env_steps"][task] for rank in ranks)
        assert abs(total - alone["env_steps"][task]) <= vector_step
        assert abs(ranks[0]["env_steps"][task] - ranks[1]["env_steps"][task]) <= vector_step


def test_two_ranks_learn(folder: Path) -> None:
    """Their losses on fresh batches fall: 3.8 to 2.8 for rewards, 5.1 to 2.5 for values, 0.1 to -0.9 for latents."""
    (file,) = (folder / "two" / "run" / "csv").glob("*/metrics.csv")
    rows = [row for row in csv.DictReader(file.read_text().splitlines()) if row["loss/reward"]]
    losses = {name: [float(row[f"loss/{name}"]) for row in rows] for name in ("reward", "value", "consistency")}
    last = {name: sum(values[-10:]) / 10 for name, values in losses.items()}
    assert last["reward"] < 0.85 * losses["reward"][0]
    assert last["value"] < 0.7 * losses["value"][0]
    assert last["consistency"] < losses["consistency"][0] - 0.5


def test_evaluation_is_split_and_gathered(folder: Path) -> None:
    for name in ("one", "two"):
        rows = list(csv.DictReader((folder / name / "run" / "eval.csv").read_text().splitlines()))
        assert [row["episodes"] for row in rows] == ["4"] * 4
        assert [row["env_steps"] for row in rows] == ["100"] * 2 + [str(100 + 4 * UPDATES)] * 2


def test_two_ranks_resume_bit_for_bit(folder: Path, tmp_path: Path) -> None:
    done = launch(half_way(folder, tmp_path), *SPEND, *TWO, "ckpt_path=last")
    assert done.returncode == 0, done.stderr[-3000:]
    assert reports(tmp_path) == reports(folder / "two")


def test_one_rank_takes_over_from_two(folder: Path, tmp_path: Path) -> None:
    done = launch(half_way(folder, tmp_path), *SPEND, "module.optimizer.lr=2e-3", "ckpt_path=last")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "saved by 2 processes, resumed by 1" in done.stderr
    (alone,) = reports(tmp_path)
    assert alone["updates"] == UPDATES
    assert alone["lr"] == 2e-3  # what is set anew acts, as in a run of as many processes
    expected = [sum(steps) for steps in zip(*(rank["env_steps"] for rank in reports(folder / "two")), strict=True)]
    assert all(abs(a - b) <= 8 for a, b in zip(alone["env_steps"], expected, strict=True))
    assert alone["stored"] > 0.9 * sum(alone["env_steps"]) / 2  # a transition is two simulator steps


@pytest.mark.parametrize("rank", ["0", "1"])
def test_an_error_on_one_rank_ends_both(tmp_path: Path, rank: str) -> None:
    started = time.time()
    broken = ["tasks=custom", "tasks.names=[tests.runs.two_ranks/broken]", budget(500), "max_fault_share=0"]
    done = launch(tmp_path, *broken, *TWO, FAIL_RANK=rank)
    assert done.returncode != 0 and time.time() - started < 300
    assert "tests.runs.two_ranks/broken: RuntimeError: the simulator is broken" in done.stderr
    assert not reports(tmp_path)
    left = subprocess.run(["pgrep", "-f", str(tmp_path)], capture_output=True, text=True).stdout
    assert left == ""
