"""The record of a run for reviewers: its command, commit, versions, host and time, in ``run.json``."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.loggers import MLFlowLogger, WandbLogger

from ezm_lightning.callbacks import find_or_none
from ezm_lightning.callbacks.evaluate import Evaluate
from ezm_lightning.checkpoints.runs import RECORD, recorded_starts, run_of
from ezm_lightning.checkpoints.text_file import replace_text


class RunRecord(L.Callback):
    """Keeps ``<run_dir>/run.json``: an entry for each start of the run, and the run's last evaluation.

    It is written when training starts, with every checkpoint and at the end. ``command`` is the command line, which the
    program that trains may set.
    """

    def __init__(self, run_dir: str | Path) -> None:
        self.path = Path(run_dir) / RECORD
        self.command = " ".join(sys.argv)
        self.began, self.cpu_began = time.monotonic(), time.process_time()
        self.starts: list[dict[str, Any]] = []

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        self.starts = [*(self._earlier(trainer) if trainer.global_step else []), self._start(trainer)]
        self._write(trainer)

    def _earlier(self, trainer: L.Trainer) -> list[dict[str, Any]]:
        """The starts of this run's folder; of a run that resumes in a new one, those that led to its checkpoint."""
        own = recorded_starts(self.path.parent)
        if own or trainer.ckpt_path is None:
            return own
        starts = recorded_starts(run_of(Path(trainer.ckpt_path)))
        return [start for start in starts if start.get("first_update", 0) < trainer.global_step]

    def _start(self, trainer: L.Trainer) -> dict[str, Any]:
        return {
            "command": self.command,
            "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "first_update": trainer.global_step,
            "version": importlib.metadata.version("ezm-lightning"),
            "git": git_state(Path(__file__).parents[1]),
            "host": host(trainer),
            "python": platform.python_version(),
            "packages": {dist.name: dist.version for dist in importlib.metadata.distributions()},
            "loggers": {
                type(logger).__name__: identity for logger in trainer.loggers if (identity := _identity(logger))
            },
        }

    def _write(self, trainer: L.Trainer, *, ended: bool = False) -> None:
        """Replaces the file. If the disk is full, the record is lost and the run continues."""
        start = self.starts[-1]
        start |= {"seconds": round(self.seconds(), 1), "cpu_seconds": round(time.process_time() - self.cpu_began, 1)}
        start |= {"last_update": trainer.global_step, "ended": ended}
        record = {"starts": self.starts, "seconds": round(self.total_seconds(), 1)} | _standing(trainer)
        with contextlib.suppress(OSError):
            replace_text(self.path, json.dumps(record, indent=2) + "\n")

    def seconds(self) -> float:
        """Seconds since this process started."""
        return time.monotonic() - self.began

    def total_seconds(self) -> float:
        """Seconds of all starts of the run."""
        return sum(start.get("seconds", 0.0) for start in self.starts[:-1]) + self.seconds()

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        if self.starts:
            self._write(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.starts:
            self._write(trainer, ended=trainer.global_step == trainer.max_steps)


def _standing(trainer: L.Trainer) -> dict[str, Any]:
    """The last evaluation, and the floors."""
    evaluate = find_or_none(trainer, Evaluate)
    if evaluate is None or not evaluate.rows:
        return {}
    last = [row for row in evaluate.rows if row["update"] == evaluate.rows[-1]["update"]]
    return {
        "env_steps": last[0]["env_steps"],
        "update": last[0]["update"],
        "mean_return": last[0]["mean"],
        "returns": {row["task"]: row["return"] for row in last},
        "floors": evaluate.floors,
    }


def _identity(logger: Any) -> str | None:
    """The id of this run in the logger's service, with which its record is continued."""
    if isinstance(logger, MLFlowLogger):
        return logger.run_id
    return logger.version if isinstance(logger, WandbLogger) else None


def git_state(folder: Path) -> dict[str, Any] | None:
    """The commit of the checkout with ``folder``, and whether its files are as committed; None outside a checkout.

    A change below ``results/`` of the checkout, where finished runs are kept, does not count.
    """
    if _git(folder, "ls-files", "--error-unmatch", "__init__.py") is None:
        return None  # installed, or in an ignored folder of another project
    code = ("--", ":/", ":(top,exclude)results")
    commit, changes = _git(folder, "rev-parse", "HEAD"), _git(folder, "status", "--porcelain", "-uno", *code)
    return None if commit is None else {"commit": commit, "clean": changes == ""}


def _git(folder: Path, *arguments: str) -> str | None:
    """The output of git; None if it fails or is not installed."""
    try:
        command = ["git", "-C", str(folder), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def host(trainer: L.Trainer) -> dict[str, Any]:
    """The machine, and the part of it that the run uses."""
    device = trainer.strategy.root_device
    return {
        "name": platform.node(),
        "system": platform.platform(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "processes": trainer.world_size,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
    }
