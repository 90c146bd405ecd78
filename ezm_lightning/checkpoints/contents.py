"""The content of a checkpoint file, read safely and compared with the expected entries."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ezm_lightning.checkpoints.agent_file import is_agent_file
from ezm_lightning.checkpoints.folder import weights_file
from ezm_lightning.checkpoints.old_names import renewed
from ezm_lightning.checkpoints.tensor_file import read

PARTS = ("state_dict", "hyper_parameters")


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """The content of a checkpoint of ``ezm train``, on the CPU, with today's names; no code in the file is run.

    Raises ValueError for a file that is missing, cut short, changed or something else.
    """
    return as_checkpoint(read_content(weights_file(path)), path)


def read_content(path: str | Path) -> Any:
    """The content of a file of tensors and plain values, on the CPU; no code in the file is run.

    Raises ValueError for a file that is missing, cut short, changed or something else.
    """
    _check_records(path)
    return read(path)


def as_checkpoint(content: Any, path: str | Path) -> dict[str, Any]:
    """The content of a checkpoint with today's names. Raises ValueError for the content of another kind of file."""
    if is_agent_file(content):
        raise ValueError(f"{path} is an agent file, not a checkpoint of ezm train: ezm play {path} shows it")
    missing = [part for part in PARTS if not isinstance(content, dict) or not isinstance(content.get(part), Mapping)]
    if missing:
        raise ValueError(f"{path} is not a checkpoint of ezm train: {_summary(content)}, no {' and no '.join(missing)}")
    return renewed(content)


def _check_records(path: str | Path) -> None:
    """Raises ValueError if a record has changed since it was written; torch saves checksums but does not check them.

    The reader refuses a file that is not an archive.
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


def _summary(content: Any) -> str:
    if not isinstance(content, dict):
        return f"it holds a {type(content).__name__}"
    keys = [str(key) for key in content]
    return f"its entries are {', '.join(keys[:6])}{' …' if len(keys) > 6 else ''}" if keys else "it is empty"


def check_entries(saved: Mapping[str, Tensor], expected: Mapping[str, Tensor], path: str | Path) -> None:
    """Raises ValueError, with the entries that differ, unless the names and shapes of both are the same."""
    sizes = [
        f"{name} is {list(saved[name].shape)}, expected {list(value.shape)}"
        for name, value in expected.items()
        if name in saved and saved[name].shape != value.shape
    ]
    absent = [name for name in expected if name not in saved]
    unknown = [name for name in saved if name not in expected]
    differ = [
        *(_shortened(sizes, "entries of another size", "; ") if sizes else ()),
        *(_shortened(absent, "absent") if absent else ()),
        *(_shortened(unknown, "not expected") if unknown else ()),
    ]
    if differ:
        raise ValueError(f"{path} holds other weights than its tasks and model need: {'; '.join(differ)}")


def _shortened(items: Iterable[str], kind: str, separator: str = ", ", most: int = 3) -> list[str]:
    items = list(items)
    return [f"{len(items)} {kind}: {separator.join(items[:most])}{separator + '…' if len(items) > most else ''}"]
