"""Measures a part of the system against its floor on this machine: a table, or JSON.

  python -m benchmarks search size=hard batch=1,9,64   plans of 32 simulations, by number of roots
  python -m benchmarks search size=small against=mctx  and the mctx package's, in turns, on a network of equal FLOPs
  python -m benchmarks update size=hard batch=64       an update on given targets: unroll, losses, backward, Adam
  python -m benchmarks reanalyze size=hard batch=16    the targets of 16 windows: fresh searches and TD values
  python -m benchmarks decision against=tdmpc2 source=DIR
                                                       plan and update of a decision of experiment=dmc_cpu, and of a
                                                       clone of TD-MPC2 with its own batch; task=dmc/walker-walk
  python -m benchmarks replay against=index_select     a draw of windows; capacity=1000000 transitions a task, 9 tasks
  python -m benchmarks env task=dmc/walker-walk        a vector step; its floor is the simulator's own step in a loop;
                                                       action_repeat=2 as the Control Suite's presets have it
  python -m benchmarks collect size=demo batch=4       a vector step with its search, stored in replay
  python -m benchmarks train size=demo updates=200     the whole loop: rates, and who waits for whom
  python -m benchmarks trained ckpt_path=RUN           losses and gradients of a checkpoint, and its plans, on its
                                                       replay; and without flushing denormal numbers to zero, in turns

Sizes: hard and medium (HumanoidBench, the paper's network), small (hidden 128, Medium's tasks), demo, dmc_cpu. Every
what takes

  repeats=7       the median is taken of so many calls (5 at least), after one that is not counted
  threads=1       of PyTorch, and of the peer
  device=cpu      or cuda
  clock=wall      or cpu, the processor time of this process: for a machine that is busy with other work
  json=true       one JSON object a line in place of the table

and search, update and reanalyze compile=reduce-overhead (CUDA graphs), default or max-autotune: modes of torch.compile.

The floor of a network is its FLOPs, counted from the layers of the plain model (all value heads), at the rate of a
large matrix product that is timed between the calls, on the same device and in the same dtype, which is that of
training: float32 on a CPU; on a GPU float16 for searches (dtype=float32 for others) and bfloat16 for updates. share =
floor / time; ratio = time / peer's time, the two timed in turns.
"""

from __future__ import annotations

import sys

from ezm_lightning.errors import asks_for_help, refuse

__all__ = ["main"]


def main(argv: list[str] | None = None) -> int:
    """Measure and print; 2 for a mistake in the arguments or a missing peer, explained in one line on stderr."""
    from benchmarks import arguments, run

    given = sys.argv[1:] if argv is None else argv
    if asks_for_help(given):
        print(__doc__)
        return 0
    try:
        run.run(arguments.parse(given))
    except (ValueError, ImportError, FileNotFoundError) as error:
        return refuse(error)
    return 0
