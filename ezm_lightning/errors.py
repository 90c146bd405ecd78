"""A mistake is one line that names the nearest valid choice."""

from __future__ import annotations

import argparse
import difflib
import os
import sys
import traceback
from collections.abc import Iterable
from pathlib import Path
from typing import NoReturn

PACKAGE = Path(__file__).resolve().parent


def nearest(word: str, choices: Iterable[str], count: int = 3) -> str:
    """'a, b, c': the choices most like ``word``, or the first few if none is."""
    choices = list(choices)
    close = difflib.get_close_matches(word, choices, n=count, cutoff=0.5)
    return ", ".join(close or choices[:count])


def asks_for_help(arguments: Iterable[str]) -> bool:
    """Whether one of a command's arguments is -h or --help."""
    return any(argument in ("-h", "--help") for argument in arguments)


def one_line(message: object) -> str:
    """The text of an error or a message without line breaks and repeated spaces."""
    return " ".join(str(message).split())


def first_line(error: BaseException) -> str:
    """The first line of an error's message; the error's class if it has none."""
    try:
        text = str(error)
    except Exception:  # the class may be a user's
        text = ""
    return next(iter(text.splitlines()), "") or type(error).__name__


def kind_and_line(error: BaseException) -> str:
    """The class of an error, and the first line of its message."""
    return f"{type(error).__name__}: {first_line(error)}"


def raised_here(error: BaseException) -> bool:
    """Whether ``error`` was raised by a line of this package and not inside a library."""
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and PACKAGE in Path(frames[-1].filename).resolve().parents


def refuse(error: BaseException | str) -> int:
    """Prints a mistake as one line on stderr, after its traceback if EZM_TRACEBACK=1. Returns the exit status: the
    error's own, else 2."""
    if os.environ.get("EZM_TRACEBACK") == "1" and isinstance(error, BaseException):
        traceback.print_exception(error)
    print(f"error: {one_line(error)}", file=sys.stderr)
    return int(getattr(error, "status", 2))


class Parser(argparse.ArgumentParser):
    """An argument parser that raises ValueError for a mistake; argparse would print its usage and exit."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(message)
