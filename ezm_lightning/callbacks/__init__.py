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
        raise ValueError(f"the run has no callback {kind.__name__}")
    return callback


def check_callbacks(trainer: L.Trainer, module: L.LightningModule) -> None:
    """Raises ValueError, before anything is written, if a callback lacks another that is in its ``needs``, or if the
    learner does not suit it, which its ``check_learner`` says."""
    for callback in trainer.callbacks:
        for kind in getattr(callback, "needs", ()):
            if find_or_none(trainer, kind) is None:
                raise ValueError(f"the run has no callback {kind.__name__}, which its {type(callback).__name__} needs")
        if hasattr(callback, "check_learner"):
            callback.check_learner(module)
