"""Whether tasks agree on the direction of an update: cosines between their gradients (EZ-M, figure 3)."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import lightning as L
import torch
from torch import Tensor, nn

from ezm_lightning.callbacks import find_or_none
from ezm_lightning.callbacks.collect import Collect
from ezm_lightning.checkpoints.runs import run_of
from ezm_lightning.checkpoints.text_file import csv_text, replace_text, warned_of
from ezm_lightning.ranges import Count
from ezm_lightning.types import Batch

COLUMNS = ("env_steps", "update", "part", "task_a", "task_b", "cosine")


def task_gradients(
    window_loss: Tensor, task: Tensor, parts: dict[str, list[nn.Parameter]]
) -> dict[str, dict[int, Tensor]]:
    """{part: {task: gradient of the task's windows' losses with respect to the part's parameters, one vector}}.

    ``window_loss`` [B] belongs to windows of tasks ``task`` [B]. Its graph is kept, and no ``.grad`` is changed.
    """
    learned = {name: [p for p in parameters if p.requires_grad] for name, parameters in parts.items()}
    every = [p for parameters in learned.values() for p in parameters]
    result: dict[str, dict[int, Tensor]] = {name: {} for name in learned}
    for index in task.unique().tolist():
        task_loss = window_loss[task == index].sum()
        gradients = iter(torch.autograd.grad(task_loss, every, retain_graph=True, materialize_grads=True))
        for name, parameters in learned.items():
            result[name][index] = torch.cat([next(gradients).flatten() for _ in parameters])
    return result


def pair_cosines(gradients: dict[int, Tensor]) -> dict[tuple[int, int], float]:
    """The cosine of each pair of tasks, the lower index first; NaN if a gradient is 0."""
    tasks = sorted(gradients)
    stacked = torch.stack([gradients[task] for task in tasks])  # [T, P]
    unit = stacked / stacked.norm(dim=1, keepdim=True)
    cosines = (unit @ unit.T).tolist()
    return {(tasks[i], tasks[j]): cosines[i][j] for i, j in combinations(range(len(tasks)), 2)}


class GradientSimilarity(L.Callback):
    """Compares the tasks' gradients every ``interval`` updates: all pairs go to ``gradient_similarity.csv`` in the
    run's folder, the mean over pairs of each part of the learner to the loggers.

    The gradients are those of the update's own batch (with several ranks, of the first rank's share): one backward pass
    per task through the graph of the update. Training is unchanged, bit for bit. The learner must have
    ``gradient_parts()``.
    """

    def __init__(self, task_names: Sequence[str], *, run_dir: str | Path, interval: Count = 500) -> None:
        if len(task_names) < 2:
            raise ValueError(f"callbacks.gradient_similarity compares tasks, the run has only {list(task_names)}")
        self.task_names, self.interval = list(task_names), interval
        self.path = Path(run_dir) / "gradient_similarity.csv"

    def check_learner(self, module: L.LightningModule) -> None:
        """Raises ValueError for a learner whose gradients cannot be compared."""
        if not hasattr(module, "gradient_parts"):
            raise ValueError(
                f"callbacks.gradient_similarity needs a learner with gradient_parts(), {type(module).__name__} has "
                "none: see ezm_lightning.acting"
            )
        module.gradient_parts()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Keeps the rows up to the checkpoint of a resumed run, also of one that resumes in a new folder."""
        if not trainer.is_global_zero:
            return
        rows, earlier = [], self.path
        if not earlier.exists() and trainer.ckpt_path is not None:
            earlier = run_of(Path(trainer.ckpt_path)) / self.path.name
        if earlier.exists():
            with open(earlier, newline="") as file:
                rows = [row for row in csv.DictReader(file) if _complete(row)]
        rows_before = [row for row in rows if int(row["update"]) <= trainer.global_step]
        replace_text(self.path, csv_text(COLUMNS, rows_before))

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        self._task = batch.task

    def on_before_backward(self, trainer: L.Trainer, pl_module: L.LightningModule, loss: Tensor) -> None:
        update = trainer.global_step + 1
        if update % self.interval == 0 and trainer.is_global_zero:
            gradients = task_gradients(pl_module.window_loss, self._task, pl_module.gradient_parts())
            self._record(trainer, update, {part: pair_cosines(by_task) for part, by_task in gradients.items()})

    def _record(self, trainer: L.Trainer, update: int, cosines: dict[str, dict[tuple[int, int], float]]) -> None:
        collect = find_or_none(trainer, Collect)
        env_steps = int(collect.env_steps_after(update)) if collect is not None else update
        rows, means = [], {}
        for part, pairs in cosines.items():
            finite = {pair: cosine for pair, cosine in pairs.items() if cosine == cosine}
            for (a, b), cosine in finite.items():
                names = (self.task_names[a], self.task_names[b])
                rows.append(dict(zip(COLUMNS, (env_steps, update, part, *names, f"{cosine:.4f}"), strict=True)))
            if finite:
                means[f"gradient_similarity/{part}"] = sum(finite.values()) / len(finite)
        with warned_of(self.path), open(self.path, "a", newline="") as file:
            file.write(csv_text(COLUMNS, rows, header=False))
        for logger in trainer.loggers:
            logger.log_metrics(means, step=env_steps)


def _complete(row: dict[str, str]) -> bool:
    """Whether all columns of a row were written."""
    return None not in row and all(row.get(column) is not None for column in COLUMNS) and row["cosine"] != ""
