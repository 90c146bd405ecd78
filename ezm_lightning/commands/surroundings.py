"""The surroundings of a command: a terminal with few characters, closed streams, the chosen OpenGL library."""

from __future__ import annotations

import codecs
import contextlib
import os
import sys
import warnings
from typing import Any
from warnings import formatwarning

from ezm_lightning.errors import one_line

ASCII = {
    "·": "-",
    "±": "+/-",
    "–": "-",
    "—": "-",
    "…": "...",
    "×": "x",
    "−": "-",
    "→": "->",
    "σ": "sigma",
    "λ": "lambda",
}
GL = ("egl", "osmesa", "glfw", "off")  # the documented values of MUJOCO_GL
ALSO_GL = ("", "glx", "cgl", "wgl", "disable", "disabled", "false", "0", "enable", "enabled", "on", "true", "1")


def in_ascii(error: UnicodeError) -> tuple[str, int]:
    """The replacement of characters that a stream cannot encode."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(ASCII.get(letter, "?") for letter in error.object[error.start : error.end]), error.end


def take_any_text() -> None:
    """Lets standard output and standard error accept any text; the text of a closed stream is discarded."""
    codecs.register_error("ezm_ascii", in_ascii)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115  (for as long as we run)
        elif hasattr(stream, "reconfigure") and stream.errors == "strict":
            stream.reconfigure(errors="ezm_ascii")


def shorten_warnings() -> None:
    """Prints a UserWarning as one line, without the place in the code that no user has written."""

    def shown(
        message: Warning | str, category: type[Warning], filename: str, lineno: int, file: Any = None, line: Any = None
    ) -> None:
        usual = formatwarning(message, category, filename, lineno)
        with contextlib.suppress(OSError, AttributeError):  # a closed stream, or none
            sys.stderr.write(f"warning: {one_line(message)}\n" if issubclass(category, UserWarning) else usual)

    warnings.showwarning = shown


def check_gl() -> None:
    """Raises ValueError for a value of MUJOCO_GL that MuJoCo would refuse when it is imported."""
    value = os.environ.get("MUJOCO_GL", "")
    if value.lower().strip() not in (*GL, *ALSO_GL):
        raise ValueError(f"MUJOCO_GL={value} names no OpenGL library; it takes {', '.join(GL)}, or is left out")
