"""Checkpoints: a folder each, ``step=00000100.ckpt/``, which all ranks fill and the first rank renames.

See `checkpoints/folder.py` for its content and `run_state.py` for a rank's part. The folder gets its name last, so that
after a kill at any moment the newest checkpoint is complete. The manifest shows every later damage.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch import callbacks
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.utilities import rank_zero_only

from ezm_lightning.callbacks import find
from ezm_lightning.callbacks.evaluate import Evaluate
from ezm_lightning.callbacks.run_state import RunState
from ezm_lightning.callbacks.stop import Stop
from ezm_lightning.checkpoints.folder import WEIGHTS, publish, remove, synced, weights_file
from ezm_lightning.checkpoints.old_names import renewed
from ezm_lightning.checkpoints.replaced import replaced
from ezm_lightning.checkpoints.runs import BEST
from ezm_lightning.checkpoints.tensor_file import write
from ezm_lightning.errors import nearest
from ezm_lightning.ranges import Count

warn = rank_zero_only(logging.getLogger(__name__).warning)


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes Lightning's file of a checkpoint completely or not at all, and reads it from a checkpoint's folder."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with replaced(path) as temporary:
            write(checkpoint, temporary)

    def load_checkpoint(self, path: str | Path, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Lightning's checkpoint with today's class names."""
        return renewed(super().load_checkpoint(weights_file(path), *args, **kwargs))


class Checkpoint(callbacks.Checkpoint):
    """Saves the run every ``every_n_train_steps`` updates, after the last update, and when a signal stops the run.

    The newest ``save_top_k`` checkpoints are kept (-1: all). If one cannot be written, a warning says so, the run
    continues and older checkpoints are kept; :meth:`check_last` raises if this was the last one. It is the last of the
    callbacks, so that it saves what the others have done.

    With ``monitor``, a metric of the evaluations such as ``eval/mean``, the weights of the evaluation with the largest
    value are kept in ``best.ckpt`` (``mode: min``: with the smallest). It is for ``ezm eval``; a run cannot be resumed
    from it.
    """

    def __init__(
        self,
        dirpath: str | Path,
        *,
        every_n_train_steps: Count,
        save_top_k: int = 1,
        monitor: str | None = None,
        mode: str = "max",
    ) -> None:
        if every_n_train_steps < 1:
            raise ValueError(f"checkpoint.every_n_train_steps={every_n_train_steps} must be at least 1")
        if save_top_k < 1 and save_top_k != -1:
            raise ValueError(f"checkpoint.save_top_k={save_top_k} must be at least 1, or -1 to keep all")
        if mode not in ("max", "min"):
            raise ValueError(f"checkpoint.mode={mode} must be max or min; nearest: {nearest(mode, ('max', 'min'), 1)}")
        self.dirpath, self.monitor, self.sign = Path(dirpath), monitor, 1 if mode == "max" else -1
        self.best: float | None = None
        self.every_n_train_steps, self.save_top_k = every_n_train_steps, save_top_k
        self.lost: str | None = None  # why the last checkpoint was not written
        self.how_to_resume = "the same command with ckpt_path=last"  # the program that trains may set it

    @property
    def needs(self) -> tuple[type[L.Callback], ...]:
        """The callbacks without which it cannot save."""
        return (Stop, RunState, Evaluate) if self.monitor is not None else (Stop, RunState)

    def path(self, step: int) -> Path:
        """The folder of the checkpoint after ``step`` updates."""
        return self.dirpath / f"step={step:08d}.ckpt"

    def newest(self) -> Path | None:
        """The newest checkpoint, if there is one."""
        return max(self.dirpath.glob("step=*.ckpt"), default=None)

    def check_last(self, trainer: L.Trainer) -> None:
        """Raises OSError on the first rank if the last checkpoint of the run could not be written."""
        if self.lost is not None and trainer.is_global_zero:
            raise OSError(f"{self._not_written(trainer)}; the newest is {self.newest() or 'none'}")

    def _not_written(self, trainer: L.Trainer) -> str:
        return f"the checkpoint of update {trainer.global_step} is not written: {self.lost}"

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.stop, self.run_state = find(trainer, Stop), find(trainer, RunState)
        self.stop.left_to_checkpoint = True
        if trainer.is_global_zero:
            tidy(self.dirpath, {path.stem for path in self.dirpath.glob("step=*.ckpt")})

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.monitor is None:
            return
        metrics = find(trainer, Evaluate).metrics
        if metrics and self.monitor not in metrics:
            near = nearest(self.monitor, metrics, count=1)
            raise ValueError(f"checkpoint.monitor={self.monitor} is no metric of the evaluations; nearest: {near}")
        if not trainer.strategy.broadcast((self.dirpath / BEST).exists()):  # the run was resumed in another folder
            self.best = None

    def _keep_best(self, trainer: L.Trainer) -> None:
        """Writes ``best.ckpt`` if this update has the best evaluation so far."""
        if self.monitor is None:
            return
        evaluate = find(trainer, Evaluate)
        if not evaluate.evaluated(trainer):
            return
        value = evaluate.metrics[self.monitor]
        if self.best is not None and self.sign * value <= self.sign * self.best:
            return
        failure = _failure(trainer, partial(_save, trainer, self.dirpath / BEST, weights_only=True))
        if failure is None:
            self.best = value
        else:
            warn(f"the best checkpoint, of update {trainer.global_step}, is not written: {failure}; training continues")

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "monitor": [self.monitor, self.sign]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores the best value so far if it belongs to the same metric."""
        if state.get("monitor", [self.monitor, self.sign]) == [self.monitor, self.sign]:
            self.best = state["best"]

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: object) -> None:
        self._keep_best(trainer)
        step, stopping = trainer.global_step, self.stop.asked(trainer)
        last = stopping or trainer.should_stop or step == trainer.max_steps
        if last or step % self.every_n_train_steps == 0:
            self.save(trainer, pl_module)
            if self.lost is not None and not last:
                remedy = "training continues, the one before stays, the next interval tries again"
                warn(f"{self._not_written(trainer)}; {remedy}")
        if stopping:
            warn(self._farewell(trainer))
            self.stop.end(trainer)

    def _farewell(self, trainer: L.Trainer) -> str:
        """The line of a run that is stopped: how to resume it, and what could not be saved."""
        newest = self.newest()
        parts = [f"stopped after update {trainer.global_step}"]
        parts += [self._not_written(trainer)] if self.lost is not None else []
        parts += [f"{self.how_to_resume} resumes from {newest}" if newest else "nothing is saved"]
        return "; ".join(parts)

    def save(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Writes a checkpoint and prunes older ones, or removes none if any rank fails."""
        path = self.path(trainer.global_step)
        draft = path.with_name(path.name + ".tmp")
        self.lost = self._write(trainer, pl_module, draft) or _publish(trainer, draft, path)
        if trainer.is_global_zero:
            older = sorted(folder.stem for folder in self.dirpath.glob("step=*.ckpt") if folder != path)
            tidy(self.dirpath, self._newest([*older, path.stem], path.stem) if self.lost is None else older)

    def _write(self, trainer: L.Trainer, pl_module: L.LightningModule, draft: Path) -> str | None:
        """Fills a new folder with the state of all ranks. Returns the reason of a failure, None without one."""
        parts = (
            partial(_first, trainer, partial(remove, draft)),
            partial(self.run_state.save, trainer, pl_module, _rank_folder(trainer, draft)),
            partial(_save, trainer, draft / WEIGHTS),
        )
        return next(filter(None, (_failure(trainer, part) for part in parts)), None)

    def _newest(self, stems: list[str], current: str) -> list[str]:
        """The checkpoints to keep. Any later than ``current`` is damaged or of an abandoned course of the run."""
        past = sorted(stem for stem in stems if stem <= current)
        return past if self.save_top_k == -1 else past[-self.save_top_k :]


def _rank_folder(trainer: L.Trainer, draft: Path) -> Path:
    return draft / f"rank{trainer.global_rank}"


def _first(trainer: L.Trainer, part: Callable[[], None]) -> None:
    """Runs a part on the first rank only."""
    if trainer.is_global_zero:
        part()


def _publish(trainer: L.Trainer, draft: Path, path: Path) -> str | None:
    """Seals and renames a folder that all ranks have filled. Returns the reason of a failure, None without one."""
    sums: dict[str, str] = {}
    written = [_rank_folder(trainer, draft), *([draft / WEIGHTS] if trainer.is_global_zero else [])]
    failure = _failure(trainer, lambda: sums.update(synced(draft, *written)))
    if failure is not None:
        return failure
    of_ranks = [trainer.strategy.broadcast(sums, src=rank) for rank in range(trainer.world_size)]
    listed = {name: checksum for of_rank in of_ranks for name, checksum in of_rank.items()}
    return _failure(trainer, partial(_first, trainer, partial(publish, draft, listed, path)))


def _save(trainer: L.Trainer, path: Path, *, weights_only: bool = False) -> None:
    try:
        trainer.save_checkpoint(path, weights_only=weights_only)
    except OSError:
        trainer.strategy.barrier("Trainer.save_checkpoint")  # the other ranks wait for this one there
        raise


def _failure(trainer: L.Trainer, write_part: Callable[[], None]) -> str | None:
    """The reason why ``write_part`` failed, here or on another rank; None if it succeeded on all."""
    reason = None
    try:
        write_part()
    except OSError as error:
        reason = str(error)
    if trainer.strategy.reduce_boolean_decision(reason is None, all=True):
        return None
    return reason or "another rank could not"


def tidy(folder: Path, keep: Collection[str]) -> None:
    """Removes the remains of a killed writer from a folder, and the checkpoints whose stem is not in ``keep``."""
    for path in sorted(folder.glob("step=*")):
        if path.name.partition(".")[0] in keep and path.suffix != ".tmp":
            continue
        with contextlib.suppress(OSError):
            remove(path)
