"""Signals: the current update is finished and saved, then the run ends with status 128 + the signal's number.

SIGTERM (143), SIGINT (130), SIGHUP (129: the terminal is closed, the connection lost), and the signals that SLURM sends
before a job's time is up, SIGUSR1 (138) or SIGUSR2 (140). In a job of submitit SIGUSR2 requeues the job. If SIGHUP is
ignored, as under ``nohup``, it stays ignored.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any, NoReturn

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_only

warn = rank_zero_only(logging.getLogger(__name__).warning)
AT_ONCE = (signal.SIGTERM, signal.SIGINT)  # as a second signal
SIGNALS = (*AT_ONCE, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
REQUEUE_WAIT = 90  # seconds from a preempted job's SIGTERM to its SIGUSR2: SLURM checks the time every 30


class Stop(L.Callback):
    """Records a signal; before the first update, and at a second SIGTERM or SIGINT, it ends the process at once.

    Lightning's own handlers call collectives and save inside the handler, possibly in the middle of another collective,
    and submitit's requeues the job there without saving. This handler only sets a mark, on which the ranks agree at the
    end of an update (:meth:`asked`). It is the first of the callbacks.

    A Checkpoint ends the run after it has saved; this callback ends a run without one.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self.left_to_checkpoint = False
        self._trainer: L.Trainer | None = None
        self._before: dict[int, Any] = {}
        self._terminals: list[int] = []  # of standard output and standard error

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Handles the signals within this context, in the main thread; in other threads nothing changes."""
        in_main_thread = threading.current_thread() is threading.main_thread()
        self._terminals = [descriptor for descriptor in (1, 2) if os.isatty(descriptor)]
        heard = [n for n in SIGNALS if n != signal.SIGHUP or signal.getsignal(n) != signal.SIG_IGN]
        self._before = {number: signal.signal(number, self._receive) for number in heard if in_main_thread}
        try:
            yield
        finally:
            for number, handler in self._before.items():
                signal.signal(number, handler)

    @property
    def requeues(self) -> bool:
        """Whether submitit requeues the job at SIGUSR2."""
        return callable(self._before.get(signal.SIGUSR2))

    def _receive(self, number: int, frame: Any) -> None:
        if number == signal.SIGHUP:
            self._leave_terminal()
        if self._trainer is None and self.requeues and number in (signal.SIGTERM, signal.SIGUSR2):
            self._before[number](number, frame)  # nothing to save yet
            return
        at_once = AT_ONCE[1:] if self.requeues else AT_ONCE
        if self._trainer is None and os.environ.get("LOCAL_RANK", "0") == "0":
            os.write(2, f"\n{signal.Signals(number).name}: stopped before the first update, nothing to save\n".encode())
        if self._trainer is None or (self.received is not None and number in at_once):
            self._end(128 + number)
        if self.received != signal.SIGUSR2:
            self.received = number
        if self._trainer.is_global_zero:
            os.write(2, f"\n{signal.Signals(number).name}: stopping after this update; again: at once\n".encode())

    def _leave_terminal(self) -> None:
        """Sends output to the null device: writing to a terminal that is gone would end the run with an error."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for descriptor in self._terminals:
            os.dup2(nowhere, descriptor)
        os.close(nowhere)

    def _end(self, status: int) -> NoReturn:
        launcher = self._trainer.strategy.launcher if self._trainer else None
        if launcher is not None:
            launcher.kill(signal.SIGKILL)  # the other ranks on this host
        os._exit(status)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if signal.getsignal(signal.SIGINT) == self._receive:
            signal.signal(signal.SIGTERM, self._receive)  # replaces Lightning's

    def on_train_batch_start(self, trainer: L.Trainer, *_: object) -> None:
        self._trainer = trainer

    def on_train_batch_end(self, trainer: L.Trainer, *_: object) -> None:
        if not self.left_to_checkpoint and self.asked(trainer):
            warn(f"stopped after update {trainer.global_step}; the run has no Checkpoint, nothing is saved")
            self.end(trainer)

    def asked(self, trainer: L.Trainer) -> bool:
        """Whether any rank has received a signal; the same on every rank."""
        return trainer.strategy.reduce_boolean_decision(self.received is not None, all=False)

    def end(self, trainer: L.Trainer) -> NoReturn:
        """Ends the run after it is saved, by SystemExit or by submitit, which requeues the job."""
        received = torch.tensor(self.received or 0, device=trainer.strategy.root_device)
        number = int(trainer.strategy.reduce(received, reduce_op="max"))
        if not trainer.is_global_zero:
            raise SystemExit(0)  # otherwise Lightning would kill the first rank
        if self.requeues and number != signal.SIGINT:
            self._requeue()
        raise SystemExit(128 + number)

    def _requeue(self) -> None:
        """Leaves SIGUSR2 to submitit, which requeues the job and exits. A preempted job may get SIGTERM first."""
        requeue = self._before[signal.SIGUSR2]
        signal.signal(signal.SIGUSR2, requeue)
        if self.received == signal.SIGUSR2:
            requeue(signal.SIGUSR2, None)
        time.sleep(REQUEUE_WAIT)
