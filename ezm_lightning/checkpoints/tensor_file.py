"""A file of tensors and plain values: synced to the disk when written, read without running any code in it."""

from __future__ import annotations

import os
import pickle
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch.serialization import get_unsafe_globals_in_checkpoint

from ezm_lightning.errors import first_line


def write(content: Any, path: Path) -> None:
    """Saves ``content`` for ``torch.load`` and syncs. Raises OSError if the system cannot write it, ValueError for a
    value that :func:`read` would refuse."""
    try:
        with open(path, "wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        unreadable = get_unsafe_globals_in_checkpoint(path)
    except RuntimeError as error:  # torch wraps the error of the operating system
        raise _cause(error) from error
    if unreadable:
        path.unlink()
        raise ValueError(f"{path.name} could not be read again: it has {_first_of(content, unreadable)}")


def _first_of(content: Any, types: Collection[str], where: str = "") -> str:
    """The place and the type of the first value in a nested content that needs one of these types; else the types."""
    if isinstance(content, Mapping):
        inside = {f"{where}[{key!r}]": value for key, value in content.items()}
    elif isinstance(content, list | tuple):
        inside = {f"{where}[{i}]": value for i, value in enumerate(content)}
    else:
        inside = {}
    deeper = (_first_of(value, types, place) for place, value in inside.items() if _needs(value, types))
    kind = f"{type(content).__module__}.{type(content).__qualname__}"
    return next(deeper, f"{where or 'an entry'} of type {kind if where else ', '.join(sorted(types))}")


def _needs(value: Any, types: Collection[str]) -> bool:
    """Whether a value needs one of these types when it is saved."""
    with tempfile.TemporaryFile() as file:
        torch.save(value, file)
        file.seek(0)
        return bool(set(get_unsafe_globals_in_checkpoint(file)) & set(types))


def _cause(error: BaseException) -> BaseException:
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OSError):
        cause = cause.__context__
    return cause or error


def read(path: str | Path, *, mmap: bool = False) -> Any:
    """The content that ``torch.save`` wrote to ``path``, on the CPU: tensors and plain values; no code in it is run.

    With ``mmap`` tensors stay in the file until they are read.
    Raises ValueError for a file that is missing, cut short or something else.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except FileNotFoundError as error:
        raise ValueError(f"{path} does not exist") from error
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path} is not a checkpoint of ezm train: it does not load with weights_only=True, nothing of it was run"
        ) from error
    except Exception as error:  # for bytes that are not torch's, the unpickler may raise anything
        reason = f" ({first_line(error)})" if isinstance(error, (OSError, RuntimeError)) else ""
        raise ValueError(f"{path} cannot be read, is it complete and a checkpoint?{reason}") from error
