"""The whole loop of each preset: simulators, acting, replay, targets and updates; and the hours it predicts."""

from __future__ import annotations

import os
from collections.abc import Iterator

from benchmarks import arguments
from benchmarks.gpu_check.finding import Finding, Sizes
from benchmarks.loop import train_row
from benchmarks.measure import Row, Timer
from benchmarks.sizes import config
from ezm_lightning.build import num_updates
from ezm_lightning.errors import first_line

WAITS = 0.3  # share of the time in which the learner may wait
WARMUP = {"cuda": 200, "cpu": 100}  # simulator steps per task, so that the loop starts soon


def findings(sizes: Sizes) -> Iterator[Finding]:
    """Every preset; its simulators may be missing."""
    for preset in sizes.presets:
        try:
            yield of_preset(preset, sizes)
        except (ValueError, FileNotFoundError) as error:
            yield Finding("loop", f"The whole loop of {preset}", "skipped", first_line(error))


def of_preset(preset: str, sizes: Sizes) -> Finding:
    """A short run without evaluations, logs and checkpoints."""
    keys = ["train", f"size={preset}", f"updates={sizes.updates}", f"device={sizes.device}"]
    given = arguments.parse([*keys, f"repeats={sizes.repeats}"])
    timer = Timer(repeats=given.repeats, clock=given.clock, device=given.device)
    row = train_row(given, timer, f"warmup_env_steps={WARMUP[sizes.device]}")
    return judged(preset, row, sizes)


def judged(preset: str, row: Row, sizes: Sizes) -> Finding:
    """Rates, the predicted hours of the whole budget, and the share of the time in which the learner waits."""
    cfg = config(preset, device=sizes.device)
    rate, waits = 1e3 / row.ms_median, row.details["learner_waits_share"]  # the first updates take longer
    hours = num_updates(cfg) / rate / 3600
    threads = min(os.cpu_count() or 1, 16)
    slow = sizes.device == "cuda" and waits > WAITS
    override = f"env_threads={threads}" if slow and threads > cfg.env_threads else ""
    if slow and not cfg.collect.overlap:
        override = "collect.overlap=true"
    return Finding(
        "loop",
        f"The whole loop of {preset}",
        "look" if slow else "ok",
        f"{rate:.2f} updates and {row.details['env_steps_per_s']:,.0f} simulator steps a second;"
        f" {num_updates(cfg):,} updates would take {hours:.1f} hours, evaluations not counted;"
        f" the learner waits for {waits:.0%} of the time",
        override,
        {**row.details, "updates_per_s": rate, "predicted_hours": hours},
    )
