"""What a checkpoint file holds, read safely and compared entry by entry with what is expected of it."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ezm_lightning.checkpoints.folder import weights_file
from ezm_lightning.checkpoints.old_names import renewed
from ezm_lightning.checkpoints.tensor_file import read

PARTS = ("state_dict", "hyper_parameters")


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """The content of a checkpoint of ``ezm train``, on the CPU, in today's names; no code of the file is run.

    Raises ValueError for a file that is missing, cut short, changed or something else.
    """
    return as_checkpoint(read_content(weights_file(path)), path)


def read_content(path: str | Path) -> Any:
    """What a file of tensors and plain values holds, on the CPU; no code of the file is run.

    Raises ValueError for a file that is missing, cut short, changed or something else.
    """
    _check_records(path)
    return read(path)


def as_checkpoint(content: Any, path: str | Path) -> dict[str, Any]:
    """The content of a checkpoint in today's names. Raises ValueError where it is that of something else."""
    missing = [part for part in PARTS if not isinstance(content, dict) or not isinstance(content.get(part), Mapping)]
    if missing:
        raise ValueError(f"{path} is not a checkpoint of ezm train: {_held(content)}, no {' and no '.join(missing)}")
    return renewed(content)


def _check_records(path: str | Path) -> None:
    """Raises ValueError where a record is not what was written; torch saves their checksums but does not look at them.

    What is no archive is left to the reader.
    """
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as records:
            broken = records.testzip()
    except (zipfile.BadZipFile, zlib.error, RuntimeError, EOFError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if broken is not None:
        raise ValueError(f"{path} is damaged: its record {broken} is not what was written")


def _held(content: Any) -> str:
    if not isinstance(content, dict):
        return f"it holds a {type(content).__name__}"
    keys = [str(key) for key in content]
    return f"its entries are {', '.join(keys[:6])}{' …' if len(keys) > 6 else ''}" if keys else "it is empty"


def check_entries(saved: Mapping[str, Tensor], expected: Mapping[str, Tensor], path: str | Path) -> None:
    """Raise ValueError, naming the entries that differ, unless the names and shapes of both are the same."""
    sizes = [
        f"{name} is {list(saved[name].shape)}, expected {list(value.shape)}"
        for name, value in expected.items()
        if name in saved and saved[name].shape != value.shape
    ]
    absent = [name for name in expected if name not in saved]
    unknown = [name for name in saved if name not in expected]
    differ = [
        *(_some(sizes, "entries of another size", "; ") if sizes else ()),
        *(_some(absent, "absent") if absent else ()),
        *(_some(unknown, "not expected") if unknown else ()),
    ]
    if differ:
        raise ValueError(f"{path} holds other weights than its tasks and model need: {'; '.join(differ)}")


def _some(items: Iterable[str], what: str, separator: str = ", ", most: int = 3) -> list[str]:
    items = list(items)
    return [f"{len(items)} {what}: {separator.join(items[:most])}{separator + '…' if len(items) > most else ''}"]
