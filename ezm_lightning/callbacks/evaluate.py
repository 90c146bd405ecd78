"""Evaluation during training: fixed episodes of every task, a row each in ``eval.csv``, a scalar in every logger."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable
from pathlib import Path

import lightning as L
import torch
from torch import Tensor

from ezm_lightning.callbacks import find
from ezm_lightning.callbacks.collect import Collect
from ezm_lightning.envs.multitask import MultiTaskEnv
from ezm_lightning.evaluation.episodes import EVALUATION_SEED, chooser, run_episodes
from ezm_lightning.ranges import Count

COLUMNS = ("env_steps", "update", "task", "return", "return_std", "return_ignoring_termination", "episodes", "success")


class Evaluate(L.Callback):
    """Plays episodes with what collects every ``interval`` simulator steps a task, before and after training.

    ``make_env`` makes an environment of as many slots a task with ``ignore_termination=True``, so that one episode
    scores both termination protocols. It is made anew each time from ``seed``, so the same initial states are played
    every time. Every rank plays such an environment, from its own seed; the rows are of all their episodes.
    """

    def __init__(
        self,
        make_env: Callable[[int], MultiTaskEnv],
        *,
        interval: Count,
        episodes: Count,
        run_dir: str | Path,
        seed: int = 0,
    ) -> None:
        if interval <= 0:
            raise ValueError(f"evaluation interval {interval} must be positive (simulator steps a task)")
        self.make_env, self.episodes = make_env, episodes
        self.interval, self.path, self.seed = interval, Path(run_dir) / "eval.csv", seed + EVALUATION_SEED
        self.rows: list[dict] = []
        self.metrics: dict[str, float] = {}  # of the last evaluation, as the loggers got them

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not self.rows:
            self.evaluate(trainer, pl_module)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: object) -> None:
        last, now = self.rows[-1]["env_steps"], find(trainer, Collect).env_steps_due(trainer)
        if now // self.interval > last // self.interval or trainer.global_step == trainer.max_steps:
            self.evaluate(trainer, pl_module)

    def evaluate(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """One evaluation now."""
        env, seed = self.make_env(-(-self.episodes // trainer.world_size)), self.seed + 1000 * trainer.global_rank
        env.set_seed(seed)
        generator = torch.Generator(device=pl_module.device).manual_seed(seed)  # evaluating does not change training
        mine = run_episodes(env, chooser(find(trainer, Collect).actor, generator))
        scores = torch.stack([mine.honoured, mine.ignored, mine.success.double()])  # [3, slots]
        if trainer.world_size > 1:
            scores = pl_module.all_gather(scores.to(pl_module.device)).cpu()
        self._record(trainer, env, *scores.reshape(-1, 3, env.num_slots).unbind(1))
        env.close()

    def _record(
        self, trainer: L.Trainer, env: MultiTaskEnv, honoured: Tensor, ignored: Tensor, success: Tensor
    ) -> None:
        """Rows from the returns and successes of all ranks' slots, each [ranks, slots]."""
        metrics: dict[str, float] = {}
        successes: dict[str, float] = {}
        env_steps = find(trainer, Collect).env_steps_due(trainer)
        for index, spec in enumerate(env.task_specs):
            mine = env.slot_task == index
            own = honoured[:, mine]
            succeeded = float(success[:, mine].mean()) if spec.reports_success else None
            row = (
                env_steps,
                trainer.global_step,
                spec.label,
                float(own.mean()),
                float(own.std(unbiased=False)),
                float(ignored[:, mine].mean()),
                own.numel(),
                succeeded,
            )
            self.rows.append(dict(zip(COLUMNS, row, strict=True)))
            metrics[f"eval/{spec.label}"] = row[3]
            if succeeded is not None:
                successes[f"success/{spec.label}"] = succeeded
        metrics["eval/mean"] = float(torch.tensor(list(metrics.values())).mean())
        metrics |= successes | {f"eval_faults/{name}": count for name, count in env.fault_counts().items()}
        self.metrics = metrics
        for logger in trainer.loggers:
            logger.log_metrics(metrics, step=trainer.global_step)
        if trainer.is_global_zero:
            self._write()

    def _write(self) -> None:
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        temporary = self.path.with_suffix(".csv.tmp")
        temporary.write_text(text.getvalue())
        os.replace(temporary, self.path)

    def state_dict(self) -> dict:
        return {"rows": self.rows}

    def load_state_dict(self, state: dict) -> None:
        self.rows = state["rows"]
