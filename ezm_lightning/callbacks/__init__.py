"""The backward and side edges of the river of data: priorities, weights, collection, evaluation, checkpoints."""

from __future__ import annotations

from typing import TypeVar

import lightning as L

Kind = TypeVar("Kind", bound=L.Callback)


def find_or_none(trainer: L.Trainer, kind: type[Kind]) -> Kind | None:
    """The trainer's callback of a kind; None if the run has none."""
    return next((callback for callback in trainer.callbacks if isinstance(callback, kind)), None)


def find(trainer: L.Trainer, kind: type[Kind]) -> Kind:
    """The trainer's callback of a kind. Raises ValueError if the run has none."""
    callback = find_or_none(trainer, kind)
    if callback is None:
        raise ValueError(f"the run has no callback {kind.__name__}, which another of its callbacks needs")
    return callback


def check_learner(trainer: L.Trainer, module: L.LightningModule) -> None:
    """Calls every callback's ``check_learner``, which may raise ValueError, before anything is written."""
    for callback in trainer.callbacks:
        if hasattr(callback, "check_learner"):
            callback.check_learner(module)
