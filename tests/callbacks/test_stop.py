"""Signals in a run without checkpoints; those in a run with them are in ``tests/runs/test_resume.py``."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from ezm_lightning.commands import train
from tests.runs.short import SIZE, budget


def test_a_run_without_checkpoints_stops_too(tmp_path: Path, monkeypatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("PREEMPT", str(tmp_path / "told"))
    line = [*SIZE, budget(1_000), "tasks=[tests.runs.preempted/point]", "callbacks.checkpoint=null", "logger=none"]
    assert train.main([*line, f"hydra.run.dir={tmp_path / 'run'}"]) == 128 + signal.SIGUSR2
    assert "the run has no Checkpoint, nothing is saved" in caplog.text
    assert not (tmp_path / "run" / "checkpoints").exists()
