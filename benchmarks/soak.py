"""Trains for many updates and shows whether memory grows once the replay is full.

    python -m benchmarks.soak                                      # the demo, 20,000 updates (half an hour)
    python -m benchmarks.soak updates=300 experiment=debug tasks=cartpole

Takes the overrides of ``ezm train``; the experiment is the demo where none is given. A task's replay holds as many
transitions as a tenth of the updates brings. Samples the resident memory of the process a hundred times from then on,
prints the first, the last and the largest sample and the slope, and ends with status 1 where the largest is more than
2 % above the first.
"""

from __future__ import annotations

import gc
import sys
from dataclasses import dataclass
from typing import Any

import lightning as L
import numpy as np
import psutil

from ezm_lightning.callbacks.progress import ProgressBar
from ezm_lightning.commands import train
from ezm_lightning.config.compose import compose_checked
from ezm_lightning.config.folder import config_dir
from ezm_lightning.config.overrides import rewrite
from ezm_lightning.module import EZM

UPDATES, SAMPLES, ALLOWED = 20_000, 100, 0.02
MIB = 2**20


@dataclass
class Memory:
    """Resident sizes in bytes, by update."""

    updates: list[int]
    sizes: list[int]

    def growth(self) -> float:
        """By how much the largest size is above the first, as a share of it."""
        return max(self.sizes) / self.sizes[0] - 1

    def slope(self) -> float:
        """Bytes an update, fitted to all samples."""
        return float(np.polyfit(self.updates, self.sizes, 1)[0])

    def __str__(self) -> str:
        first, last, largest = (size / MIB for size in (self.sizes[0], self.sizes[-1], max(self.sizes)))
        return (
            f"resident memory from update {self.updates[0]:,} to {self.updates[-1]:,}: first {first:.1f} MiB, last "
            f"{last:.1f} ({last / first - 1:+.2%}), largest {largest:.1f} ({self.growth():+.2%}), slope "
            f"{self.slope() * 1000 / MIB:+.3f} MiB per 1,000 updates, {len(self.sizes)} samples; every tenth "
            + " ".join(f"{size / MIB:.0f}" for size in self.sizes[::10])
        )


class Watch(ProgressBar):
    """The progress bar, which samples once the replay is full."""

    memory = Memory([], [])

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: EZM, *arguments: Any) -> None:
        super().on_train_batch_end(trainer, pl_module, *arguments)
        replay, step = trainer.datamodule.replay, trainer.global_step
        full = replay.num_transitions.min() >= replay.writer.length * replay.slots_per_task
        if full and step % max(trainer.max_steps // SAMPLES, 1) == 0:
            gc.collect()
            self.memory.updates.append(step)
            self.memory.sizes.append(psutil.Process().memory_info().rss)


def budget(updates: int, overrides: list[str]) -> list[str]:
    """The overrides that spend so many updates, with a replay that a tenth of them fills."""
    cfg = compose_checked("train", rewrite(overrides, config_dir()), config_dir())
    steps = -(-updates * cfg.env_steps_per_update // len(cfg.tasks.names))
    capacity = (cfg.warmup_env_steps + steps // 10) // cfg.tasks.action_repeat
    return [f"env_steps_per_task={cfg.warmup_env_steps + steps}", f"replay.capacity={capacity}"]


def main(arguments: list[str]) -> int:
    updates = next((int(text.partition("=")[2]) for text in arguments if text.startswith("updates=")), UPDATES)
    overrides = [text for text in arguments if not text.startswith("updates=")]
    if not any(text.startswith("experiment=") for text in overrides):
        overrides = ["experiment=demo", *overrides]
    watch = f"callbacks.progress._target_={Watch.__module__}.{Watch.__qualname__}"
    status = train.main([*overrides, watch, *budget(updates, overrides)])
    memory = Watch.memory
    if status or len(memory.sizes) < 2:
        return status or 1
    print(memory)
    return int(memory.growth() > ALLOWED)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
