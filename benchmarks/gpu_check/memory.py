"""The memory of an update: the plan before training, and the measured peak."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from benchmarks.gpu_check.finding import Finding, Sizes
from benchmarks.memory import Peak
from benchmarks.sizes import config, make_learner, windows
from benchmarks.update import Update
from ezm_lightning.build import make_module
from ezm_lightning.memory_plan import MemoryPlan, available_bytes, gigabytes
from ezm_lightning.module import EZM

ABOVE = 1.25  # the peak as a multiple of the plan, at most
FULL = 0.9  # of the device's memory


def findings(sizes: Sizes) -> Iterator[Finding]:
    """Every preset, at its own batch size."""
    for preset in sizes.presets:
        yield of_preset(preset, sizes)


def of_preset(preset: str, sizes: Sizes) -> Finding:
    """Two updates with their targets against the plan's parts on the device; replay is left out."""
    cfg = config(preset, *sizes.overrides, device=sizes.device)
    with torch.device("meta"):
        planned_module = make_module(cfg)
    assert isinstance(planned_module, EZM)
    parts = planned_module.memory_parts(cfg.batch_size, device=sizes.device, own_weights=cfg.collect.overlap)
    plan = MemoryPlan(parts)
    planned = plan.total(sizes.device) - (plan.held if sizes.device == "cpu" else 0)
    free = available_bytes(sizes.device)
    peak = _peak(preset, sizes)
    large = sizes.device == "cuda" and peak > ABOVE * planned
    full = peak > FULL * free
    return Finding(
        "memory",
        f"Memory of an update, {preset}",
        "look" if large or full else "ok",
        f"planned {gigabytes(planned)}, taken {gigabytes(peak)} of {gigabytes(free)} that were free",
        f"batch_size={cfg.batch_size // 2}" if full else "",
        {"planned_bytes": planned, "peak_bytes": peak, "free_bytes": free},
    )


def _peak(preset: str, sizes: Sizes) -> int:
    """Bytes: of tensors on a GPU; on a CPU the growth of the whole process."""
    cfg = config(preset, *sizes.overrides, device=sizes.device)
    watch = Peak()
    before = watch.process.memory_info().rss
    watch.start()
    module = make_learner(cfg, sizes.device)
    if sizes.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    update = Update(cfg, module, windows(cfg, cfg.batch_size, sizes.device))
    for _ in range(2):
        update()
    if sizes.device == "cuda":
        return torch.cuda.max_memory_allocated()
    return max(0, watch.size - before)
