"""HumanoidBench's assets: the robots and scenes that the tasks ``hb/...`` load, fetched from their authors.

  ezm humanoidbench fetch                       clone what the tasks need (19 MB) into the cache folder
  ezm humanoidbench fetch --from URL_OR_PATH    the same from another place that has upstream's commit

The clone goes to $XDG_CACHE_HOME/ezm_lightning (or ~/.cache/ezm_lightning), where the tasks find it. To use a copy
elsewhere set the environment variable HUMANOID_BENCH_ASSETS to its folder humanoid_bench/assets; set it to the word
builtin to use none. `ezm doctor` says which is in use. Needs git.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from ezm_lightning.envs.humanoidbench import assets
from ezm_lightning.errors import Parser, refuse

UPSTREAM = "https://github.com/carlosferrazza/humanoid-bench"
LICENSES = ("LICENSE", "humanoid_bench/assets/h1/LICENSE", "humanoid_bench/assets/shadow_hand_menagerie/LICENSE")
GIVE_UP = ("-c", "http.lowSpeedLimit=1000", "-c", "http.lowSpeedTime=60")  # bytes a second, seconds


def fetch(source: str, folder: Path) -> None:
    """Clone what the tasks need from the git repository ``source`` into ``folder``, which must not exist.

    One commit, without history and without the files of other tasks. ``folder`` appears when it is complete. Raises
    RuntimeError where git is missing or fails, or where the files are not the published ones; OSError where the
    folder cannot be written.
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
    wanted = [*LICENSES, *((assets.PACKAGE_PATH / name).as_posix() for name in assets.DIGESTS)]
    patterns = clone / ".git" / "info" / "sparse-checkout"
    patterns.parent.mkdir(exist_ok=True)
    patterns.write_text("".join(f"/{name}\n" for name in wanted))
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
        told = [line for line in error.stderr.splitlines() if line.startswith(("fatal:", "error:"))]
        raise RuntimeError(f"git: {told[0] if told else error.stderr.strip()}") from error


def _wrong(folder: Path) -> str:
    """What is wrong with the assets in ``folder``; empty where nothing is."""
    absent, changed = assets.absent(folder), assets.differing(folder)
    if not absent and not changed:
        return ""
    return (
        f"of the {len(assets.DIGESTS)} files that the tasks need {len(absent)} are missing and {len(changed)} differ "
        f"from commit {assets.COMMIT[:7]}, the first: {(absent + changed)[0]}"
    )


def fetch_command(source: str) -> int:
    """Fetch unless the cache folder is complete; the exit status. What goes wrong is one line on stderr."""
    folder = assets.cache_folder()
    found = folder / assets.PACKAGE_PATH
    if folder.exists():
        wrong = _wrong(found)
        if wrong:
            return refuse(f"{folder} exists, but {wrong}; move that folder away and fetch again")
        print(f"already there and complete: {found}")
    else:
        print(f"fetching {assets.COMMIT[:7]} from {source} ...", flush=True)
        try:
            fetch(source, folder)
        except (RuntimeError, OSError) as error:
            return refuse(
                f"could not fetch from {source} ({error}); clone {UPSTREAM} by hand to {folder}, or set "
                f"{assets.VARIABLE} to the folder {assets.PACKAGE_PATH.as_posix()} of a clone"
            )
        print(f"fetched and checked: {found}")
        print("licences beside the files: MIT (HumanoidBench), BSD-3-Clause (Unitree H1), Apache-2.0 (Shadow Hand)")
    _say_what_is_used(found)
    return 0


def _say_what_is_used(found: Path) -> None:
    try:
        used = assets.find_assets()
    except ValueError as error:
        print(f"note: it is not used: {error}")
        return
    if used != found:
        print(f"note: it is not used, {used or 'the word ' + assets.NO_ASSETS + f' in {assets.VARIABLE}'} comes first")


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = Parser(prog="ezm humanoidbench", add_help=False, exit_on_error=False)
    parser.add_argument("action", choices=["fetch"])
    parser.add_argument("--from", dest="source", default=UPSTREAM)
    return parser.parse_args(arguments)


def main(argv: list[str] | None = None) -> int:
    """The exit status: 0, or 2 for a mistake or a failure that is explained in one line on stderr."""
    arguments = sys.argv[1:] if argv is None else argv
    if not arguments or any(argument in ("-h", "--help") for argument in arguments):
        print(__doc__)
        return 0
    try:
        options = _parse(arguments)
    except (ValueError, argparse.ArgumentError) as error:
        return refuse(f"{error}; usage: ezm humanoidbench fetch [--from URL_OR_PATH]")
    return fetch_command(options.source)
