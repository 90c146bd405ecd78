"""What the first person with a GPU types: it checks results, speed and memory there, and says what to change.

  python -m benchmarks.gpu_check                   ten minutes on the first GPU; without one on the CPU, at small size
  python -m benchmarks.gpu_check minutes=30        compiling may need longer
  python -m benchmarks.gpu_check only=counts       a part, or several: only=results,precision
  python -m benchmarks.gpu_check device=cpu        everything at small size
  python -m benchmarks.gpu_check out=FOLDER        where index.html and findings.json go; gpu_check/ by default

The parts, in the order in which they are run (each in a process of its own, in the minutes that are left):

  counts      kernels, host-device waits and bytes of a search and of an update under fake CUDA tensors; needs no GPU
  results     a search, targets and one update against the CPU, in float32
  precision   a trained agent's search in float16 and bfloat16, an update in bfloat16
  copies      batches from pinned memory: the same content, and the rate
  memory      what the plan says beside the peak
  throughput  searches, updates, targets, simulators and replay, each alone
  loop        all of it together for Medium and Hard, and the hours that their budgets would take
  timeline    the phases of one update, its longest kernels, how busy the GPU is
  resume      a run that is stopped and resumed against one that is not
  ranks       two ranks over NCCL, where there are two GPUs
  engines     the search by ONNX Runtime
  compile     torch.compile's modes for searches and for updates

Each finding has a verdict and, where something should be changed, the override to type. Status 1: something is wrong.
"""

from __future__ import annotations

import sys

from ezm_lightning.errors import asks_for_help, refuse

__all__ = ["main"]


def main(argv: list[str] | None = None) -> int:
    """Check and write the page; 2 for a mistake in the arguments, explained in one line on stderr."""
    given = sys.argv[1:] if argv is None else argv
    if asks_for_help(given):
        print(__doc__)
        return 0
    from benchmarks.gpu_check import arguments, run

    try:
        return run.run(arguments.parse(given))
    except (ValueError, OSError) as error:
        return refuse(error)
