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
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ezm_lightning.checkpoints.folder import WEIGHTS, damage, is_checkpoint, weights_file
from ezm_lightning.errors import nearest

RECORD = "run.json"  # the record of a run, see callbacks/record.py
BEST = "best.ckpt"  # only weights: no run can be resumed from it
PRETRAINING = "pretrain"  # in a run's folder: the stage before it, in the form of a run
UNKNOWN = "unknown"  # a commit or command that a start has not recorded
STEP = re.compile(r"step=(\d+)")
log = logging.getLogger(__name__)


def newest_checkpoint(run: Path) -> Path | None:
    """The intact checkpoint of a run with the highest step, else that of its pretraining; None if there is none.

    A checkpoint is intact if every byte of its files is as written. Damaged newer ones are reported in one line each.
    """
    for checkpoint in [*_newest_first(run / "checkpoints"), *_newest_first(run / PRETRAINING / "checkpoints")]:
        wrong = damage(checkpoint)
        if wrong is None:
            return checkpoint
        if os.environ.get("LOCAL_RANK", "0") == "0":
            log.warning("passing over %s: %s", checkpoint, wrong)
    return None


def newest_weights(run: Path) -> Path | None:
    """The checkpoint of a run with the highest step whose weights are complete, whatever else it lacks, else that of
    its pretraining; None if there is none."""
    of_run, before = (_newest_first(folder / "checkpoints") for folder in (run, run / PRETRAINING))
    checkpoints = of_run or before or _steps_in(run)
    return next((checkpoint for checkpoint in checkpoints if _is_whole(weights_file(checkpoint))), None)


def run_of(checkpoint: Path) -> Path:
    """The folder of the run that goes on from a checkpoint: <run>/checkpoints/<name>, also of its pretraining."""
    folder = checkpoint.parent.parent
    return folder.parent if folder.name == PRETRAINING else folder


def _steps_in(folder: Path) -> list[Path]:
    return [checkpoint for checkpoint in _newest_first(folder) if STEP.match(checkpoint.name)]


def _is_whole(file: Path) -> bool:
    """Whether an archive's records match the checksums in the archive."""
    try:
        with zipfile.ZipFile(file) as records:
            return records.testzip() is None
    except Exception:  # for a file that is not an archive, or damaged, the reader may raise anything
        return False


def check_intact(checkpoint: str | Path) -> None:
    """Raises ValueError, with the fault and the newest intact checkpoint, unless a run can be resumed from this one."""
    path = Path(checkpoint)
    wrong = damage(path)
    if wrong is None:
        return
    intact = (candidate for candidate in _newest_first(path.parent) if damage(candidate) is None)
    raise ValueError(f"{checkpoint} is not intact: {wrong}; newest intact one there: {next(intact, 'none')}")


def _newest_first(folder: Path) -> list[Path]:
    checkpoints = (path for path in folder.glob("*.ckpt") if path.name not in (BEST, WEIGHTS))
    return sorted(checkpoints, key=_step, reverse=True)


def _step(checkpoint: Path) -> tuple[int, str]:
    match = STEP.search(checkpoint.name)
    return (int(match.group(1)) if match else -1, checkpoint.name)


def _numbers_in(folder: Path) -> list[tuple[str, int]]:
    """The name in the order of its numbers: the tenth job of a sweep is after the ninth."""
    return [(text, int(number or 0)) for text, number in re.findall(r"(\D*)(\d*)", folder.name)]


def last_checkpoint(run: Path, seed: int, *, weights: bool = False) -> Path:
    """The checkpoint that ``ckpt_path=last`` means for a run with the folder ``run``.

    The newest intact checkpoint in ``run`` or of its pretraining, else in the newest sibling ``seed<seed>_<time>`` that
    has one. With ``weights`` only its weights must be complete. Raises ValueError with the folder in which it looked.
    """
    siblings = sorted(run.parent.glob(f"seed{seed}_*"), key=_numbers_in, reverse=True)
    for folder in (run, *siblings):
        checkpoint = newest_weights(folder) if weights else newest_checkpoint(folder)
        if checkpoint is not None:
            return checkpoint
    names = sorted({file.parents[2].name for file in run.parent.parent.glob("*/*/checkpoints/*.ckpt")})
    hint = f"; checkpoints exist under the names: {', '.join(names)}" if names else ""
    raise ValueError(f"ckpt_path=last: no intact checkpoint in {run.parent}/seed{seed}_*/checkpoints{hint}")


def existing_checkpoint(path: str, *, weights: bool = False) -> str:
    """``path``, or the newest checkpoint in it if it is a run's folder; with ``weights`` only its weights must be
    complete. Raises ValueError with the nearest file."""
    target = Path(path)
    if target.name == WEIGHTS and target.is_file():
        return str(target.parent)
    if is_checkpoint(target) or "://" in path:
        return path
    if target.is_dir():
        return str(checkpoint_in(target, f"ckpt_path={path}", weights=weights))
    known = sorted({str(file) for root in (target.parent, Path("runs")) for file in _checkpoints_below(root)})
    hint = f"nearest: {nearest(path, known, count=1)}" if known else "no .ckpt in its folder nor below runs/"
    raise ValueError(f"ckpt_path={path} does not exist; {hint}")


def checkpoint_in(run: Path, written: str, *, weights: bool = False) -> Path:
    """The newest checkpoint of a run's folder; with ``weights`` only its weights must be complete. Raises ValueError,
    which begins with what the user has ``written``, if there is none."""
    checkpoint = newest_weights(run) if weights else newest_checkpoint(run)
    if checkpoint is None:
        inside = {file.parents[1] for file in run.glob("*/checkpoints/*.ckpt")}
        hint = f"; nearest: {max(inside, key=_numbers_in)}" if inside else ""
        raise ValueError(f"{written} is a folder without an intact checkpoint in {run / 'checkpoints'}{hint}")
    return checkpoint


def _checkpoints_below(root: Path) -> list[Path]:
    depths = ("*.ckpt", "checkpoints/*.ckpt", "*/checkpoints/*.ckpt", "*/*/checkpoints/*.ckpt")
    return [file for depth in depths for file in root.glob(depth)]


def recorded_starts(run: str | Path) -> list[dict[str, Any]]:
    """The entry of each start in the record of a run; [] if there is no readable record."""
    try:
        record = json.loads((Path(run) / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    return starts_of(record) if isinstance(record, dict) else []


def starts_of(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The entry of each start in the content of a record; entries of other forms are left out."""
    starts = record.get("starts")
    return [start for start in starts if isinstance(start, dict)] if isinstance(starts, list) else []


def command_of(starts: Sequence[Mapping[str, Any]]) -> str | None:
    """The command that began a run; None if no start has recorded one. A resumed run has more."""
    return next((str(start["command"]) for start in starts if start.get("command")), None)


def commits_of(starts: Sequence[Mapping[str, Any]]) -> str | None:
    """The commits that made a run, in order, and which of them had changes; None if no start has recorded one."""
    named = list(dict.fromkeys(_commit(start.get("git")) for start in starts))
    return None if named in ([], [UNKNOWN]) else ", then ".join(named)


def _commit(git: object) -> str:
    if not isinstance(git, dict):
        return UNKNOWN
    return f"{str(git.get('commit', '?'))[:9]}{'' if git.get('clean', True) else ' with changes'}"


def recorded_id(run: str | Path, ckpt_path: str | None, logger: str) -> str | None:
    """The id of this run in a logger's service; None for a run that is not resumed in its own folder."""
    if ckpt_path is None or not Path(ckpt_path).resolve().is_relative_to(Path(run).resolve()):
        return None
    identities = [start.get("loggers", {}).get(logger) for start in recorded_starts(run)]
    return next((identity for identity in reversed(identities) if identity), None)


def check_writable(run: Path) -> None:
    """Raises ValueError if the folder of a run cannot be made or written to; leaves nothing behind."""
    error = not_writable(run)
    if error is not None:
        raise ValueError(f"the run's folder {run} cannot be written ({error.strerror}): hydra.run.dir=...") from error


def not_writable(folder: Path) -> OSError | None:
    """The error of making or writing to a folder; None if that works. Leaves nothing behind."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return None
    except OSError as error:
        return error
    finally:
        for path in missing:
            with contextlib.suppress(OSError):
                path.rmdir()


def check_unused(run: Path) -> None:
    """Raises ValueError if a folder holds files that a new run would replace: a checkpoint, or a curve with more than
    the evaluation before training."""
    holds = next((file for place in (run, run / PRETRAINING) for file in (place / "checkpoints").glob("*.ckpt")), None)
    curve = run / "eval.csv"
    if holds is None and curve.is_file() and _has_been_trained(curve):
        holds = curve
    if holds is not None:
        raise ValueError(
            f"{run} holds another run ({holds.relative_to(run)}): resume it with ckpt_path={run} "
            f"hydra.run.dir={run}, or name another folder with hydra.run.dir=..."
        )


def _has_been_trained(curve: Path) -> bool:
    with open(curve, encoding="utf-8", newline="") as file:
        return any(row.get("update") != "0" for row in csv.DictReader(file))


def new_folder(run: Path) -> Path:
    """Makes the folder of a run without a name of its own; if it exists, the next one: <run>_2, <run>_3 …"""
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
    """Locks the folder of a run for this process within the context. Raises ValueError if another process holds it."""
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
    """Removes the folder of a run that failed before it wrote a file of its own, and the parents made only for it.

    A folder is kept if it has a file that Hydra does not write at the start, or a file from before ``started`` (Unix
    seconds). The working folder is kept too.
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
