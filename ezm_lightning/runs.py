"""Run folders: ``runs/<name>/seed<seed>_<time>/checkpoints/step=<number>.ckpt`` and the side-car folder beside each."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from ezm_lightning.envs.tasks import nearest

STEP = re.compile(r"step=(\d+)")


def newest_checkpoint(run: Path) -> Path | None:
    """The complete checkpoint of a run with the highest step; None where there is none.

    Complete means renamed from its temporary name and accompanied by its side-car folder.
    """
    complete = [file for file in (run / "checkpoints").glob("*.ckpt") if file.with_suffix(".sidecar").is_dir()]
    return max(complete, key=_step, default=None)


def _step(checkpoint: Path) -> tuple[int, str]:
    match = STEP.search(checkpoint.name)
    return (int(match.group(1)) if match else -1, checkpoint.name)


def last_checkpoint(run: Path, seed: int) -> Path:
    """What ``ckpt_path=last`` means for a run that would be written to ``run``.

    The newest complete checkpoint in ``run`` itself, else in the newest of its siblings ``seed<seed>_<time>`` that
    holds one. Raises ValueError naming where it looked.
    """
    siblings = sorted(run.parent.glob(f"seed{seed}_*"), reverse=True)
    for folder in (run, *siblings):
        found = newest_checkpoint(folder)
        if found is not None:
            return found
    others = sorted({file.parents[2].name for file in run.parent.parent.glob("*/*/checkpoints/*.ckpt")})
    hint = f"; checkpoints exist under the names: {', '.join(others)}" if others else ""
    raise ValueError(f"ckpt_path=last: no complete checkpoint in {run.parent}/seed{seed}_*/checkpoints{hint}")


def existing_checkpoint(path: str) -> str:
    """``path``, or the newest checkpoint of the run folder that it is. Raises ValueError naming the nearest file."""
    given = Path(path)
    if given.is_file() or "://" in path:
        return path
    if given.is_dir():
        found = newest_checkpoint(given)
        if found is None:
            raise ValueError(f"ckpt_path={path} is a folder without a complete checkpoint in {given / 'checkpoints'}")
        return str(found)
    known = sorted({str(file) for root in (given.parent, Path("runs")) for file in _checkpoints_below(root)})
    hint = f"nearest: {nearest(path, known, count=1)}" if known else "no .ckpt in its folder nor below runs/"
    raise ValueError(f"ckpt_path={path} does not exist; {hint}")


def _checkpoints_below(root: Path) -> list[Path]:
    depths = ("*.ckpt", "checkpoints/*.ckpt", "*/checkpoints/*.ckpt", "*/*/checkpoints/*.ckpt")
    return [file for depth in depths for file in root.glob(depth)]


def remove_unused_run(run: Path, started: float) -> None:
    """Remove the folder of a run that failed before it wrote anything of its own, and the parents made only for it.

    Kept is what holds a file that Hydra does not write at the start, or a file from before ``started`` (Unix seconds).
    """
    files = [file for file in run.rglob("*") if file.is_file()]
    foreign = [file for file in files if file.suffix not in {".yaml", ".log"} or file.stat().st_mtime < started - 1]
    if foreign or not run.is_dir():
        return
    shutil.rmtree(run)
    for parent in (run.parent, run.parent.parent):
        if parent == Path.cwd() or any(parent.iterdir()):
            return
        parent.rmdir()
