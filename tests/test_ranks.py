"""Two processes are one run: equal models, the same totals as one process, one evaluation, one end."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.short import SIZE, budget

ROOT = Path(__file__).parents[1]
UPDATES = 50
TASKS = ["tasks=custom", "tasks.names=[tests.two_ranks/point,tests.two_ranks/point_too]"]
RUN = [
    *(text for text in SIZE if not text.startswith("tasks=")),
    "model.head_norm._target_=ezm_lightning.model.networks.StackedBatchNorm",
    "evaluate.episodes=4",
]
TWO = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "trainer.precision=32-true"]


def launch(folder: Path, *overrides: str, **environment: str) -> subprocess.CompletedProcess[str]:
    folder.mkdir(exist_ok=True)
    arguments = [sys.executable, "-W", "ignore", "-m", "tests.two_ranks", str(folder)]
    return subprocess.run(
        [*arguments, *RUN, f"hydra.run.dir={folder}/run", *overrides],
        cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"} | environment, capture_output=True, text=True, timeout=500,
    )  # fmt: skip


def reports(folder: Path) -> list[dict]:
    return [json.loads(path.read_text()) for path in sorted(folder.glob("rank*.json"))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same budget spent by one process and by two."""
    folder = tmp_path_factory.mktemp("ranks")
    spend = [*TASKS, budget(UPDATES).replace(str(100 + 8 * UPDATES), str(100 + 4 * UPDATES))]  # of each of two tasks
    for name, overrides in (("one", []), ("two", TWO)):
        done = launch(folder / name, *spend, *overrides)
        assert done.returncode == 0, done.stderr[-3000:]
    return folder


def test_the_ranks_hold_one_model(folder: Path) -> None:
    one, other = reports(folder / "two")
    assert one["updates"] == other["updates"] == UPDATES
    assert (one["learner"], one["target"]) == (other["learner"], other["target"])


def test_the_totals_are_those_of_one_process(folder: Path) -> None:
    (alone,) = reports(folder / "one")
    ranks = reports(folder / "two")
    vector_step = 2 * 2  # environments a task × action repeat
    for task in range(2):
        total = sum(rank["env_steps"][task] for rank in ranks)
        assert abs(total - alone["env_steps"][task]) <= vector_step
        assert abs(ranks[0]["env_steps"][task] - ranks[1]["env_steps"][task]) <= vector_step


def test_evaluation_is_split_and_gathered(folder: Path) -> None:
    for name in ("one", "two"):
        rows = list(csv.DictReader(open(folder / name / "run" / "eval.csv")))
        assert [row["episodes"] for row in rows] == ["4"] * 4
        assert [row["env_steps"] for row in rows] == ["100"] * 2 + [str(100 + 4 * UPDATES)] * 2


@pytest.mark.parametrize("rank", ["0", "1"])
def test_an_error_on_one_rank_ends_both(tmp_path: Path, rank: str) -> None:
    started = time.time()
    broken = ["tasks=custom", "tasks.names=[tests.two_ranks/broken]", budget(500), "max_fault_share=0"]
    done = launch(tmp_path, *broken, *TWO, FAIL_RANK=rank)
    assert done.returncode != 0 and time.time() - started < 300
    assert "tests.two_ranks/broken: RuntimeError: the simulator is broken" in done.stderr
    assert not reports(tmp_path)
    left = subprocess.run(["pgrep", "-f", str(tmp_path)], capture_output=True, text=True).stdout
    assert left == ""
