"""The parts of the check, in the order in which they are run: the most important ones first."""

from __future__ import annotations

from benchmarks.gpu_check import (
    agreement,
    compiling,
    copies,
    counts,
    engines,
    loop,
    memory,
    precision,
    throughput,
    timeline,
    training,
)
from benchmarks.gpu_check.finding import Part

PARTS: dict[str, Part] = {
    "counts": counts.findings,
    "results": agreement.findings,
    "precision": precision.findings,
    "copies": copies.findings,
    "memory": memory.findings,
    "throughput": throughput.findings,
    "loop": loop.findings,
    "timeline": timeline.findings,
    "resume": training.resume,
    "ranks": training.ranks,
    "engines": engines.findings,
    "compile": compiling.findings,  # may take all the remaining time
}
