"""The progress of a run: one line that fits any terminal, or without a terminal a printed line from time to time."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import RichProgressBar
from rich import reconfigure
from rich.console import Console, RenderableType
from rich.progress import ProgressColumn, Task
from rich.progress_bar import ProgressBar as Bar
from rich.table import Table
from rich.text import Text

from ezm_lightning.callbacks import find, find_or_none
from ezm_lightning.callbacks.collect import Collect
from ezm_lightning.callbacks.evaluate import Evaluate
from ezm_lightning.callbacks.pace import Pace
from ezm_lightning.callbacks.transcript import copy_again, say, screen
from ezm_lightning.ranges import Count, Positive

SEPARATOR = " · "
BAR = (6, 40)  # least and most columns of the bar; with fewer there is none


class ProgressBar(RichProgressBar):
    """Lightning's rich bar: environment steps of the budget, time left, mean return, updates and steps per second.

    It is drawn at most ``refresh_rate`` times per second. Without a terminal that can redraw a line (a pipe, a file,
    ``TERM=dumb``) a plain line is printed every ``line_interval`` seconds.
    """

    def __init__(self, refresh_rate: Count = 2, line_interval: Positive = 60.0) -> None:
        super().__init__(refresh_rate=refresh_rate)
        self.line_interval = line_interval
        self._next = 0.0
        self.parts: list[str] = []

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        out = screen()
        self._live = self.is_enabled and out.isatty() and Console(file=out).is_interactive
        self._next = time.monotonic() + (0 if self._live else self.line_interval)
        if not self._live:
            return
        before = sys.stdout, sys.stderr
        self._console_kwargs = {"file": out}
        super().on_train_start(trainer, pl_module)
        copy_again(before)
        self.parts = self.status(trainer)
        self.train_progress_bar_id = self._add_task(trainer.max_steps, "")

    def configure_columns(self, trainer: L.Trainer) -> list:
        return [_Status(self)]

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Nothing: a run has no epochs."""

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        now = time.monotonic()
        if now < self._next or not self.is_enabled:
            return
        self._next = now + (1 / self.refresh_rate if self._live else self.line_interval)
        self.parts = self.status(trainer)
        if self._live:
            self._update(self.train_progress_bar_id, trainer.global_step)
        else:
            say(SEPARATOR.join(self.parts))

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Nothing: a run has no epochs."""

    def get_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict:
        """Empty: the metrics are in the status."""
        return {}

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        super().teardown(trainer, pl_module, stage)
        reconfigure()  # rich's console writes to standard output again

    def status(self, trainer: L.Trainer) -> list[str]:
        """The parts of the line, the most important first."""
        collect, pace = find(trainer, Collect), find_or_none(trainer, Pace)
        budget = collect.env_steps_after(trainer.max_steps)
        parts = [f"{collect.env_steps_due(trainer):,}/{round(budget):,} steps"]
        if pace is not None:
            updates = pace.updates_per_second(trainer)
            parts.append(f"{duration(pace.seconds_left(trainer))} left")
        parts += _returns(trainer, collect)
        if pace is not None:
            steps = updates * collect.env_steps_per_update
            parts += [f"{_number(updates)} updates/s", f"{_number(steps)} steps/s"]
        return parts


class _Status(ProgressColumn):
    """A bar, and beside it as many parts as fit."""

    def __init__(self, bar: ProgressBar) -> None:
        self.bar = bar
        super().__init__()

    def render(self, task: Task) -> RenderableType:
        console = self.bar._console
        width = (console.width if console is not None else 80) - 2  # Lightning's column of metrics takes a space
        text, bar_width = layout(self.bar.parts, width)
        if bar_width < BAR[0]:
            return Text(text, no_wrap=True)
        row = Table.grid(padding=(0, 1))
        row.add_row(Bar(task.total, task.completed, width=bar_width), Text(text, no_wrap=True))
        return row


def layout(parts: Sequence[str], width: int) -> tuple[str, int]:
    """The first parts that fit into ``width`` columns beside the shortest bar, and the columns of the bar.

    If even the first part does not fit beside a bar, there is no bar and the part is cut.
    """
    for count in range(len(parts), 0, -1):
        text = SEPARATOR.join(parts[:count])
        bar_width = width - len(text) - 1
        if bar_width >= BAR[0]:
            return text, min(bar_width, BAR[1])
    return "".join(parts[:1])[: max(width, 0)], 0


def duration(seconds: float) -> str:
    """'1:02:03'; '–' if it is not known."""
    return str(timedelta(seconds=int(seconds))) if math.isfinite(seconds) else "–"


def _number(value: float) -> str:
    """Two or three digits; '–' if it is not known."""
    return "–" if not math.isfinite(value) else f"{value:,.0f}" if value >= 100 else f"{value:.2g}"


def _returns(trainer: L.Trainer, collect: Collect) -> list[str]:
    """The mean returns over tasks: of the last evaluation, and of the policy that explores."""
    evaluate, exploring = find_or_none(trainer, Evaluate), collect.mean_return()
    evaluated = evaluate.last_mean() if evaluate else None
    means = [("mean return", evaluated), ("exploring", exploring)]
    return [f"{name} {value:.0f}" for name, value in means if value is not None]
