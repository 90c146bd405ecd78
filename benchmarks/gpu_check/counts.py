"""Kernels, waits and bytes against the recorded ones (``counts.json``); needs no GPU."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_check.counting import Counted, count
from benchmarks.gpu_check.finding import Finding, Sizes

BASELINE = Path(__file__).with_name("counts.json")
SLACK = 1.02  # torch versions differ by a few kernels


def findings(sizes: Sizes) -> Iterator[Finding]:
    """One finding for a search and one for an update of each preset."""
    known = json.loads(BASELINE.read_text(encoding="utf-8"))
    for preset in sizes.presets:
        try:
            counted = count(preset)
        except ImportError as error:
            yield Finding("counts", f"Kernels of {preset}", "skipped", str(error))
            continue
        for name, counts in counted.items():
            yield compared(preset, name, counts, known["counts"][preset][name])


def compared(preset: str, name: str, counted: Counted, known: dict[str, Any]) -> Finding:
    """The counts against the recorded ones."""
    now = asdict(counted.counts)
    more = [f"{key} {now[key]:,} against {known[key]:,}" for key in now if now[key] > known[key] * _slack(key)]
    result = f"{now['kernels']:,} kernels, {now['waits']} waits, {now['megabytes']:,} MB read and written"
    if more:
        result += f"; more than it needs: {', '.join(more)}"
    waits = f" (waits: {', '.join(f'{n} × {op}' for op, n in counted.waits.items())})" if counted.waits else ""
    what = {"search": "A search for acting", "update": "An update with its targets"}[name]
    return Finding("counts", f"{what}, {preset}", "look" if more else "ok", result + waits, figures=now)


def _slack(key: str) -> float:
    return 1.0 if key == "waits" else SLACK


def main() -> None:
    """Records the counts of this version."""
    presets = ("demo", "medium", "hard")
    counts = {preset: {name: asdict(counted.counts) for name, counted in count(preset).items()} for preset in presets}
    text = json.dumps({"torch": torch.__version__.partition("+")[0], "counts": counts}, indent=2)
    BASELINE.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
