"""What a command finds around it: a terminal that takes few characters, or none; the OpenGL library asked for."""

from __future__ import annotations

import codecs
import os
import sys

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
GL = ("egl", "osmesa", "glfw", "off")  # what MUJOCO_GL is set to
ALSO_GL = ("", "glx", "cgl", "wgl", "disable", "disabled", "false", "0", "enable", "enabled", "on", "true", "1")


def in_ascii(error: UnicodeError) -> tuple[str, int]:
    """What is written in place of characters that a stream cannot take."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(ASCII.get(each, "?") for each in error.object[error.start : error.end]), error.end


def take_any_text() -> None:
    """Lets standard output and standard error take any text; where one is closed it goes nowhere."""
    codecs.register_error("ezm_ascii", in_ascii)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115  (for as long as we run)
        elif hasattr(stream, "reconfigure") and stream.errors == "strict":
            stream.reconfigure(errors="ezm_ascii")


def check_gl() -> None:
    """Raises ValueError for a value of MUJOCO_GL that MuJoCo would refuse when it is imported."""
    value = os.environ.get("MUJOCO_GL", "")
    if value.lower().strip() not in (*GL, *ALSO_GL):
        raise ValueError(f"MUJOCO_GL={value} names no OpenGL library; it takes {', '.join(GL)}, or is left out")
