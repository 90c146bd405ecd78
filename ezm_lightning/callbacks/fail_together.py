"""An error on one rank ends the run on every rank, within seconds and with that error."""

from __future__ import annotations

import os
import threading
import time

import lightning as L
import torch.distributed as dist

KEY = "ezm_lightning/failed"
INTERVAL = 1.0  # seconds between two checks


class FailTogether(L.Callback):
    """Reports an exception of this rank to the other ranks, and ends this process if another rank reports one.

    Otherwise the other ranks would wait in a collective for the missing rank, for minutes or for ever, whatever the
    backend. The ranks communicate through the key-value store of their process group.
    """

    def __init__(self) -> None:
        self._over = threading.Event()

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.world_size > 1:
            threading.Thread(target=self._watch, args=(_store(), trainer.global_rank), daemon=True).start()

    def _watch(self, store: dist.Store, rank: int) -> None:
        while not self._over.wait(INTERVAL):
            try:
                if not store.check([KEY]):
                    continue
                text = store.get(KEY).decode()
            except RuntimeError:  # rank 0, which keeps the store, has ended without a report
                text = "rank 0 has ended"
            if not self._over.is_set():
                os.write(2, f"error: {text}; rank {rank} ends with it\n".encode())
                os._exit(2)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self._over.set()
        if trainer.world_size > 1 and not isinstance(exception, SystemExit):
            _store().set(KEY, f"rank {trainer.global_rank}: {type(exception).__name__}: {exception}")
            time.sleep(3 * INTERVAL)  # the store ends with rank 0, so the others must read it first

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self._over.set()


def _store() -> dist.Store:
    return dist.distributed_c10d._get_default_store()
