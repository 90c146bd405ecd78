"""A checkpoint: one folder, written under another name, sealed with a manifest of every file, and renamed once.

``step=00000100.ckpt/`` holds ``lightning.ckpt`` (weights, optimiser, loops and config), for each process a folder
``rank0/`` … (its replay and its state) and ``manifest.json`` (size and checksum of each of these files).

The checksum is CRC-32: it is there for accidents, finds any of a few flipped bits and misses one other change in four
billion, and takes a fifth of BLAKE2's time (3.3 GB/s on one core), which counts for a replay of many gigabytes. A file
made to harm is another matter: `tensor_file.py` runs nothing of it.
"""

from __future__ import annotations

import json
import os
import shutil
import zlib
from collections.abc import Mapping
from pathlib import Path

WEIGHTS = "lightning.ckpt"
MANIFEST = "manifest.json"
CHUNK = 1 << 20


def is_checkpoint(path: Path) -> bool:
    """Whether a path is a checkpoint's folder, whole or not, or a file, which may be one of weights alone."""
    return path.is_file() or (path.suffix == ".ckpt" and path.is_dir())


def weights_file(checkpoint: str | Path) -> Path:
    """The file of weights, optimiser, loops and config in a checkpoint; such a file alone is one too."""
    path = Path(checkpoint)
    return path / WEIGHTS if path.is_dir() else path


def parts_folder(checkpoint: str | Path) -> Path:
    """Where a checkpoint has its manifest and what its processes wrote; an older version put it beside the file."""
    path = Path(checkpoint)
    return path.with_suffix(".sidecar") if path.is_file() else path


def rank_folders(checkpoint: str | Path) -> list[Path]:
    """The folders of a checkpoint's processes, in the order of their ranks."""
    return sorted(parts_folder(checkpoint).glob("rank*"), key=lambda folder: int(folder.name.removeprefix("rank")))


def checksum(path: Path) -> str:
    """Size and CRC-32 of a file: '1024 bytes, crc32 89abcdef'."""
    size, crc = 0, 0
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            size, crc = size + len(chunk), zlib.crc32(chunk, crc)
    return f"{size} bytes, crc32 {crc:08x}"


def synced(folder: Path, below: Path) -> dict[str, str]:
    """Syncs a file, or all files of a folder, with the disk; their checksums by their names as seen from ``below``."""
    sums = {}
    for path in sorted(folder.rglob("*")) if folder.is_dir() else [folder]:
        if path.is_file():
            with open(path, "rb") as file:
                os.fsync(file.fileno())
            sums[path.relative_to(below).as_posix()] = checksum(path)
    return sums


def publish(draft: Path, sums: Mapping[str, str], checkpoint: Path) -> None:
    """Seals a written folder with its files' checksums and gives it its name, in place of one that has it."""
    with open(draft / MANIFEST, "w", encoding="utf-8") as text:
        json.dump(dict(sums), text, indent=1)
        text.flush()
        os.fsync(text.fileno())
    remove(checkpoint)
    os.rename(draft, checkpoint)


def remove(path: Path) -> None:
    """Removes a file or a folder, which loses its name first: no kill leaves a part of it under that name."""
    if path.is_dir():
        nameless = path.with_name(path.name + ".old.tmp")
        shutil.rmtree(nameless, ignore_errors=True)
        os.rename(path, nameless)
        shutil.rmtree(nameless)
    else:
        path.unlink(missing_ok=True)


def damage(checkpoint: Path) -> str | None:
    """The first thing wrong with a checkpoint; None where every byte is what was written."""
    if not checkpoint.exists():
        return f"{checkpoint} is missing"
    if checkpoint.is_file() and not rank_folders(checkpoint):
        return "a file has weights alone, for ezm eval; a run resumes from a checkpoint's folder"
    return _damage(parts_folder(checkpoint) / MANIFEST)


def _damage(manifest: Path) -> str | None:
    if not manifest.is_file():
        return f"{manifest} is missing"
    try:
        listed = dict(json.loads(manifest.read_text(encoding="utf-8")))
    except (ValueError, TypeError):
        return f"{manifest} cannot be read"
    for name, written in listed.items():
        file = manifest.parent / name
        if not file.is_file():
            return f"{file} is missing"
        if (found := checksum(file)) != written:
            return f"{file} is damaged ({found}; written were {written})"
        if file.name == MANIFEST and (wrong := _damage(file)):  # an older version gave each rank a manifest
            return wrong
    return None
