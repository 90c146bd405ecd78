"""Ctrl-C while there is nothing to save: one line and status 130. For a run that trains see ``callbacks/stop.py``."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any

STATUS = 128 + signal.SIGINT


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Within this context SIGINT ends in SystemExit(130) and one line on stderr, whatever the interrupted code raises.

    A second SIGINT ends the process at once. Only in the main thread, and not if SIGINT has another handler already.
    """
    received = False

    def receive(number: int, frame: Any) -> None:
        nonlocal received
        if received:
            os._exit(STATUS)
        received = True
        raise KeyboardInterrupt

    ours = threading.current_thread() is threading.main_thread()
    ours = ours and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if ours:
        signal.signal(signal.SIGINT, receive)
    try:
        yield
    except BaseException as error:
        if not received or isinstance(error, SystemExit):
            raise
        sys.stderr.write("interrupted\n")
        raise SystemExit(STATUS) from None
    finally:
        if ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)
