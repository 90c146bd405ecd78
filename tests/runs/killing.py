"""Trains in forks of a warm process, stops them from outside: `python -m tests.runs.killing {kills,signals} FOLDER N`.

A fork starts in a fraction of a second; importing everything takes many. Prints a JSON line for each fork.
"""

from __future__ import annotations

import io
import json
import mmap
import os
import random
import signal
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from ezm_lightning.callbacks import checkpoint, run_state
from ezm_lightning.callbacks.target import UpdateTarget
from ezm_lightning.checkpoints.runs import newest_checkpoint
from ezm_lightning.commands import train
from ezm_lightning.replay import rings
from tests.runs.short import SIZE, budget

INTERVAL, UPDATES = 5, 60
PER_KILL = 15  # updates that the budget holds for each kill
SHARED = mmap.mmap(-1, 16)  # the updates done, whether a checkpoint is being written


def mark(update: int | None = None, writing: int | None = None) -> None:
    done, was = struct.unpack("qq", SHARED[:])
    SHARED[:] = struct.pack("qq", done if update is None else update, was if writing is None else writing)


def progress() -> tuple[int, int]:
    return struct.unpack("qq", SHARED[:])


def slow_write(content: object, path: Path) -> None:
    """What `tensor_file.write` does, in two halves with a pause between."""
    data = io.BytesIO()
    torch.save(content, data)
    half = len(data.getvalue()) // 2
    with open(path, "wb") as file:
        for part in (data.getvalue()[:half], data.getvalue()[half:]):
            file.write(part)
            file.flush()
            time.sleep(0.01)


def watched() -> None:
    """Patches this process: updates and writing are marked, files are written slowly."""
    for module in (rings, run_state, checkpoint):
        module.write = slow_write
    save, update = checkpoint.Checkpoint.save, UpdateTarget.on_train_batch_end

    def marked_save(self, *arguments) -> None:
        mark(writing=1)
        save(self, *arguments)
        mark(writing=0)

    def marked_update(self, trainer, *arguments) -> None:
        update(self, trainer, *arguments)
        mark(update=trainer.global_step)

    checkpoint.Checkpoint.save, UpdateTarget.on_train_batch_end = marked_save, marked_update


def start(run: Path, updates: int, *overrides: str) -> int:
    """The process id of a fork that trains."""
    mark(0, 0)
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    log = os.open(run.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1), os.dup2(log, 2)
    status = 99
    try:
        watched()
        every = f"checkpoint.every_n_train_steps={INTERVAL}"
        status = train.main([*SIZE, budget(updates), every, f"hydra.run.dir={run}", *overrides])
    finally:
        sys.stdout.flush()
        os._exit(status or 0)


def until(pid: int, condition: Callable[[], bool]) -> bool:
    """Waits until the condition holds; False if the process has ended before."""
    while not condition():
        if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            return False
        time.sleep(0.002)
    return True


def ended(pid: int) -> int:
    """The exit status, once there is one; minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def newest_step(run: Path) -> int:
    newest = newest_checkpoint(run)
    return int(newest.stem.partition("=")[2]) if newest else 0


def resumed(run: Path) -> list[str]:
    return ["ckpt_path=last"] if newest_checkpoint(run) else []


def report(run: Path, status: int, **more: object) -> None:
    update, writing = progress()
    names = sorted(path.name for path in (run / "checkpoints").glob("*"))
    line = {"status": status, "update": update, "writing": writing, "newest": newest_step(run), "names": names}
    print(json.dumps(line | more), flush=True)


def kills(run: Path, number: int) -> None:
    """Kills at random moments: by turns at any time, some updates after the start, in the writing of a checkpoint."""
    chance, updates = random.Random(0), PER_KILL * number
    for turn in range(number):
        target = newest_step(run) + chance.randint(1, 12)
        pid = start(run, updates, *resumed(run))
        if turn % 3 == 1:
            time.sleep(chance.uniform(0, 3))
        else:
            until(pid, lambda: progress()[0] >= target)  # noqa: B023
            if turn % 3 == 0:
                until(pid, lambda: progress()[1] == 1)
            time.sleep(chance.uniform(0, 0.25))
        os.kill(pid, signal.SIGKILL)
        report(run, ended(pid))
    report(run, ended(start(run, updates, *resumed(run))))
    ended(start(run.with_name("reference"), updates))


def signals(run: Path, _: int) -> None:
    """SIGTERM, SIGINT and SIGHUP between updates, then SIGINT twice, then on to the end."""
    for numbers in ([signal.SIGTERM], [signal.SIGINT], [signal.SIGHUP], [signal.SIGINT, signal.SIGINT]):
        first = newest_step(run)
        pid = start(run, UPDATES, *resumed(run))
        until(pid, lambda: progress()[0] > first + 1)  # noqa: B023
        for number in numbers:
            os.kill(pid, number)
            time.sleep(0.05)
        report(run, ended(pid), before=first)
    report(run, ended(start(run, UPDATES, *resumed(run))))
    ended(start(run.with_name("reference"), UPDATES))


def main(what: str, folder: str, number: str) -> None:
    torch.set_num_threads(1)
    {"kills": kills, "signals": signals}[what](Path(folder) / "run", int(number))


if __name__ == "__main__":
    main(*sys.argv[1:])
