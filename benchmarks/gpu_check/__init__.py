"""Checks results, speed and memory on a GPU, and says which keys to change.

  python -m benchmarks.gpu_check                   ten minutes on the first GPU, or at small size on the CPU
  python -m benchmarks.gpu_check minutes=30        compiling may need longer
  python -m benchmarks.gpu_check only=counts       a part, or several: only=results,precision
  python -m benchmarks.gpu_check device=cpu        everything at small size
  python -m benchmarks.gpu_check out=FOLDER        where index.html and findings.json go; gpu_check/ by default

The parts, in the order in which they are run (each in a process, within the remaining minutes):

  counts      kernels, host-device waits and bytes of a search and of an update under fake CUDA tensors; needs no GPU
  results     a search, targets and one update against the CPU, in float32
  precision   a trained agent's search in float16 and bfloat16, an update in bfloat16
  copies      batches from pinned memory: the same content, and the rate
  memory      the planned memory and the peak
  throughput  searches, updates, targets, simulators and replay, each alone
  loop        whole runs of Medium and Hard, and the predicted hours of their budgets
  timeline    the phases of one update, its longest kernels, how busy the GPU is
  resume      a run that is stopped and resumed against an uninterrupted run
  ranks       two ranks over NCCL, if there are two GPUs
  engines     the search by ONNX Runtime
  compile     torch.compile's modes for searches and for updates

Each finding has a verdict and, if a key should be changed, the override to type. Status 1: something is wrong.
"""

from __future__ import annotations

import sys

from ezm_lightning.errors import asks_for_help, refuse

__all__ = ["main"]


def main(argv: list[str] | None = None) -> int:
    """Checks and writes the page. Returns the exit status; 2, with one line on stderr, for a wrong argument."""
    given = sys.argv[1:] if argv is None else argv
    if asks_for_help(given):
        print(__doc__)
        return 0
    from benchmarks.gpu_check import arguments, run

    try:
        return run.run(arguments.parse(given))
    except (ValueError, OSError) as error:
        return refuse(error)
