"""Medians of calls timed in turns, the floor of their FLOPs, and one line of a report."""

from __future__ import annotations

import dataclasses
import json
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.arguments import Arguments
from ezm_lightning.commands.printing import table

Call = Callable[[], object]
FEW = 3  # details that fit beside the other columns
PRODUCT = {"cpu": 1536, "cuda": 8192}  # side of the matrices of the large product


@dataclasses.dataclass
class Row:
    """What one size of one part took."""

    what: str
    size: str
    batch: int
    ms_median: float
    floor_ms: float
    share_of_floor: float = dataclasses.field(init=False)
    parameters: int | None  # of the network
    threads: int
    device: str
    versions: dict[str, str]
    peer: str | None = None
    peer_ms: float | None = None
    ratio: float | None = dataclasses.field(init=False)  # ours / the peer's
    details: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        self.share_of_floor = self.floor_ms / self.ms_median
        self.ratio = self.ms_median / self.peer_ms if self.peer_ms else None

    def as_json(self) -> str:
        """One JSON object; the peer's keys only where there is one."""
        entries = dataclasses.asdict(self)
        kept = {key: value for key, value in entries.items() if self.peer or key not in ("peer", "peer_ms", "ratio")}
        return json.dumps(kept | kept.pop("details"))


def measured(
    arguments: Arguments,
    *,
    size: str,
    batch: int,
    ms: float,
    floor: float,
    packages: Sequence[str] = (),
    parameters: int | None = None,
    peer: str | None = None,
    peer_ms: float | None = None,
    details: dict[str, Any] | None = None,
) -> Row:
    """A row of this machine, with the versions of Python, torch and ``packages``."""
    return Row(
        what=arguments.what,
        size=size,
        batch=batch,
        ms_median=ms,
        floor_ms=floor,
        parameters=parameters,
        threads=arguments.threads,
        device=device_name(arguments.device),
        versions={"python": platform.python_version()} | {name: version(name) for name in ("torch", *packages)},
        peer=peer,
        peer_ms=peer_ms if peer else None,
        details=details or {},
    )


class Timer:
    """Times calls in turns, so that whatever slows the machine slows all alike."""

    def __init__(self, *, repeats: int, clock: str, device: str) -> None:
        self.repeats, self.device = repeats, device
        self.clock = time.process_time if clock == "cpu" else time.perf_counter  # seconds, for what the host does

    def now(self) -> float:
        """Seconds, once the device has nothing left to do."""
        if self.device == "cuda":
            torch.cuda.synchronize()
        return self.clock()

    def medians(self, *calls: Call) -> list[float]:
        """Milliseconds of each call: the median of ``repeats`` turns, after one that is not counted."""
        times: list[list[float]] = [[] for _ in calls]
        for turn in range(self.repeats + 1):
            for call, kept in zip(calls, times, strict=True):
                start = self.now()
                call()
                if turn:
                    kept.append(1e3 * (self.now() - start))
        return [statistics.median(kept) for kept in times]


def large_product(device: str, dtype: torch.dtype) -> tuple[Call, float]:
    """A matrix product at the device's full rate, and its FLOPs."""
    n = PRODUCT[device]
    left, right = torch.randn(2, n, n, device=device, dtype=dtype)
    return lambda: left @ right, 2.0 * n**3


def count_flops(call: Call) -> float:
    """FLOPs of all matrix products of a call, forward and backward; what is compiled is counted as it was written."""
    with torch.compiler.set_stance("force_eager"), FlopCounterMode(display=False) as counter:
        call()
    return float(counter.get_total_flops())


def against_products(
    timer: Timer, call: Call, *peers: Call, flops: float, dtype: torch.dtype = torch.float32
) -> tuple[float, float, list[float]]:
    """Milliseconds of a call, of its FLOPs at the rate of a large product, and of its peers, all timed in turns."""
    product, product_flops = large_product(timer.device, dtype)
    ours, product_ms, *others = timer.medians(call, product, *peers)
    return ours, product_ms * flops / product_flops, others


def device_name(device: str) -> str:
    """What the device calls itself."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    except OSError:
        names = []
    return f"cpu ({names[0] if names else platform.processor() or platform.machine()})"


def report(rows: Sequence[Row], *, as_json: bool) -> None:
    """Prints the rows: a table, or one JSON object a line."""
    if as_json:
        for row in rows:
            print(row.as_json())
        return
    details = list(dict.fromkeys(name for row in rows for name in row.details))
    below = details if len(details) > FEW else []  # a table of their own: a line each
    details = [] if below else details
    peers = [] if all(row.peer is None for row in rows) else [f"ms {rows[0].peer}", "ratio"]
    columns = ["size", "batch", "ms", "floor ms", "share", *peers, *details]
    lines = [
        [
            *(
                row.size,
                row.batch,
                _number(row.ms_median),
                _number(row.floor_ms),
                _number(row.share_of_floor),
            ),
            *((_number(row.peer_ms), _number(row.ratio)) if peers else ()),
            *(_number(row.details.get(name)) for name in details),
        ]
        for row in rows
    ]
    first = rows[0]
    versions = ", ".join(f"{name} {number}" for name, number in first.versions.items())
    table(
        columns,
        lines,
        title=f"{first.what}: {first.device}, {first.threads} thread{'s' * (first.threads > 1)}, {versions}",
    )
    if below:
        table(
            ["", *(f"{row.size} {row.batch}" for row in rows)],
            [[name, *(_number(row.details.get(name)) for row in rows)] for name in below],
        )


def _number(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}"
    return "" if value is None else str(value)
