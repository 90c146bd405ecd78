"""Run folders: ``runs/<name>/seed<seed>_<time>/checkpoints/step=<number>.ckpt`` and the side-car folder beside each."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shutil
import tempfile
from pathlib import Path

from ezm_lightning.checkpoints.sealed import checkpoint_damage
from ezm_lightning.errors import nearest

BEST = "best.ckpt"  # weights alone: no run goes on from it
STEP = re.compile(r"step=(\d+)")
log = logging.getLogger(__name__)


def newest_checkpoint(run: Path) -> Path | None:
    """The intact checkpoint of a run with the highest step; None where there is none.

    Intact means that it and its side-car are, byte for byte, what was written. Broken newer ones are named in a line.
    """
    for file in _newest_first(run / "checkpoints"):
        wrong = checkpoint_damage(file)
        if wrong is None:
            return file
        if os.environ.get("LOCAL_RANK", "0") == "0":
            log.warning("passing over %s: %s", file, wrong)
    return None


def check_intact(checkpoint: str | Path) -> None:
    """Raises ValueError, naming what is wrong and the newest intact one beside it, unless a run can go on from it."""
    file = Path(checkpoint)
    wrong = checkpoint_damage(file)
    if wrong is None:
        return
    intact = (other for other in _newest_first(file.parent) if checkpoint_damage(other) is None)
    raise ValueError(f"{checkpoint} is not intact: {wrong}; newest intact one there: {next(intact, 'none')}")


def _newest_first(folder: Path) -> list[Path]:
    return sorted((file for file in folder.glob("*.ckpt") if file.name != BEST), key=_step, reverse=True)


def _step(checkpoint: Path) -> tuple[int, str]:
    match = STEP.search(checkpoint.name)
    return (int(match.group(1)) if match else -1, checkpoint.name)


def last_checkpoint(run: Path, seed: int) -> Path:
    """What ``ckpt_path=last`` means for a run that would be written to ``run``.

    The newest intact checkpoint in ``run`` itself, else in the newest of its siblings ``seed<seed>_<time>`` that
    holds one. Raises ValueError naming where it looked.
    """
    siblings = sorted(run.parent.glob(f"seed{seed}_*"), reverse=True)
    for folder in (run, *siblings):
        found = newest_checkpoint(folder)
        if found is not None:
            return found
    others = sorted({file.parents[2].name for file in run.parent.parent.glob("*/*/checkpoints/*.ckpt")})
    hint = f"; checkpoints exist under the names: {', '.join(others)}" if others else ""
    raise ValueError(f"ckpt_path=last: no intact checkpoint in {run.parent}/seed{seed}_*/checkpoints{hint}")


def existing_checkpoint(path: str) -> str:
    """``path``, or the newest checkpoint of the run folder that it is. Raises ValueError naming the nearest file."""
    given = Path(path)
    if given.is_file() or "://" in path:
        return path
    if given.is_dir():
        found = newest_checkpoint(given)
        if found is None:
            raise ValueError(f"ckpt_path={path} is a folder without an intact checkpoint in {given / 'checkpoints'}")
        return str(found)
    known = sorted({str(file) for root in (given.parent, Path("runs")) for file in _checkpoints_below(root)})
    hint = f"nearest: {nearest(path, known, count=1)}" if known else "no .ckpt in its folder nor below runs/"
    raise ValueError(f"ckpt_path={path} does not exist; {hint}")


def _checkpoints_below(root: Path) -> list[Path]:
    depths = ("*.ckpt", "checkpoints/*.ckpt", "*/checkpoints/*.ckpt", "*/*/checkpoints/*.ckpt")
    return [file for depth in depths for file in root.glob(depth)]


def check_writable(run: Path) -> None:
    """Raises ValueError where the folder of a run cannot be made or written to; leaves nothing behind."""
    error = not_writable(run)
    if error is not None:
        raise ValueError(f"the run's folder {run} cannot be written ({error.strerror}): hydra.run.dir=...") from error


def not_writable(folder: Path) -> OSError | None:
    """Why a folder cannot be made or written to; None where it can. Leaves nothing behind."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return None
    except OSError as error:
        return error
    finally:
        for each in missing:
            with contextlib.suppress(OSError):
                each.rmdir()


def remove_unused_run(run: Path, started: float) -> None:
    """Remove the folder of a run that failed before it wrote anything of its own, and the parents made only for it.

    Kept is what holds a file that Hydra does not write at the start, or a file from before ``started`` (Unix seconds),
    and the working folder, which is no run's.
    """
    if Path.cwd().is_relative_to(run.resolve()):
        return
    files = [file for file in run.rglob("*") if file.is_file()]
    foreign = [file for file in files if file.suffix not in {".yaml", ".log"} or file.stat().st_mtime < started - 1]
    if foreign or not run.is_dir():
        return
    shutil.rmtree(run)
    for parent in (run.parent, run.parent.parent):
        if parent == Path.cwd() or any(parent.iterdir()):
            return
        parent.rmdir()
