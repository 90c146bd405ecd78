"""What the code of an environment may change for the whole process: the working folder, and settings of PyTorch."""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any


@contextlib.contextmanager
def same_folder() -> Iterator[None]:
    """Restores the working folder, which other code may change, such as an environment that loads its assets."""
    try:
        before = os.getcwd()
    except FileNotFoundError:  # it has been deleted
        before = None
    try:
        yield
    finally:
        if before is not None:
            os.chdir(before)


@contextlib.contextmanager
def torch_unchanged(tasks: Iterable[str], *, device: bool = False) -> Iterator[None]:
    """Restores the default type of numbers, whether gradients are recorded, and the default ``device`` if asked (it is
    slow to read). Warns with the names of the ``tasks``, whose code runs in this context."""
    before = _settings(device)
    try:
        yield
    finally:
        after = _settings(device)
        if after != before:
            _restore(before, after, ", ".join(dict.fromkeys(tasks)))


def _settings(device: bool) -> dict[str, Any]:
    torch: Any = sys.modules.get("torch")  # its import takes seconds
    if torch is None or not hasattr(torch, "set_grad_enabled"):
        return {}
    settings = {"dtype": torch.get_default_dtype(), "gradients": torch.is_grad_enabled()}
    return settings | ({"device": torch.get_default_device()} if device else {})


def _restore(before: dict[str, Any], after: dict[str, Any], whose: str) -> None:
    import torch

    new = {"dtype": torch.float32, "gradients": True, "device": torch.device("cpu")}
    setters: dict[str, Callable[[Any], Any]] = {
        "dtype": torch.set_default_dtype,
        "gradients": torch.set_grad_enabled,
        "device": lambda device: torch.set_default_device(None if device.type == "cpu" else device),
    }
    for name, value in after.items():
        wanted = before.get(name, new[name])
        if value != wanted:
            setters[name](wanted)
            warnings.warn(f"{whose} changed torch's default of {name} to {value}; it is {wanted} again", stacklevel=2)
