"""Prints and records at the start of training the factor of each task's rewards."""

from __future__ import annotations

from pathlib import Path

import lightning as L
from rich.console import Console

from ezm_lightning.callbacks import find
from ezm_lightning.callbacks.collect import Collect
from ezm_lightning.checkpoints.text_file import csv_text, replace_text, warned_of
from ezm_lightning.reward_scale import TaskRewardScale

COLUMNS = ("task", "reward_scale", "source", "lowest", "highest")


class ReportRewardScale(L.Callback):
    """One line per task, the file ``reward_scale.csv``, and one scalar per task in every logger.

    Nothing is reported if all scales are 1, or if the learner has none.
    """

    def __init__(self, *, run_dir: str | Path) -> None:
        self.path = Path(run_dir) / "reward_scale.csv"

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        scale = getattr(pl_module, "reward_scale", None)
        if not isinstance(scale, TaskRewardScale) or scale.all_one or not trainer.is_global_zero:
            return
        rows = scale.rows()
        for row in rows:
            Console(soft_wrap=True, highlight=False).print(_line(row), markup=False)
        with warned_of(self.path):
            replace_text(self.path, csv_text(COLUMNS, rows))
        env_steps = find(trainer, Collect).env_steps_due(trainer)
        for logger in trainer.loggers:
            metrics = {f"reward_scale/{row['task']}": row["reward_scale"] for row in rows}
            logger.log_metrics(metrics, step=env_steps)


def _line(row: dict) -> str:
    sources = {
        "given": "as tasks.reward_scale or its source says",
        "known range": "by the known range of its rewards",
        "warm-up": f"measured in the warm-up, where a decision paid {row['lowest']:.3g} to {row['highest']:.3g}",
    }
    return f"{row['task']}: rewards × {row['reward_scale']:.3g} are learned, {sources[row['source']]}"
