"""From arguments to rows: sets the threads, asks the part's own file, prints."""

from __future__ import annotations

import os
from collections.abc import Callable

import torch

from benchmarks import learner, loop, replay, search, trained
from benchmarks.arguments import Arguments
from benchmarks.measure import Row, Timer, report
from ezm_lightning.commands.train import quiet

PARTS: dict[str, Callable[[Arguments, Timer], list[Row]]] = {
    "search": search.rows,
    "update": learner.update_rows,
    "reanalyze": learner.reanalyze_rows,
    "decision": learner.decision_rows,
    "replay": replay.rows,
    "env": loop.env_rows,
    "collect": loop.collect_rows,
    "train": loop.train_rows,
    "trained": trained.rows,
}


def run(arguments: Arguments) -> None:
    """Measures and prints. Raises ValueError or ImportError, in one line, where that cannot be done."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):  # for what is loaded from now on, the peer
        os.environ[name] = str(arguments.threads)
    quiet()
    before = torch.get_num_threads()
    torch.set_num_threads(arguments.threads)
    try:
        timer = Timer(repeats=arguments.repeats, clock=arguments.clock, device=arguments.device)
        report(PARTS[arguments.what](arguments, timer), as_json=arguments.json)
    finally:
        torch.set_num_threads(before)
