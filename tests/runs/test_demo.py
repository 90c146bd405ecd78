"""Learning, shown: demo-sized training reaches a score. Minutes long; ``pytest -m slow``."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_the_demo_learns_to_balance(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "ezm_lightning.commands.cli",
        "train",
        "experiment=demo",
        f"hydra.run.dir={tmp_path}",
    ]
    subprocess.run(command, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    with open(tmp_path / "eval.csv") as file:
        rows = list(csv.DictReader(file))
    first, last = ({r["task"]: float(r["return"]) for r in rows if r["update"] == u} for u in ("0", rows[-1]["update"]))
    assert last["dmc/cartpole-balance"] >= 500
    assert all(last[task] > before for task, before in first.items()), (first, last)
