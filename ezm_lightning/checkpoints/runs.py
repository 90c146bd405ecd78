"""Run folders: ``runs/<name>/seed<seed>_<time>/checkpoints/step=<number>.ckpt/``."""

from __future__ import annotations

import contextlib
import csv
import fcntl
import json
import logging
import os
import re
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ezm_lightning.checkpoints.folder import WEIGHTS, damage, is_checkpoint, weights_file
from ezm_lightning.errors import nearest

RECORD = "run.json"  # what is known of a run, see callbacks/record.py
BEST = "best.ckpt"  # weights alone: no run goes on from it
STEP = re.compile(r"step=(\d+)")
log = logging.getLogger(__name__)


def newest_checkpoint(run: Path) -> Path | None:
    """The intact checkpoint of a run with the highest step; None where there is none.

    Intact means that each of its files is, byte for byte, what was written. Broken newer ones are named in a line.
    """
    for checkpoint in _newest_first(run / "checkpoints"):
        wrong = damage(checkpoint)
        if wrong is None:
            return checkpoint
        if os.environ.get("LOCAL_RANK", "0") == "0":
            log.warning("passing over %s: %s", checkpoint, wrong)
    return None


def newest_weights(run: Path) -> Path | None:
    """The checkpoint of a run with the highest step whose weights are whole, whatever else it lacks; None where there
    is none."""
    checkpoints = _newest_first(run / "checkpoints") or _steps_in(run)
    return next((checkpoint for checkpoint in checkpoints if _is_whole(weights_file(checkpoint))), None)


def _steps_in(folder: Path) -> list[Path]:
    return [checkpoint for checkpoint in _newest_first(folder) if STEP.match(checkpoint.name)]


def _is_whole(file: Path) -> bool:
    """Whether an archive's records have the checksums that are written in it."""
    try:
        with zipfile.ZipFile(file) as records:
            return records.testzip() is None
    except Exception:  # what is no archive, or a damaged one, makes the reader raise anything
        return False


def check_intact(checkpoint: str | Path) -> None:
    """Raises ValueError, naming what is wrong and the newest intact one beside it, unless a run can go on from it."""
    path = Path(checkpoint)
    wrong = damage(path)
    if wrong is None:
        return
    intact = (other for other in _newest_first(path.parent) if damage(other) is None)
    raise ValueError(f"{checkpoint} is not intact: {wrong}; newest intact one there: {next(intact, 'none')}")


def _newest_first(folder: Path) -> list[Path]:
    checkpoints = (path for path in folder.glob("*.ckpt") if path.name not in (BEST, WEIGHTS))
    return sorted(checkpoints, key=_step, reverse=True)


def _step(checkpoint: Path) -> tuple[int, str]:
    match = STEP.search(checkpoint.name)
    return (int(match.group(1)) if match else -1, checkpoint.name)


def last_checkpoint(run: Path, seed: int, *, weights: bool = False) -> Path:
    """What ``ckpt_path=last`` means for a run that would be written to ``run``.

    The newest intact checkpoint in ``run`` itself, else in the newest of its siblings ``seed<seed>_<time>`` that
    holds one. With ``weights`` its weights alone need to be whole. Raises ValueError naming where it looked.
    """
    siblings = sorted(run.parent.glob(f"seed{seed}_*"), reverse=True)
    for folder in (run, *siblings):
        checkpoint = newest_weights(folder) if weights else newest_checkpoint(folder)
        if checkpoint is not None:
            return checkpoint
    others = sorted({file.parents[2].name for file in run.parent.parent.glob("*/*/checkpoints/*.ckpt")})
    hint = f"; checkpoints exist under the names: {', '.join(others)}" if others else ""
    raise ValueError(f"ckpt_path=last: no intact checkpoint in {run.parent}/seed{seed}_*/checkpoints{hint}")


def existing_checkpoint(path: str, *, weights: bool = False) -> str:
    """``path``, or the newest checkpoint of the run folder that it is; with ``weights`` its weights alone need to be
    whole. Raises ValueError naming the nearest file."""
    given = Path(path)
    if given.name == WEIGHTS and given.is_file():
        return str(given.parent)
    if is_checkpoint(given) or "://" in path:
        return path
    if given.is_dir():
        checkpoint = newest_weights(given) if weights else newest_checkpoint(given)
        if checkpoint is None:
            raise ValueError(f"ckpt_path={path} is a folder without an intact checkpoint in {given / 'checkpoints'}")
        return str(checkpoint)
    known = sorted({str(file) for root in (given.parent, Path("runs")) for file in _checkpoints_below(root)})
    hint = f"nearest: {nearest(path, known, count=1)}" if known else "no .ckpt in its folder nor below runs/"
    raise ValueError(f"ckpt_path={path} does not exist; {hint}")


def _checkpoints_below(root: Path) -> list[Path]:
    depths = ("*.ckpt", "checkpoints/*.ckpt", "*/checkpoints/*.ckpt", "*/*/checkpoints/*.ckpt")
    return [file for depth in depths for file in root.glob(depth)]


def recorded_starts(run: str | Path) -> list[dict[str, Any]]:
    """What the record of a run says of each of its starts; none where there is no record that can be read."""
    try:
        record = json.loads((Path(run) / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    return list(record.get("starts", [])) if isinstance(record, dict) else []


def recorded_id(run: str | Path, ckpt_path: str | None, logger: str) -> str | None:
    """What a logger's service has called this run; None for a run that does not go on in its own folder."""
    if ckpt_path is None or not Path(ckpt_path).resolve().is_relative_to(Path(run).resolve()):
        return None
    known = [start.get("loggers", {}).get(logger) for start in recorded_starts(run)]
    return next((identity for identity in reversed(known) if identity), None)


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


def check_unused(run: Path) -> None:
    """Raises ValueError where a folder holds what a run that starts there would replace: a checkpoint, or a curve that
    has more than the evaluation before training."""
    holds = next((run / "checkpoints").glob("*.ckpt"), None)
    curve = run / "eval.csv"
    if holds is None and curve.is_file() and _has_been_trained(curve):
        holds = curve
    if holds is not None:
        raise ValueError(
            f"{run} holds another run ({holds.relative_to(run)}): go on with it by ckpt_path={run} "
            f"hydra.run.dir={run}, or name another folder with hydra.run.dir=..."
        )


def _has_been_trained(curve: Path) -> bool:
    with open(curve, encoding="utf-8", newline="") as file:
        return any(row.get("update") != "0" for row in csv.DictReader(file))


def new_folder(run: Path) -> Path:
    """Makes the folder of a run that nobody has named; where it is taken, the next one: <run>_2, <run>_3 …"""
    run.parent.mkdir(parents=True, exist_ok=True)
    number, folder = 1, run
    while True:
        try:
            folder.mkdir()
            return folder
        except FileExistsError:
            number += 1
            folder = run.with_name(f"{run.name}_{number}")


@contextlib.contextmanager
def held(run: Path) -> Iterator[None]:
    """Keeps the folder of a run to this process while this lasts. Raises ValueError where another one holds it."""
    descriptor = os.open(run, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(f"another process is writing to {run}; another folder is hydra.run.dir=...") from error
        except OSError:  # a file system without locks
            pass
        yield
    finally:
        os.close(descriptor)


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
