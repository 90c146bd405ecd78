"""Compares the memory that ``ezm train`` prints beforehand with what the run takes at its peak.

    python -m benchmarks.memory experiment=humanoidbench_medium trainer=cpu batch_size=36 …

Takes the overrides of ``ezm train``. The peak is the largest resident size of the process, sampled every 20 ms; replay
counts as far as it is written, so choose a capacity that the run fills.
"""

from __future__ import annotations

import sys
import threading
import time
from typing import Any

import psutil

from ezm_lightning import build
from ezm_lightning.commands import train
from ezm_lightning.memory_plan import MemoryPlan, gigabytes


class Peak(threading.Thread):
    """Watches the resident size of this process; ``size`` is the largest seen, in bytes."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.process, self.size = psutil.Process(), 0

    def run(self) -> None:
        while True:
            self.size = max(self.size, self.process.memory_info().rss)
            time.sleep(0.02)


def main(overrides: list[str]) -> int:
    plans: list[MemoryPlan] = []
    make = build.make_memory_plan

    def kept(*arguments: Any) -> MemoryPlan:
        plans.append(make(*arguments))
        return plans[-1]

    build.make_memory_plan = kept
    peak = Peak()
    peak.start()
    status = train.main(overrides)
    if status or not plans:
        return status or 1
    printed = plans[0].total("cpu")
    print(f"printed {gigabytes(printed)}, taken {gigabytes(peak.size)}: {printed / peak.size - 1:+.1%}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
