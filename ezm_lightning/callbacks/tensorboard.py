"""TensorBoard's pages beside curves: a chart of all tasks, the config, videos, embeddings, histograms, HParams."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from torch.utils.tensorboard.summary import hparams
from torch.utils.tensorboard.writer import FileWriter, SummaryWriter

from ezm_lightning.callbacks import find, find_or_none
from ezm_lightning.callbacks.collect import Collect
from ezm_lightning.callbacks.evaluate import VIDEO_SIZE, Evaluate
from ezm_lightning.callbacks.record import RunRecord

METRIC = "eval/mean"
CHARTS = {
    "evaluation": {
        "mean return": ["Multiline", [METRIC]],
        "all tasks": ["Multiline", ["eval/return/.*"]],
        "success": ["Multiline", ["success/.*"]],
    },
    "training": {
        "returns while exploring": ["Multiline", ["explore/return/.*"]],
        "losses": ["Multiline", ["loss/.*"]],
    },
}


class TensorBoardPages(L.Callback):
    """Writes everything but scalars, if the run has a TensorBoard logger.

    ``hparams`` are the parameters on the HParams page, without those that are null; its metric is the mean return. A
    learner may have ``distributions``, {tag: tensor} of the last logged update (NaN counts in no histogram), and
    ``task_embeddings()`` [T, E].
    """

    def __init__(self, hparams: Mapping[str, Any]) -> None:
        self.hparams = {name: _plain(value) for name, value in hparams.items() if value is not None}
        self._shown = -1  # the update of the last evaluation that was written

    @rank_zero_only
    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        for writer in _writers(trainer):
            if trainer.global_step:
                _forget_from(writer, find(trainer, Collect).env_steps_due(trainer) + 1)
            writer.add_custom_scalars(CHARTS)
            self._write_texts(writer, trainer, pl_module)
            for summary in hparams(self.hparams, {METRIC: 0.0}):
                _file(writer).add_summary(summary)
        self._show_evaluation(trainer, pl_module)

    @rank_zero_only
    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: object) -> None:
        self._show_evaluation(trainer, pl_module)

    def _show_evaluation(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Writes histograms and videos after an evaluation."""
        evaluate = find_or_none(trainer, Evaluate)
        if evaluate is None or not evaluate.evaluated(trainer) or self._shown == trainer.global_step:
            return
        self._shown, step = trainer.global_step, find(trainer, Collect).env_steps_due(trainer)
        distributions: Mapping[str, torch.Tensor] = getattr(pl_module, "distributions", {})
        for writer in _writers(trainer):
            for tag, values in distributions.items():
                numbers = values.float().cpu()
                writer.add_histogram(tag, numbers[~numbers.isnan()], step)
            for label, file in evaluate.videos.items():
                _file(writer).add_summary(_moving_picture(f"eval/video/{label}", file), step)
            writer.flush()

    def _write_texts(self, writer: SummaryWriter, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        config = json.dumps(dict(pl_module.hparams), indent=1, default=str)
        writer.add_text("run/config", _indented(config), 0)
        record = find_or_none(trainer, RunRecord)
        if record is not None and record.starts:
            about = {key: value for key, value in record.starts[-1].items() if key not in ("command", "packages")}
            step = find(trainer, Collect).env_steps_due(trainer)
            writer.add_text("run/command", _indented(record.command), step)
            writer.add_text("run/machine", _indented(json.dumps(about, indent=1)), step)

    @rank_zero_only
    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._write_embeddings(trainer, pl_module)

    @rank_zero_only
    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        if isinstance(exception, SystemExit):  # stopped by a signal, after saving
            self._write_embeddings(trainer, pl_module)

    def _write_embeddings(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Writes the tasks' embeddings with their names for the projector, if there are several tasks."""
        embeddings = pl_module.task_embeddings() if hasattr(pl_module, "task_embeddings") else None
        if embeddings is None or len(embeddings) < 2:
            return
        names = [spec.label for spec in find(trainer, Collect).env.task_specs]
        step = find(trainer, Collect).env_steps_due(trainer)
        for writer in _writers(trainer):
            if not Path(writer.log_dir, f"{step:05d}").exists():
                writer.add_embedding(embeddings.detach().float().cpu(), names, tag="tasks", global_step=step)


def _writers(trainer: L.Trainer) -> list[SummaryWriter]:
    return [logger.experiment for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]


def _file(writer: SummaryWriter) -> FileWriter:
    """The event file of an open writer, for summaries that the writer has no method for."""
    assert writer.file_writer is not None
    return writer.file_writer


def _forget_from(writer: SummaryWriter, step: int) -> None:
    """Hides entries of later steps in a resumed run, written before it was killed."""
    _file(writer).add_event(Event(session_log=SessionLog(status=SessionLog.START)), step)


def _moving_picture(tag: str, file: Path) -> Summary:
    """An animated GIF as an image summary of TensorBoard."""
    height, width = VIDEO_SIZE
    picture = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=file.read_bytes())
    return Summary(value=[Summary.Value(tag=tag, image=picture)])


def _indented(text: str) -> str:
    """A block of code in TensorBoard's markdown."""
    return "\n".join(f"    {line}" for line in text.splitlines())


def _plain(value: Any) -> bool | int | float | str:
    return value if isinstance(value, (bool, int, float, str)) else str(value)
