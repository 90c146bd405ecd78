"""Checkers that compare the project with reference files, and where these files are.

The golden searches lie in ``searches``. HumanoidBench's traces and assets are too large for the repository. ``TRACES``
is their folder: the one that the environment variable EZM_TRACES names, else ``../shared/data/humanoidbench`` beside
the repository. ``docs/humanoidbench.md`` says what it holds.
"""

import os
from pathlib import Path

from ezm_lightning.envs.humanoidbench.assets import find_assets

BESIDE = Path(__file__).resolve().parents[3] / "shared" / "data" / "humanoidbench"
TRACES = Path(os.environ.get("EZM_TRACES") or BESIDE).expanduser()
HOW_TO_MAKE_TRACES = (
    "set EZM_TRACES to a folder and run `python -m tests.golden.record_humanoidbench $EZM_TRACES/golden`, "
    "see docs/humanoidbench.md"
)
HOW_TO_GET_ASSETS = "run `ezm fetch hb`, or set EZM_TRACES to a folder with assets_minimal"


def original_assets() -> Path | None:
    """HumanoidBench's own assets: those beside the traces, else those that the package finds; None without any."""
    beside = TRACES / "assets_minimal"
    return beside if beside.is_dir() else find_assets()
