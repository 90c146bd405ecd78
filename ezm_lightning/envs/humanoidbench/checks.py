"""Lines of ``ezm doctor``: which assets are in use, and whether the original package can be used."""

from __future__ import annotations

import importlib

from ezm_lightning.envs.humanoidbench import assets
from ezm_lightning.errors import first_line


def check_assets() -> tuple[bool, str]:
    """(whether HumanoidBench's assets are installed, their folder or what runs without them)."""
    try:
        folder = assets.find_assets()
    except ValueError as error:
        return False, first_line(error)
    if folder is None:
        return False, "none: hb/h1-* run on a built-in H1, hb/h1hand-* not at all; for all: ezm fetch hb"
    changed, absent = len(assets.differing(folder)), len(assets.absent(folder))
    if not changed and not absent:
        return True, f"{folder}: all {len(assets.DIGESTS)} files as published"
    return True, f"{folder}: {changed} files differ from commit {assets.COMMIT[:7]}, {absent} are missing"


def check_original() -> tuple[bool, str]:
    """(whether the original package of HumanoidBench can be used, its purpose or how to install it)."""
    try:
        importlib.import_module("ezm_lightning.envs.humanoidbench.original").load()
    except Exception as error:  # whatever a broken installation raises belongs in the report
        return False, f"optional, for gym/h1hand-cube-v0 and the like: {first_line(error)}"
    return True, "the original package, for gym/h1hand-cube-v0 and the like"
