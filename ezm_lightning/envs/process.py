"""What the code of an environment may change for the whole process: the working folder, and settings of PyTorch.

What MuJoCo warns of is said here too, which is set for the whole process."""

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


def mujoco_warns_once() -> None:
    """Makes MuJoCo's warnings those of Python, which come once for each text. By default MuJoCo prints one for each
    environment, and writes it to MUJOCO_LOG.TXT in the working folder. Keeps a handler that the user has set."""
    with contextlib.suppress(ImportError):
        import mujoco

        if mujoco.get_mju_user_warning() is None:
            mujoco.set_mju_user_warning(_warn)


def _warn(text: str) -> None:
    """An error that left this function would end the process, also that of a filter which makes warnings errors."""
    with contextlib.suppress(Warning):
        warnings.warn(f"MuJoCo: {text.partition(' Time = ')[0]}", stacklevel=2)


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
