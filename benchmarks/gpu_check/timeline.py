"""Where the time of one update goes: its phases, its longest kernels, and whether the device waits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu_check.finding import Finding, Sizes
from benchmarks.sizes import TRAINERS, config, make_learner, windows
from benchmarks.update import PHASES, Update

WARM = 3  # updates before the measured one
BUSY = 0.7  # share of an update in which the device should compute
LONGEST = 12  # kernels that are listed
TRACE = "update.trace.json"


def findings(sizes: Sizes) -> Iterator[Finding]:
    """One update of the largest preset under PyTorch's profiler; the trace opens in ui.perfetto.dev."""
    assert sizes.device in TRAINERS
    cfg = config(sizes.largest, *sizes.overrides, device=sizes.device)
    module = make_learner(cfg, sizes.device)
    update = Update(cfg, module, windows(cfg, cfg.batch_size, sizes.device))
    for _ in range(WARM):
        update()
    yield from read(profiled(update, sizes), sizes)


def profiled(update: Update, sizes: Sizes) -> profile:
    """The profile of one update; its trace is written beside the page."""
    on_gpu = sizes.device == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=activities) as recorded:
        update()
        if on_gpu:
            torch.cuda.synchronize()
    sizes.out.mkdir(parents=True, exist_ok=True)
    recorded.export_chrome_trace(str(sizes.out / TRACE))
    return recorded


def read(recorded: profile, sizes: Sizes) -> Iterator[Finding]:
    """The phases, and how busy the device is."""
    events: Any = recorded.events()
    phases = {name: _host_ms(events, name) for name in PHASES}
    whole = sum(phases.values())
    shares = ", ".join(f"{name.replace('_', ' ')} {ms:.1f} ms" for name, ms in phases.items())
    yield Finding(
        "timeline",
        f"Phases of an update, {sizes.largest}",
        "ok",
        f"{shares} on the host under the profiler; the trace is in {TRACE}",
        figures={"phases_ms": phases},
    )
    kernels = longest(events, sizes.device)
    figures = {"longest_ms": dict(kernels.most_common(LONGEST))}
    if sizes.device == "cpu":
        yield Finding("timeline", "Operations that take longest", "ok", "see the table", figures=figures)
        return
    device_ms = kernels.total()
    span = max(whole, _device_span_ms(events))
    busy = device_ms / span
    yield Finding(
        "timeline",
        "How busy the GPU is",
        "ok" if busy >= BUSY else "look",
        f"kernels take {device_ms:.1f} of {span:.1f} ms ({busy:.0%}); in the rest it waits for the host",
        "" if busy >= BUSY else "'module.compile={mode: reduce-overhead, dynamic: false}'",
        {"busy": busy, **figures},
    )


def _host_ms(events: Any, name: str) -> float:
    return sum(event.cpu_time_total for event in events if event.name == name and not _on_gpu(event)) / 1e3


def _on_gpu(event: Any) -> bool:
    return event.device_type == torch.autograd.DeviceType.CUDA


def _device_span_ms(events: Any) -> float:
    ranges = [event.time_range for event in events if _on_gpu(event)]
    return (max(x.end for x in ranges) - min(x.start for x in ranges)) / 1e3 if ranges else 0.0


def longest(events: Any, device: str) -> Counter[str]:
    """Milliseconds by kernel on a GPU, by operation (without those inside it) on a CPU."""
    milliseconds: Counter[str] = Counter()
    for event in events:
        if event.name in PHASES or getattr(event, "is_user_annotation", False):  # spans around kernels
            continue
        if device == "cuda" and _on_gpu(event):
            milliseconds[event.name] += event.time_range.elapsed_us() / 1e3
        elif device == "cpu":
            milliseconds[event.name] += event.self_cpu_time_total / 1e3
    return milliseconds
