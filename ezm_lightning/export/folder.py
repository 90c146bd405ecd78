"""The folder of an exported agent: written under a temporary name, checked against torch, then renamed."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ezm_lightning.export import runtime
from ezm_lightning.export.check import Check, Recorded, check
from ezm_lightning.export.graph import SUFFIXES, GraphModule, check_packages, installed_versions, write_graph
from ezm_lightning.export.runtime import DESCRIPTION, FORMAT, ExportedAgent
from ezm_lightning.model import PackedModel


def write_agent(
    folder: Path,
    modules: Mapping[str, GraphModule],
    *,
    tasks: list[str],
    about: Mapping[str, Any],
    format: str = "onnx",
    roots: int = 256,
    recorded: Recorded | None = None,
) -> dict[str, Check]:
    """Writes ``modules`` (``search``, ``policy``) to a new folder; returns the check of each graph, by name.

    ``format`` is ``onnx``, or ``torch`` for programs of ``torch.export``. ``about`` is added to ``agent.json``.
    ``roots`` is the least number of observations of a check, half of them from ``recorded``. A failure leaves nothing
    behind. Raises ImportError without the packages of the extra, ValueError if the folder exists or cannot be written,
    or if a graph differs from its module.
    """
    check_packages(format)
    if roots < 1:
        raise ValueError(f"roots={roots} must be at least 1")
    with new_folder(folder) as place:
        packed = next(iter(modules.values())).packed
        description = {"format": FORMAT, **describe(packed, tasks, format), **about, "graphs": {}}
        metadata = {"ezm_lightning": json.dumps(description)}
        for name, module in modules.items():
            file = place / f"{name}{SUFFIXES[format]}"
            write_graph(module, file, metadata)
            description["graphs"][name] = describe_graph(module, file)
        write_description(place, description)
        checks = {
            name: check(module, ExportedAgent(place, graph=name), roots, recorded) for name, module in modules.items()
        }
        for name, result in checks.items():
            description["graphs"][name]["check"] = asdict(result)
        write_description(place, description)
        shutil.copyfile(runtime.__file__, place / "runtime.py")
    return checks


@contextlib.contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder to write to, which is renamed to ``folder`` at the end; a failure leaves nothing behind.

    Raises ValueError if ``folder`` exists or cannot be written.
    """
    check_new(folder)
    missing = [parent for parent in folder.parents if not parent.exists()]
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as temporary:
            place = Path(temporary, folder.name)  # with the permissions of any new folder
            place.mkdir()
            yield place
            check_new(folder)
            place.rename(folder)
    except OSError as error:
        raise ValueError(f"{folder} cannot be written ({error.strerror or error})") from error
    finally:
        for parent in missing:
            with contextlib.suppress(OSError):  # it is not empty after a success
                parent.rmdir()


def check_new(folder: Path) -> None:
    """Raises ValueError if ``folder`` exists, or if no folder can be made beside it; leaves nothing behind."""
    if folder.exists() or folder.is_symlink():
        raise ValueError(f"{folder} exists already: remove it, or choose another folder")
    nearest = next(parent for parent in folder.absolute().parents if parent.exists())
    try:
        with tempfile.TemporaryDirectory(dir=nearest):
            pass
    except OSError as error:
        raise ValueError(f"{folder} cannot be written ({nearest}: {error.strerror})") from error


def describe(packed: PackedModel, tasks: list[str], format: str) -> dict[str, Any]:
    """The description of an agent for users of its graphs: tasks, widths, ranges, versions."""
    obs_dims, action_dims = (mask.sum(1).int().tolist() for mask in (packed.obs_mask, packed.action_mask))
    return {
        "tasks": [
            {"name": name, "obs_dim": obs_dim, "action_dim": action_dim, "action_mask": mask}
            for name, obs_dim, action_dim, mask in zip(
                tasks, obs_dims, action_dims, packed.action_mask.int().tolist(), strict=True
            )
        ],
        "obs_dim": packed.obs_mask.shape[1],  # the graphs' inputs are padded with zeros to this width
        "action_dim": packed.action_mask.shape[1],
        "action_range": [-1, 1],
        "versions": {"ezm_lightning": version("ezm-lightning"), **installed_versions(format)},
    }


def describe_graph(module: GraphModule, file: Path) -> dict[str, Any]:
    """File, checksum, number of rows, inputs and outputs of a graph; a variable size is null."""
    inputs = {
        name: {
            "dtype": str(value.dtype).removeprefix("torch."),
            "shape": [None if axis == 0 and module.batch is None else size for axis, size in enumerate(value.shape)],
            **module.draws.get(name, {}),
        }
        for name, value in module.inputs.items()
    }
    return {
        "file": file.name,
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        "batch": module.batch,
        "inputs": inputs,
        "outputs": list(module.outputs),
    }


def write_description(folder: Path, description: Mapping[str, Any]) -> None:
    """Writes ``agent.json``."""
    (folder / DESCRIPTION).write_text(json.dumps(description, indent=1) + "\n", encoding="utf-8")
