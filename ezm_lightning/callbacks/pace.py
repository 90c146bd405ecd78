"""The speed of a run, and metrics of every learner: learning rate, losses by task, hyperparameters."""

from __future__ import annotations

import contextlib
import os
import time
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.loggers import MLFlowLogger, WandbLogger

from ezm_lightning.callbacks import find, find_or_none
from ezm_lightning.callbacks.collect import Collect
from ezm_lightning.callbacks.evaluate import Evaluate

WINDOW = 20  # updates per second are averaged over this number of measurements


class Pace(L.Callback):
    """Logs updates and simulator steps per second, without evaluations, and metrics that all learners have.

    If the learner has ``losses_by_task``, {name: [T]} with NaN for a task without windows, they are logged by name.
    """

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._looks: deque[tuple[float, int]] = deque(maxlen=WINDOW)
        self._first = self._logged = (0.0, 0)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._began = time.monotonic()
        self._first = self._logged = self._look(trainer)
        self._looks.append(self._logged)
        parameters = without_paths(dict(pl_module.hparams))
        for logger in trainer.loggers:
            if not _is_described(logger):
                logger.log_hyperparams(parameters)
            if isinstance(logger, WandbLogger) and trainer.is_global_zero:
                logger.experiment.define_metric("*", step_metric="run/env_steps")

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: object) -> None:
        if trainer.global_step % trainer.log_every_n_steps:
            return
        before, self._logged = self._logged, self._look(trainer)
        updates = rate(before, self._logged)
        metrics = {
            "speed/updates_per_second": updates,
            "speed/env_steps_per_second": updates * find(trainer, Collect).env_steps_per_update,
            "optim/learning_rate": float(trainer.optimizers[0].param_groups[0]["lr"]),
        } | _by_task(trainer, pl_module)
        pl_module.log_dict(metrics, batch_size=1)

    def _look(self, trainer: L.Trainer) -> tuple[float, int]:
        """(seconds without evaluations, updates), now."""
        evaluate = find_or_none(trainer, Evaluate)
        return time.monotonic() - (evaluate.seconds if evaluate else 0.0), trainer.global_step

    def updates_per_second(self, trainer: L.Trainer) -> float:
        """The recent speed, for repeated calls; NaN before the first update."""
        self._looks.append(self._look(trainer))
        return rate(self._looks[0], self._looks[-1])

    def mean_updates_per_second(self, trainer: L.Trainer) -> float:
        """The mean speed since the process started to train, without evaluations; NaN before the first update."""
        return rate(self._first, self._look(trainer))

    def seconds(self) -> float:
        """Seconds since the process started to train."""
        return time.monotonic() - self._began

    def seconds_left(self, trainer: L.Trainer) -> float:
        """An estimate from this process's speed so far, evaluations included; NaN before the first update."""
        done = trainer.global_step - self._first[1]
        return self.seconds() / done * (trainer.max_steps - trainer.global_step) if done else torch.nan


def _is_described(logger: Any) -> bool:
    """Whether the logger continues a record whose parameters are set and cannot change, such as to a larger budget."""
    return isinstance(logger, MLFlowLogger) and bool(logger.experiment.get_run(logger.run_id).data.params)


def rate(before: tuple[float, int], now: tuple[float, int]) -> float:
    """Updates per second between two measurements; NaN if no time or no update lies between them."""
    seconds, updates = now[0] - before[0], now[1] - before[1]
    return updates / seconds if seconds > 0 and updates else torch.nan


def _by_task(trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, float]:
    """Each loss of each task with windows in the last logged batch."""
    losses: Mapping[str, torch.Tensor] = getattr(pl_module, "losses_by_task", {})
    if not losses:
        return {}
    labels = [spec.label for spec in find(trainer, Collect).env.task_specs]
    values = torch.stack(list(losses.values())).tolist()  # waits for the device only once
    return {
        f"loss_by_task/{name}/{label}": value
        for name, row in zip(losses, values, strict=True)
        for label, value in zip(labels, row, strict=True)
        if value == value
    }


def without_paths(parameters: Any) -> Any:
    """Nested parameters without folders and addresses, since a logger may send them elsewhere."""
    if isinstance(parameters, dict):
        without = {key: without_paths(value) for key, value in parameters.items() if not _is_path(value)}
        return {key: value for key, value in without.items() if value != {}}
    if isinstance(parameters, (list, tuple)):
        return [without_paths(value) for value in parameters if not _is_path(value)]
    return parameters


def _is_path(value: Any) -> bool:
    if not isinstance(value, str):
        return False
    return os.path.isabs(value) or "://" in value or any(place in value for place in _private_places())


def _private_places() -> Iterator[str]:
    """The user's folder and the working folder; not the root, which is in every name with a slash."""
    for place in (Path.home, Path.cwd):
        with contextlib.suppress(RuntimeError, OSError):  # a user without a folder, a working folder that is deleted
            if (name := str(place())) != os.sep:
                yield name
