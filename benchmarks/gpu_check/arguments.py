"""The arguments of ``python -m benchmarks.gpu_check``. A mistake is one line with the nearest valid choice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.gpu_check.parts import PARTS
from ezm_lightning.errors import nearest

KEYS = ("minutes", "device", "only", "out")


@dataclass(frozen=True)
class Arguments:
    """The minutes, the device, the parts and the folder of the page."""

    minutes: float
    device: str
    parts: tuple[str, ...]
    out: Path
    command: str


def parse(argv: Sequence[str]) -> Arguments:
    """The arguments. Raises ValueError for an unknown key or value."""
    given = {"minutes": "10", "device": "", "only": "", "out": "gpu_check"}
    for text in argv:
        key, equals, value = text.partition("=")
        if not equals or key not in KEYS:
            raise ValueError(f"gpu_check has no argument {text!r}; nearest: {nearest(key, KEYS, count=1)}=…")
        given[key] = value
    return Arguments(
        minutes=_minutes(given["minutes"]),
        device=_device(given["device"]),
        parts=_parts(given["only"]),
        out=Path(given["out"]),
        command=" ".join(["python -m benchmarks.gpu_check", *argv]),
    )


def _minutes(text: str) -> float:
    try:
        minutes = float(text)
    except ValueError:
        minutes = 0.0
    if not 0 < minutes < float("inf"):
        raise ValueError(f"minutes={text} must be a number above 0; nearest: minutes=10")
    return minutes


def _device(text: str) -> str:
    """The device; by default a GPU if torch sees one."""
    if text not in ("", "cpu", "cuda"):
        raise ValueError(f"device={text} is not known; nearest: {nearest(text, ('cpu', 'cuda'), count=1)}")
    if text == "cuda" and not torch.cuda.is_available():
        raise ValueError("device=cuda needs a CUDA device, torch sees none; nearest: device=cpu")
    return text or ("cuda" if torch.cuda.is_available() else "cpu")


def _parts(text: str) -> tuple[str, ...]:
    names = [name for name in text.strip("[]").split(",") if name]
    for name in names:
        if name not in PARTS:
            raise ValueError(f"only={name} is no part; nearest: {nearest(name, PARTS, count=1)} ({', '.join(PARTS)})")
    return tuple(name for name in PARTS if not names or name in names)
