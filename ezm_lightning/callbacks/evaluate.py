"""Evaluation during training: fixed episodes of every task, a row in ``eval.csv`` and a scalar in every logger."""

from __future__ import annotations

import contextlib
import csv
import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor

from ezm_lightning.acting import Actor
from ezm_lightning.callbacks import find
from ezm_lightning.callbacks.collect import Collect
from ezm_lightning.callbacks.transcript import say
from ezm_lightning.checkpoints.text_file import csv_text, replace_text, warned_of
from ezm_lightning.envs.multitask import MultiTaskEnv
from ezm_lightning.envs.spec import TaskSpec
from ezm_lightning.evaluation.episodes import evaluation_seed, floor_actors, play
from ezm_lightning.evaluation.videos import EpisodeVideos
from ezm_lightning.ops.seeds import rank_seed
from ezm_lightning.ranges import Count

COLUMNS = (
    "env_steps", "update", "task", "return", "return_std", "return_ignoring_termination", "episodes", "success", "mean",
)  # fmt: skip
KINDS: dict[str, Callable[[str], Any]] = {"env_steps": int, "update": int, "task": str, "episodes": int}
DIGITS = 7  # of the numbers in eval.csv, as float32 rewards have
VIDEO_SIZE = (120, 160)  # height, width: small, since TensorBoard keeps pictures in memory


class Evaluate(L.Callback):
    """Plays episodes with the collecting actor every ``interval`` simulator steps per task, before and after training.

    ``make_env(slots_per_task)`` makes an environment with ``ignore_termination=True``, so that one episode scores both
    termination protocols. Each evaluation makes a new one with the same ``seed``, hence with the same initial states.
    Every rank plays its own environment with its own seed; a row covers the episodes of all ranks.

    With ``floors`` uniformly random and zero actions are played once, from the same initial states. Every
    ``video_interval`` simulator steps per task, and at the end, each task's first episode becomes a small video in
    ``<run_dir>/videos/<steps>/``; None: never.
    """

    def __init__(
        self,
        make_env: Callable[[int], MultiTaskEnv],
        *,
        interval: Count,
        episodes: Count,
        run_dir: str | Path,
        seed: int = 0,
        floors: bool = True,
        video_interval: Count | None = None,
    ) -> None:
        if interval <= 0:
            raise ValueError(f"evaluation interval {interval} must be positive (simulator steps per task)")
        self.make_env, self.episodes, self.play_floors = make_env, episodes, floors
        self.interval, self.path, self.seed = interval, Path(run_dir) / "eval.csv", evaluation_seed(seed)
        self.video_interval = video_interval
        self.rows: list[dict] = []
        self.floors: dict[str, dict[str, float]] = {}  # returns of "random" and "zero" actions, by task
        self.metrics: dict[str, float] = {}  # of the last evaluation, as sent to the loggers
        self.videos: dict[str, Path] = {}  # of the last evaluation, by task
        self.seconds = 0.0  # spent on evaluations since the process started
        self.started = time.monotonic()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.play_floors and not self.floors:
            with isolate_rng():
                self._find_floors(trainer, pl_module)
        if not self.rows and trainer.global_step:  # resumed from a start that had no evaluations
            rows = trainer.strategy.broadcast(_rows_until(trainer.global_step, self.path))
            if rows:
                self.load_state_dict({"rows": rows, "floors": self.floors})
        if not self.rows:
            self.evaluate(trainer, pl_module)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: object) -> None:
        now = find(trainer, Collect).env_steps_due(trainer)
        if self._passed(self.interval, now) or trainer.global_step == trainer.max_steps:
            self.evaluate(trainer, pl_module)

    def evaluated(self, trainer: L.Trainer) -> bool:
        """Whether this update has been evaluated."""
        return bool(self.rows) and self.rows[-1]["update"] == trainer.global_step

    def last_mean(self) -> float | None:
        """The mean return over tasks of the last evaluation; None before the first."""
        return self.rows[-1]["mean"] if self.rows else None

    def _passed(self, interval: int, now: int) -> bool:
        """Whether a multiple of ``interval`` lies between the last evaluation and ``now``."""
        return now // interval > self.rows[-1]["env_steps"] // interval

    def evaluate(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """One evaluation now, which leaves the random state of training unchanged."""
        with isolate_rng():
            self._evaluate(trainer, pl_module)

    def _evaluate(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        began = time.monotonic()
        with contextlib.closing(self._make_env(trainer)) as env:
            videos = self._recorder(trainer)
            record = videos.record(env) if videos else None
            scores = self._play(trainer, pl_module, env, find(trainer, Collect).actor, record)
            self.videos = _finished(videos, env.task_specs) if videos else {}
            self._record(trainer, env, *scores.unbind(1))
        self.seconds += time.monotonic() - began

    def _make_env(self, trainer: L.Trainer) -> MultiTaskEnv:
        return self.make_env(-(-self.episodes // trainer.world_size))

    def _play(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        env: MultiTaskEnv,
        actor: Actor,
        on_step: Callable[[Tensor], None] | None = None,
    ) -> Tensor:
        """Both returns and the success of an episode in every slot of every rank, [ranks, 3, slots]."""
        seed = rank_seed(self.seed, trainer.global_rank)
        episodes = play(env, actor, seed=seed, device=pl_module.device, on_step=on_step)
        scores = torch.stack([episodes.honoured, episodes.ignored, episodes.success.double()])  # [3, slots]
        if trainer.world_size > 1:
            scores = pl_module.all_gather(scores.to(pl_module.device)).cpu()
        return scores.reshape(-1, 3, env.num_slots)

    def _find_floors(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Plays random and zero actions, and keeps their returns up to the task's own termination."""
        began = time.monotonic()
        with contextlib.closing(self._make_env(trainer)) as env:
            actors = floor_actors(env.action_dims, env.action_dim)
            honoured = {name: self._play(trainer, pl_module, env, actor)[:, 0] for name, actor in actors.items()}
            for index, spec in enumerate(env.task_specs):
                slots = env.slot_task == index
                self.floors[spec.label] = {name: float(value[:, slots].mean()) for name, value in honoured.items()}
        self.seconds += time.monotonic() - began

    def _recorder(self, trainer: L.Trainer) -> EpisodeVideos | None:
        """The recorder of this evaluation's videos; None on other ranks and if no videos are due."""
        now, last = find(trainer, Collect).env_steps_due(trainer), trainer.global_step == trainer.max_steps
        if self.video_interval is None or not trainer.is_global_zero or not self.rows:
            return None
        folder = self.path.parent / "videos" / f"{now:09d}"
        return (
            EpisodeVideos(folder, *VIDEO_SIZE, fps=10, every=5, suffix=".gif")
            if last or self._passed(self.video_interval, now)
            else None
        )

    def _record(
        self, trainer: L.Trainer, env: MultiTaskEnv, honoured: Tensor, ignored: Tensor, success: Tensor
    ) -> None:
        """Writes and logs rows from the returns and successes of all ranks' slots, each [ranks, slots]."""
        env_steps = find(trainer, Collect).env_steps_due(trainer)
        mean = float(torch.stack([honoured[:, env.slot_task == i].mean() for i in range(len(env.task_specs))]).mean())
        rows = []
        for index, spec in enumerate(env.task_specs):
            slots = env.slot_task == index
            task_returns = honoured[:, slots]
            row = (
                env_steps,
                trainer.global_step,
                spec.label,
                float(task_returns.mean()),
                float(task_returns.std(unbiased=False)),
                float(ignored[:, slots].mean()),
                task_returns.numel(),
                float(success[:, slots].mean()) if spec.reports_success else None,
                mean,
            )
            rows.append(dict(zip(COLUMNS, row, strict=True)))
        self.rows += rows
        self.metrics = _metrics(rows) | {f"eval_faults/{name}": count for name, count in env.fault_counts().items()}
        progress = {"run/env_steps": float(env_steps), "run/updates": float(trainer.global_step)}
        for logger in trainer.loggers:
            logger.log_metrics(self.metrics | progress, step=env_steps)
        if trainer.is_global_zero:
            self._write()
            say(line(rows, time.monotonic() - self.started))

    def _write(self) -> None:
        rows = ({key: _rounded(value) for key, value in row.items()} for row in self.rows)
        with warned_of(self.path):  # the next evaluation writes all rows
            replace_text(self.path, csv_text(COLUMNS, rows))

    def state_dict(self) -> dict:
        return {"rows": self.rows, "floors": self.floors}

    def load_state_dict(self, state: dict) -> None:
        self.rows, self.floors = state["rows"], state.get("floors", {})
        for row in self.rows:  # older checkpoints have no mean
            if "mean" not in row:
                returns = [task["return"] for task in self.rows if task["update"] == row["update"]]
                row["mean"] = sum(returns) / len(returns)
        self.metrics = _metrics([row for row in self.rows if row["update"] == self.rows[-1]["update"]])


def _rows_until(update: int, curve: Path) -> list[dict[str, Any]]:
    """The rows of a curve up to an update; [] if there is no file."""
    if not curve.is_file():
        return []
    with open(curve, encoding="utf-8", newline="") as file:
        rows = [_typed(row) for row in csv.DictReader(file)]
    return [row for row in rows if row["update"] <= update]


def _typed(row: Mapping[str, str]) -> dict[str, Any]:
    """A row of a curve with numbers in place of text, those outside ``KINDS`` as float; None for an empty cell."""
    return {key: KINDS.get(key, float)(text) if text else None for key, text in row.items()}


def _metrics(rows: list[dict]) -> dict[str, float]:
    """The metrics of an evaluation by the names in the loggers, the mean first."""
    metrics = {"eval/mean": rows[0]["mean"]} | {f"eval/return/{row['task']}": row["return"] for row in rows}
    successes = {f"success/{row['task']}": row["success"] for row in rows if row.get("success") is not None}
    if successes:
        metrics["eval/success"] = sum(successes.values()) / len(successes)
    return metrics | successes


def _rounded(value: float | str | None) -> float | str | None:
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value


def line(rows: list[dict], seconds: float) -> str:
    """The line of an evaluation: its steps, the mean, the best and the worst task, the time since the start."""
    best, worst = (pick(rows, key=lambda row: row["return"]) for pick in (max, min))
    parts = [f"mean return {rows[0]['mean']:.1f}"]
    if len(rows) > 1:
        parts += [f"{name} {row['task']} {row['return']:.1f}" for name, row in (("best", best), ("worst", worst))]
    parts.append(f"after {timedelta(seconds=int(seconds))}")
    return f"evaluation at {rows[0]['env_steps']:,} steps: {' · '.join(parts)}"


def _finished(videos: EpisodeVideos, specs: list[TaskSpec]) -> dict[str, Path]:
    """The files by task; a warning and no files if nothing can be drawn."""
    try:
        files = videos.finish()
    except (ImportError, OSError) as error:
        rank_zero_warn(f"{error}; training continues")
        return {}
    return {spec.label: videos.file(spec) for spec in specs if videos.file(spec) in files}
