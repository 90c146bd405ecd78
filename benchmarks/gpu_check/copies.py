"""Whether a batch is copied to the device from pinned memory, and the time that is saved."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from benchmarks.gpu_check.finding import Finding, Sizes
from benchmarks.measure import Timer
from benchmarks.sizes import config, make_learner, windows
from ezm_lightning.module import EZM
from ezm_lightning.types import Batch

SLOW_GBPS = 3.0  # PCIe 3 gives 12 GB/s from pinned memory


def findings(sizes: Sizes) -> Iterator[Finding]:
    """One batch of the largest preset: the same content, then the time of both ways."""
    cfg = config(sizes.largest, *sizes.overrides)
    batch, module = windows(cfg, cfg.batch_size, "cpu"), make_learner(cfg, sizes.device)
    yield content(batch, module)
    timer = Timer(repeats=sizes.repeats, clock="wall", device=sizes.device)
    ours, plain = timer.medians(lambda: send(module, batch), lambda: batch.to(sizes.device))
    if sizes.device == "cpu":
        yield Finding("copies", "Copies from pinned memory", "skipped", "the batch stays on the CPU: there is no copy")
        return
    megabytes = sum(x.nbytes for x in batch.values(include_nested=True, leaves_only=True)) / 1e6
    rate = megabytes / ours
    yield Finding(
        "copies",
        "Copies from pinned memory",
        "ok" if rate >= SLOW_GBPS else "look",
        f"{megabytes:.1f} MB in {ours:.2f} ms with pinning ({rate:.1f} GB/s), in {plain:.2f} ms without",
        "" if rate >= SLOW_GBPS else "replay.device=cuda",
        {"megabytes": megabytes, "pinned_ms": ours, "plain_ms": plain},
    )


def send(module: EZM, batch: Batch) -> Batch:
    """The batch as training gets it."""
    return module.transfer_batch_to_device(batch, module.device, 0)


def content(batch: Batch, module: EZM) -> Finding:
    """Whether copies are equal to their source, also if the source is replaced at once."""
    copies = [send(module, batch) for _ in range(3)]
    if module.device.type == "cuda":
        torch.cuda.synchronize()
    same = all(
        torch.equal(x.cpu(), y)
        for copy in copies
        for x, y in zip(
            copy.values(include_nested=True, leaves_only=True),
            batch.values(include_nested=True, leaves_only=True),
            strict=True,
        )
    )
    return Finding(
        "copies",
        "The content of copied batches",
        "ok" if same else "wrong",
        "three copies in a row arrive as they were sent" if same else "a copy arrives with other numbers",
        "" if same else "replay.device=cuda",
    )
