"""Runs one part in a process: ``python -m benchmarks.gpu_check.part NAME DEVICE OUT FILE``.

After a kernel has failed a process cannot use its GPU, and a compiler may not end. So each part has a process. It
writes each finding as a line of FILE at once.
"""

from __future__ import annotations

import dataclasses
import sys
import traceback
from pathlib import Path

import torch

from benchmarks.gpu_check.finding import Finding, sizes
from benchmarks.gpu_check.parts import PARTS
from ezm_lightning.commands.train import quiet
from ezm_lightning.errors import kind_and_line


def main(name: str, device: str, out: str, file: str) -> int:
    """Runs a part; an error is its last finding."""
    quiet()
    if device == "cpu":
        torch.set_num_threads(1)
    with Path(file).open("a", encoding="utf-8") as lines:
        try:
            for finding in PARTS[name](dataclasses.replace(sizes(device), out=Path(out))):
                print(finding.as_json(), file=lines, flush=True)
        except Exception as error:  # any error is reported on the page
            traceback.print_exc()
            print(Finding(name, f"The part {name}", "failed", kind_and_line(error)).as_json(), file=lines, flush=True)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
