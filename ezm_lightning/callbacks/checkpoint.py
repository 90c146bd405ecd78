"""Checkpoints: a folder each, ``step=00000100.ckpt/``, that all ranks write to and the first one gives its name.

See `checkpoints/folder.py` for what it holds and `run_state.py` for a rank's part. The name comes last, so a kill at
any moment leaves the checkpoint before it as the newest; the manifest shows every later damage.
"""

from __future__ import annotations

import contextlib
import logging
import os
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
from ezm_lightning.checkpoints.runs import BEST
from ezm_lightning.checkpoints.tensor_file import write
from ezm_lightning.errors import nearest
from ezm_lightning.ranges import Count

warn = rank_zero_only(logging.getLogger(__name__).warning)


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes Lightning's file of a checkpoint whole or not at all, and reads it out of a checkpoint's folder."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        path = Path(path)
        temporary = path.with_name(path.name + ".tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write(checkpoint, temporary)
            os.replace(temporary, path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise

    def load_checkpoint(self, path: str | Path, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Lightning's, in today's names."""
        return renewed(super().load_checkpoint(weights_file(path), *args, **kwargs))


class Checkpoint(callbacks.Checkpoint):
    """Saves the run every ``every_n_train_steps`` updates, after the last one, and when it is asked to stop.

    The newest ``save_top_k`` checkpoints stay (-1: all). One that cannot be written is given up with a warning: the
    run goes on, and the checkpoints before stay; :meth:`check_last` tells of the last one. Last of the callbacks: it
    saves what the others have done.

    With ``monitor``, a metric of the evaluations such as ``eval/mean``, the weights of the evaluation with the largest
    value are kept in ``best.ckpt`` (``mode: min``: with the smallest). It is for ``ezm eval``; a run cannot go on from
    it.
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
        self.lost: str | None = None  # why the last one was not written

    def path(self, step: int) -> Path:
        """The folder of the checkpoint after ``step`` updates."""
        return self.dirpath / f"step={step:08d}.ckpt"

    def newest(self) -> Path | None:
        """The newest checkpoint that there is."""
        return max(self.dirpath.glob("step=*.ckpt"), default=None)

    def check_last(self, trainer: L.Trainer) -> None:
        """Raises OSError, on the first rank, where the last checkpoint of the run could not be written."""
        if self.lost is not None and trainer.is_global_zero:
            raise OSError(f"{self._gone(trainer)}; the newest is {self.newest() or 'none'}")

    def _gone(self, trainer: L.Trainer) -> str:
        return f"the checkpoint of update {trainer.global_step} is not written: {self.lost}"

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.stop, self.run_state = find(trainer, Stop), find(trainer, RunState)
        if trainer.is_global_zero:
            tidy(self.dirpath, {path.stem for path in self.dirpath.glob("step=*.ckpt")})

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.monitor is None:
            return
        metrics = find(trainer, Evaluate).metrics
        if metrics and self.monitor not in metrics:
            near = nearest(self.monitor, metrics, count=1)
            raise ValueError(f"checkpoint.monitor={self.monitor} is no metric of the evaluations; nearest: {near}")

    def _keep_best(self, trainer: L.Trainer) -> None:
        """Writes ``best.ckpt`` where this update has been evaluated as the best so far."""
        if self.monitor is None:
            return
        evaluate = find(trainer, Evaluate)
        if not evaluate.evaluated(trainer):
            return
        value = evaluate.metrics[self.monitor]
        if self.best is not None and self.sign * value <= self.sign * self.best:
            return
        why = _failure(trainer, partial(_save, trainer, self.dirpath / BEST, weights_only=True))
        if why is None:
            self.best = value
        else:
            warn(f"the best checkpoint, of update {trainer.global_step}, is not written: {why}; training goes on")

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "monitor": [self.monitor, self.sign]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The best value so far is one of the metric that was watched."""
        if state.get("monitor", [self.monitor, self.sign]) == [self.monitor, self.sign]:
            self.best = state["best"]

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: object) -> None:
        self._keep_best(trainer)
        step, asked = trainer.global_step, self.stop.asked(trainer)
        last = asked or trainer.should_stop or step == trainer.max_steps
        if last or step % self.every_n_train_steps == 0:
            self.save(trainer, pl_module)
            if self.lost is not None and not last:
                warn(f"{self._gone(trainer)}; training goes on, the one before stays, the next interval tries again")
        if asked:
            warn(self._farewell(trainer))
            self.stop.end(trainer)

    def _farewell(self, trainer: L.Trainer) -> str:
        """The line of a run that is stopped: where it goes on, and what could not be saved."""
        newest = self.newest()
        parts = [f"stopped after update {trainer.global_step}"]
        parts += [self._gone(trainer)] if self.lost is not None else []
        parts += [f"the same command with ckpt_path=last goes on from {newest}" if newest else "nothing is saved"]
        return "; ".join(parts)

    def save(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Writes a checkpoint and prunes older ones, or gives it up on all ranks."""
        path = self.path(trainer.global_step)
        draft = path.with_name(path.name + ".tmp")
        self.lost = self._write(trainer, pl_module, draft) or _publish(trainer, draft, path)
        if trainer.is_global_zero:
            others = sorted(other.stem for other in self.dirpath.glob("step=*.ckpt") if other != path)
            tidy(self.dirpath, self._newest([*others, path.stem], path.stem) if self.lost is None else others)

    def _write(self, trainer: L.Trainer, pl_module: L.LightningModule, draft: Path) -> str | None:
        """Fills a new folder with what all ranks hold; why that failed, None where it did not."""
        parts = (
            partial(_first, trainer, partial(remove, draft)),
            partial(self.run_state.save, trainer, pl_module, _own(trainer, draft)),
            partial(_save, trainer, draft / WEIGHTS),
        )
        return next(filter(None, (_failure(trainer, part) for part in parts)), None)

    def _newest(self, stems: list[str], current: str) -> list[str]:
        """Those that stay beside the current one; later ones are broken or of a course that was given up."""
        past = sorted(stem for stem in stems if stem <= current)
        return past if self.save_top_k == -1 else past[-self.save_top_k :]


def _own(trainer: L.Trainer, draft: Path) -> Path:
    return draft / f"rank{trainer.global_rank}"


def _first(trainer: L.Trainer, part: Callable[[], None]) -> None:
    """Does a part on the first rank alone."""
    if trainer.is_global_zero:
        part()


def _publish(trainer: L.Trainer, draft: Path, path: Path) -> str | None:
    """Gives a folder that all ranks have filled its seal and its name; why that failed, None where it did not."""
    sums: dict[str, str] = {}

    def sync() -> None:
        sums.update(synced(_own(trainer, draft), draft))
        _first(trainer, lambda: sums.update(synced(draft / WEIGHTS, draft)))

    why = _failure(trainer, sync)
    if why is not None:
        return why
    of_ranks = [trainer.strategy.broadcast(sums, src=rank) for rank in range(trainer.world_size)]
    listed = {name: written for of_rank in of_ranks for name, written in of_rank.items()}
    return _failure(trainer, partial(_first, trainer, partial(publish, draft, listed, path)))


def _save(trainer: L.Trainer, path: Path, *, weights_only: bool = False) -> None:
    try:
        trainer.save_checkpoint(path, weights_only=weights_only)
    except OSError:
        trainer.strategy.barrier("Trainer.save_checkpoint")  # where the other ranks wait for this one
        raise


def _failure(trainer: L.Trainer, write_part: Callable[[], None]) -> str | None:
    """Why ``write_part`` failed, here or on another rank; None where it succeeded on all."""
    why = None
    try:
        write_part()
    except OSError as error:
        why = str(error)
    if trainer.strategy.reduce_boolean_decision(why is None, all=True):
        return None
    return why or "another rank could not"


def tidy(folder: Path, keep: Collection[str]) -> None:
    """Removes from a checkpoint folder what a killed writer left, and the checkpoints whose stem is not in ``keep``."""
    for path in sorted(folder.glob("step=*")):
        if path.name.partition(".")[0] in keep and path.suffix != ".tmp":
            continue
        with contextlib.suppress(OSError):
            remove(path)
