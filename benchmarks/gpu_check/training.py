"""Whole runs of ``ezm train`` as processes: resuming, and two ranks."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_check.finding import Finding, Sizes, relative_difference
from ezm_lightning.checkpoints.contents import read_checkpoint
from ezm_lightning.checkpoints.runs import newest_checkpoint

STEPS, HALF, WARMUP = 1_080, 1_040, 1_000  # simulator steps per task: 20 updates, 10 of them before the stop
SMALL = (
    "experiment=debug", "tasks=[dmc/cartpole-balance,dmc/cartpole-swingup]", f"warmup_env_steps={WARMUP}",
    "evaluate=null", "logger=none", "callbacks.progress=null", "module.lr_final_factor=1",
    "checkpoint.every_n_train_steps=1_000", "torch_threads=1",
)  # fmt: skip
AS_CLOSE = 10  # multiples of the difference of two equal runs: kernels that add in any order are not repeatable
LAST = re.compile(r"^error: (.*)$", re.MULTILINE)


def resume(sizes: Sizes) -> Iterator[Finding]:
    """A stopped and resumed run against a whole one; if they differ, also two whole ones."""
    trainer = ("trainer=gpu",) if sizes.device == "cuda" else ()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        whole = train(root / "whole", STEPS, *trainer)
        train(root / "resumed", HALF, *trainer)
        resumed = train(root / "resumed", STEPS, "ckpt_path=last", *trainer)
        difference = apart(resumed, whole)
        again = 0.0 if difference == 0 else apart(train(root / "again", STEPS, *trainer), whole)
    yield judged(difference, again, sizes)


def judged(difference: float, again: float, sizes: Sizes) -> Finding:
    """On a CPU the bits must be the same; on a GPU the runs may differ as two equal runs do."""
    good = difference == 0 or (sizes.device == "cuda" and difference <= AS_CLOSE * again)
    result = "the resumed run ends with the same bits as one that was not stopped"
    if difference:
        result = (
            f"the weights of the resumed run differ by {difference:.1e} from those of one that was not stopped;"
            f" two runs that were not stopped differ by {again:.1e}"
        )
    return Finding("resume", "A run that is stopped and resumed", "ok" if good else "wrong", result)


def train(folder: Path, steps: int, *overrides: str) -> dict[str, torch.Tensor]:
    """Trains in ``folder`` to the end of the budget. Returns the weights. Raises RuntimeError with the run's error."""
    if "ckpt_path=last" in overrides:
        newest = newest_checkpoint(folder)
        overrides = (*(text for text in overrides if text != "ckpt_path=last"), f"ckpt_path={newest}")
    command = [sys.executable, "-m", "ezm_lightning.commands.cli", "train", *SMALL]
    command += [f"hydra.run.dir={folder}", f"env_steps_per_task={steps}", *overrides]
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=False
    )
    if done.returncode:
        message = LAST.search(done.stderr)
        raise RuntimeError(message[1] if message else done.stderr.strip()[-300:])
    checkpoint = newest_checkpoint(folder)
    assert checkpoint is not None, folder
    content: dict[str, Any] = read_checkpoint(checkpoint)
    return content["state_dict"]


def apart(ours: dict[str, torch.Tensor], reference: dict[str, torch.Tensor]) -> float:
    """Relative difference of all weights; 0 if all bits are the same."""
    floats = [name for name, x in reference.items() if x.is_floating_point()]
    if all(torch.equal(ours[name], reference[name]) for name in reference):
        return 0.0
    mine, theirs = (torch.cat([x[name].flatten().float() for name in floats]) for x in (ours, reference))
    return relative_difference(mine, theirs)


def ranks(sizes: Sizes) -> Iterator[Finding]:
    """Two ranks: NCCL on two GPUs, gloo on a CPU."""
    what = "Two ranks"
    if sizes.device == "cuda":
        if torch.cuda.device_count() < 2:
            yield Finding("ranks", what, "skipped", f"NCCL needs two GPUs, torch sees {torch.cuda.device_count()}")
            return
        backend, trainer = "NCCL", ("trainer=ddp", "trainer.devices=2")
    else:
        backend = "gloo"
        trainer = ("trainer=ddp", "trainer.accelerator=cpu", "trainer.precision=32-true", "trainer.devices=2")
    with tempfile.TemporaryDirectory() as folder:
        weights = train(Path(folder) / "run", STEPS, *trainer)
    finite = all(bool(x.isfinite().all()) for x in weights.values() if x.is_floating_point())
    yield Finding(
        "ranks",
        what,
        "ok" if finite else "wrong",
        f"a run of two processes over {backend} ends, and its weights are{'' if finite else ' not'} finite",
        "" if finite else "trainer.devices=1",
    )
