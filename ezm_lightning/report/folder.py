"""A report's folder: it appears completely or not at all, and replaces only an earlier report."""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from ezm_lightning.report.runs import MARKER


def check_out(out: Path) -> None:
    """Raises ValueError if ``out`` exists and is not a report, or if it cannot be written."""
    if out.exists():
        _check_replaceable(out)
    parent = next(folder for folder in out.absolute().parents if folder.exists())
    try:
        with tempfile.TemporaryDirectory(prefix=".report-", dir=parent):
            pass
    except OSError as error:
        raise ValueError(f"out={out} cannot be written ({error.strerror}): name another folder") from error


def _check_replaceable(out: Path) -> None:
    if not out.is_dir():
        raise ValueError(f"out={out} is a file, not a folder: name another")
    present = {file.name for file in out.iterdir()}
    if not present:
        return
    try:
        written = set(json.loads((out / MARKER).read_text(encoding="utf-8"))["files"])
    except (OSError, ValueError, KeyError, TypeError):
        raise ValueError(f"out={out} exists and is not a report of ezm report: name another folder") from None
    foreign = sorted(present - written - {MARKER})
    if foreign:
        raise ValueError(f"out={out} also holds {', '.join(foreign)}, which no report has written: name another folder")


def write_report(out: Path, files: Mapping[str, bytes], about: Mapping[str, str]) -> None:
    """Writes a report's files beside ``out``, then renames the folder; an earlier report is removed."""
    out = out.absolute()
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        for name, content in files.items():
            (temporary / name).write_bytes(content)
        text = json.dumps({**about, "files": sorted(files)}, indent=1) + "\n"
        (temporary / MARKER).write_text(text, encoding="utf-8")
        temporary.chmod(0o755)
        with _moved_away(out):
            temporary.rename(out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def _moved_away(out: Path) -> Iterator[None]:
    """Renames the folder ``out`` for the context; removes it at the end, or restores its name after an error."""
    if not out.exists():
        yield
        return
    old = Path(tempfile.mkdtemp(prefix=f".{out.name}-old-", dir=out.parent))
    out.rename(old / out.name)
    try:
        yield
    except BaseException:
        (old / out.name).rename(out)
        raise
    finally:
        shutil.rmtree(old, ignore_errors=True)
