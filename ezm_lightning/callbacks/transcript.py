"""The output of a command: copied to a log, and discarded without an error if its reader is gone."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO, cast

CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")  # colours and cursor movements of a terminal


class Lenient:
    """A text stream without errors for a reader that is gone (``| head``) or for characters it cannot encode."""

    def __init__(self, stream: TextIO) -> None:
        self.stream, self.gone = stream, False

    def write(self, text: str) -> int:
        if not self.gone:
            try:
                self.stream.write(text)
            except UnicodeEncodeError as error:
                self.stream.write(text.encode(error.encoding, "replace").decode(error.encoding))
            except OSError:
                self._leave()
        return len(text)

    def flush(self) -> None:
        if not self.gone:
            try:
                self.stream.flush()
            except OSError:
                self._leave()

    def _leave(self) -> None:
        """Stops writing. The stream's buffer goes to the null device, so that closing it raises no error."""
        self.gone = True
        with contextlib.suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.stream.fileno())
            os.close(nowhere)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


class Copied:
    """A text stream that also writes to a log, without a terminal's control codes."""

    def __init__(self, stream: Any, log: TextIO) -> None:
        self.stream, self.log = stream, log

    def write(self, text: str) -> int:
        append(self.log, text)
        self.stream.write(text)
        return len(text)

    def flush(self) -> None:
        self.stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def append(log: TextIO, text: str) -> None:
    """Writes to a log. If the disk is full, the line is lost and the run continues."""
    with contextlib.suppress(OSError):
        log.write(CONTROL.sub("", text))


def say(text: str) -> None:
    """Writes a line to standard output, which a display may have replaced."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def screen() -> Any:
    """Standard output without its copy, for displays that are redrawn and do not belong in a log."""
    return sys.stdout.stream if isinstance(sys.stdout, Copied) else Lenient(sys.stdout)


def copy_again(before: tuple[Any, Any]) -> None:
    """Copies again after a display has replaced the streams ``before`` it (output, error)."""
    for name, stream in zip(("stdout", "stderr"), before, strict=True):
        now = getattr(sys, name)
        if isinstance(stream, Copied) and now is not stream:
            setattr(sys, name, Copied(now, stream.log))


@contextlib.contextmanager
def copied_to(path: Path, title: str) -> Iterator[None]:
    """Within this context standard output and error are appended to a file, below ``title``.

    So is the traceback of an exception that ends it. A reader that is gone causes no error.
    """
    before = sys.stdout, sys.stderr
    with _opened(path) as log:
        append(log, f"# {time.strftime('%Y-%m-%d %H:%M:%S')} {title}\n")
        sys.stdout, sys.stderr = (cast(TextIO, Copied(Lenient(stream), log)) for stream in before)
        try:
            yield
        except BaseException as error:
            append(log, "".join(traceback.format_exception(error)))
            raise
        finally:
            sys.stdout, sys.stderr = before


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[TextIO]:
    """The file, to append lines; the null device if the log cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        log: TextIO = open(path, "a", encoding="utf-8", buffering=1)  # noqa: SIM115  (closing must not raise)
    except OSError:
        log = open(os.devnull, "w")  # noqa: SIM115
    try:
        yield log
    finally:
        with contextlib.suppress(OSError):
            log.close()
