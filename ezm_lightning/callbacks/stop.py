"""SIGTERM and SIGINT: the update that runs is finished and saved, then the run ends with status 143 or 130."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from typing import NoReturn

import lightning as L

from ezm_lightning.module import EZM

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stop(L.Callback):
    """Takes note of the first signal; before the first update, and at a second signal, ends the process at once.

    Lightning's own handler of SIGTERM calls a collective from inside the handler, which can meet another one half done;
    this one only sets a mark, on which the ranks agree at the end of an update (:meth:`asked`). First of the callbacks.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._trainer: L.Trainer | None = None

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Takes the two signals for as long as this lasts (in the main thread; in others nothing changes)."""
        here = threading.current_thread() is threading.main_thread()
        before = {number: signal.signal(number, self._receive) for number in SIGNALS if here}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _receive(self, number: int, _: object) -> None:
        if self._trainer is None or self.received is not None:
            self._end(128 + number)
        self.received = number
        if self._trainer.is_global_zero:
            os.write(2, f"\n{signal.Signals(number).name}: stopping after this update; again: at once\n".encode())

    def _end(self, status: int) -> NoReturn:
        launcher = self._trainer.strategy.launcher if self._trainer else None
        if launcher is not None:
            launcher.kill(signal.SIGKILL)  # the other ranks on this host
        os._exit(status)

    def on_train_start(self, trainer: L.Trainer, pl_module: EZM) -> None:
        if signal.getsignal(signal.SIGINT) == self._receive:
            signal.signal(signal.SIGTERM, self._receive)  # in place of Lightning's

    def on_train_batch_start(self, trainer: L.Trainer, *_: object) -> None:
        self._trainer = trainer

    def asked(self, trainer: L.Trainer) -> bool:
        """Whether any rank has received a signal; the same on every rank."""
        return trainer.strategy.reduce_boolean_decision(self.received is not None, all=False)

    def status(self, trainer: L.Trainer) -> int:
        """128 + the signal's number; 0 of other ranks than the first, or Lightning would kill that one."""
        return 128 + (self.received or signal.SIGTERM) if trainer.is_global_zero else 0
