"""What a checkpoint file holds, read safely and compared entry by entry with what is expected of it."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from ezm_lightning.checkpoints.tensor_file import read
from ezm_lightning.config.signatures import check_targets, import_target, target_nodes

PARTS = ("state_dict", "hyper_parameters")
BUILT = ("model", "planner", "reanalyzer", "module", "value_target", "policy_target", "temperature")
CONFIG_KEYS = ("tasks.names", *BUILT, "collect.act_with_target")
TRUSTED = ("ezm_lightning.", "torch.optim.")


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """The content of a checkpoint of ``ezm train``, on the CPU; no code of the file is run.

    Raises ValueError for a file that is missing, cut short, changed or something else.
    """
    _check_records(path)
    content = read(path)
    missing = [part for part in PARTS if not isinstance(content, dict) or not isinstance(content.get(part), Mapping)]
    if missing:
        raise ValueError(f"{path} is not a checkpoint of ezm train: {_held(content)}, no {' and no '.join(missing)}")
    return content


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


def saved_config(content: Mapping[str, Any], path: str | Path, *, trust: bool = False) -> DictConfig:
    """The training config inside a checkpoint, resolved and checked against the classes that it names.

    A config names classes to build, so a foreign file could name any function to call: those outside this package and
    ``torch.optim`` are refused unless ``trust``. Raises ValueError for that, for missing keys and for keys that this
    version does not take.
    """
    cfg = OmegaConf.create(dict(content["hyper_parameters"]))
    OmegaConf.resolve(cfg)  # what an interpolation hides is checked too
    missing = [key for key in CONFIG_KEYS if OmegaConf.select(cfg, key) is None]
    if missing:
        raise ValueError(f"{path} is not a checkpoint of ezm train: its config has no {', '.join(missing)}")
    built = OmegaConf.masked_copy(cfg, list(BUILT))
    if not trust:
        _check_trusted(built, path)
    try:
        check_targets(built)
    except ValueError as error:
        raise ValueError(f"{path} does not fit this version of ezm_lightning: {error}") from error
    return cfg


def _check_trusted(cfg: DictConfig, path: str | Path) -> None:
    for where, node in target_nodes(cfg):
        name = str(node["_target_"])
        own = name.startswith(TRUSTED) and f"{import_target(name, where).__module__}.".startswith(TRUSTED)
        if not own:
            raise ValueError(
                f"{path} names code that is not part of ezm_lightning: {where}._target_={name}; "
                "if you know where the file comes from, write eval.trust=true"
            )


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
