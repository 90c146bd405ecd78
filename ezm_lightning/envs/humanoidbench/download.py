"""HumanoidBench's assets: the robots and scenes that the tasks ``hb/...`` load, fetched from their authors.

The clone goes to $XDG_CACHE_HOME/ezm_lightning (or ~/.cache/ezm_lightning), where the tasks find it. Needs git.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ezm_lightning.envs.humanoidbench import assets

UPSTREAM = "https://github.com/carlosferrazza/humanoid-bench"
LICENSES = ("LICENSE", "humanoid_bench/assets/h1/LICENSE", "humanoid_bench/assets/shadow_hand_menagerie/LICENSE")
GIVE_UP = ("-c", "http.lowSpeedLimit=1000", "-c", "http.lowSpeedTime=60")  # bytes per second, seconds


def download(source: str, folder: Path) -> None:
    """Clones the files that the tasks need from the git repository ``source`` into ``folder``, which must not exist.

    One commit, without history and without the files of other tasks. ``folder`` appears when it is complete. Raises
    RuntimeError if git is missing or fails, or if the files are not the published ones; OSError if the folder cannot be
    written.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=folder.parent) as temporary:
        clone = Path(temporary, "clone")
        _clone(source, clone)
        wrong = _wrong(clone / assets.PACKAGE_PATH)
        if wrong:
            raise RuntimeError(wrong)
        clone.rename(folder)


def _clone(source: str, clone: Path) -> None:
    if Path(source).exists():
        source = str(Path(source).resolve())
    _git("init", "--quiet", str(clone))
    paths = [*LICENSES, *((assets.PACKAGE_PATH / name).as_posix() for name in assets.DIGESTS)]
    patterns = clone / ".git" / "info" / "sparse-checkout"
    patterns.parent.mkdir(exist_ok=True)
    patterns.write_text("".join(f"/{name}\n" for name in paths))
    for key, value in (("core.sparseCheckout", "true"), ("core.autocrlf", "false"), ("remote.origin.url", source)):
        _git("-C", str(clone), "config", key, value)
    _git("-C", str(clone), *GIVE_UP, "fetch", "--quiet", "--depth=1", "--filter=blob:none", "origin", assets.COMMIT)
    _git("-C", str(clone), *GIVE_UP, "checkout", "--quiet", "FETCH_HEAD")


def _git(*arguments: str) -> None:
    quiet = {**os.environ, "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}
    try:
        subprocess.run(
            ["git", *arguments], env=quiet, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True
        )
    except FileNotFoundError as error:
        raise RuntimeError("git is not installed") from error
    except subprocess.CalledProcessError as error:
        problems = [line for line in error.stderr.splitlines() if line.startswith(("fatal:", "error:"))]
        raise RuntimeError(f"git: {problems[0] if problems else error.stderr.strip()}") from error


def _wrong(folder: Path) -> str:
    """What is wrong with the assets in ``folder``; empty if nothing is."""
    absent, changed = assets.absent(folder), assets.differing(folder)
    if not absent and not changed:
        return ""
    return (
        f"of the {len(assets.DIGESTS)} files that the tasks need {len(absent)} are missing and {len(changed)} differ "
        f"from commit {assets.COMMIT[:7]}, the first: {(absent + changed)[0]}"
    )


def fetch_assets(source: str | None = None) -> Iterator[str]:
    """Fetches from a git repository (None: the authors') unless the cache folder is complete; yields lines to print.

    Raises ValueError, with the remedy, if it cannot or if the cache folder holds something else.
    """
    source, folder = source or UPSTREAM, assets.cache_folder()
    place = folder / assets.PACKAGE_PATH
    if folder.exists():
        wrong = _wrong(place)
        if wrong:
            raise ValueError(f"{folder} exists, but {wrong}; move that folder away and fetch again")
        yield f"already there and complete: {place}"
    else:
        yield f"fetching {assets.COMMIT[:7]} from {source} ..."
        try:
            download(source, folder)
        except (RuntimeError, OSError) as error:
            raise ValueError(
                f"could not fetch from {source} ({error}); clone {UPSTREAM} by hand to {folder}, or set "
                f"{assets.VARIABLE} to the folder {assets.PACKAGE_PATH.as_posix()} of a clone"
            ) from error
        yield f"fetched and checked: {place}"
        yield "licences beside the files: MIT (HumanoidBench), BSD-3-Clause (Unitree H1), Apache-2.0 (Shadow Hand)"
    yield from _what_is_used(place)


def _what_is_used(place: Path) -> Iterator[str]:
    try:
        used = assets.find_assets()
    except ValueError as error:
        yield f"note: it is not used: {error}"
        return
    if used != place:
        yield f"note: it is not used, {used or 'the word ' + assets.NO_ASSETS + f' in {assets.VARIABLE}'} comes first"
