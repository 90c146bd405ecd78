"""The whole loop: debug-sized training, reproducibility, exact resume after kill -9, the exact ratio."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ezm_lightning.checkpoints.folder import weights_file

SIZE = ["experiment=debug", "env_steps_per_task=1_480", "warmup_env_steps=1_000", "checkpoint.every_n_train_steps=20"]
UPDATES = 240  # four tasks, (1480 - 1000) steps each, 8 simulator steps an update


def command(run_dir: Path, *overrides: str) -> list[str]:
    return [sys.executable, "-m", "ezm_lightning.commands.cli", "train", *SIZE, f"hydra.run.dir={run_dir}", *overrides]


def train(run_dir: Path, *overrides: str) -> Path:
    """Trains to the end; the final checkpoint."""
    done = subprocess.run(command(run_dir, *overrides), capture_output=True, text=True, env=environment())
    assert done.returncode == 0, done.stderr[-3000:]
    return run_dir / "checkpoints" / f"step={UPDATES:08d}.ckpt"


def environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1"}


def load(checkpoint: Path) -> tuple[dict, dict]:
    """What Lightning has saved of a checkpoint, and the rest: run state and everything in the replay folder."""
    rank = checkpoint / "rank0"
    state = {"run": torch.load(rank / "state.pt", weights_only=True)}
    for file in sorted((rank / "replay").rglob("*.pt")):
        state[file.relative_to(rank / "replay").as_posix()] = torch.load(file, weights_only=True)
    return torch.load(weights_file(checkpoint), weights_only=True), state


def differences(a: object, b: object, path: str = "") -> list[str]:
    """Paths at which two nested structures are not equal bit for bit (NaN equals NaN)."""
    if isinstance(a, Tensor):
        return [] if torch.equal(a.nan_to_num(-7.0), b.nan_to_num(-7.0)) else [path]
    if isinstance(a, dict):
        if a.keys() != b.keys():
            return [f"{path}: keys {sorted(map(str, a.keys() ^ b.keys()))}"]
        return [d for key in a for d in differences(a[key], b[key], f"{path}/{key}")]
    if isinstance(a, list | tuple):
        return [d for i, (x, y) in enumerate(zip(a, b, strict=True)) for d in differences(x, y, f"{path}/{i}")]
    return [] if a == b or a != a else [f"{path}: {a} != {b}"]


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run's final checkpoint."""
    return train(tmp_path_factory.mktemp("reference"))


def test_the_same_seed_gives_the_same_bits(reference: Path, tmp_path: Path) -> None:
    again = train(tmp_path)
    for first, second in zip(load(reference), load(again), strict=True):
        first.pop("hyper_parameters", None), second.pop("hyper_parameters", None)  # holds the run's folder
        first.pop("callbacks", None), second.pop("callbacks", None)  # ModelCheckpoint: paths
        assert differences(first, second) == []


def test_killed_and_resumed_is_the_same_run(reference: Path, tmp_path: Path) -> None:
    log = open(tmp_path / "log", "w")  # noqa: SIM115
    run_dir = tmp_path / "run"
    process = subprocess.Popen(command(run_dir), stdout=log, stderr=log, env=environment())
    deadline = time.time() + 240
    while not list((run_dir / "checkpoints").glob("step=*.ckpt")):
        assert process.poll() is None and time.time() < deadline, (tmp_path / "log").read_text()[-3000:]
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    (stopped,) = (run_dir / "checkpoints").glob("step=*.ckpt")
    assert int(stopped.stem.split("=")[1]) < UPDATES
    final = train(run_dir, "ckpt_path=last")
    (model, state), (expected_model, expected_state) = load(final), load(reference)
    for key in ("state_dict", "optimizer_states", "lr_schedulers", "global_step"):
        assert differences(model[key], expected_model[key], key) == []
    assert differences(state, expected_state) == []
    assert (run_dir / "eval.csv").read_text() == (reference.parent.parent / "eval.csv").read_text()


def test_environment_steps_per_update_are_exact(reference: Path) -> None:
    _, state = load(reference)
    steps = state["run"]["collect"]["env"]["env_steps"]
    assert steps.tolist() == [1480] * 4


def test_a_run_writes_its_curve_and_both_logs(reference: Path) -> None:
    run_dir = reference.parent.parent
    with open(run_dir / "eval.csv") as file:
        rows = list(csv.DictReader(file))
    assert {int(row["update"]) for row in rows} >= {0, UPDATES}
    assert len({row["task"] for row in rows}) == 4
    assert list((run_dir / "tensorboard").glob("events.*"))
    with open(run_dir / "csv" / "version_0" / "metrics.csv") as file:
        assert "loss/value" in next(csv.reader(file))
    assert len(list((run_dir / "checkpoints").glob("*.ckpt"))) <= 2
    assert not list((run_dir / "checkpoints").glob("*.tmp"))
