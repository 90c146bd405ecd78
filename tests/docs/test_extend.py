"""docs/extend.md, executed as it is printed there: each section in a folder with the files of those above it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "extend.md"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"(?:# @package _global_\n)?# (\S+\.(?:py|yaml))\n")


def sections(page: Path) -> dict[str, str]:
    """The sections of a page by their headings."""
    return {text.splitlines()[0]: text for text in page.read_text(encoding="utf-8").split("\n## ")[1:]}


SECTIONS = sections(PAGE)
RUN_BEFORE = {  # heading: the section whose run it goes on with
    "An agent on tasks that it has not seen": "A task of your own",
    "Acting with a trained agent": "Experiments, tasks and models of your own",
}
CHECKS = {  # heading: a file of the newest run, and what it holds
    "Experiments, tasks and models of your own": [
        ("hydra/config.yaml", "dmc/cartpole-two_poles"),
        ("hydra/config.yaml", "latent_dim: 32"),
        ("hydra/config.yaml", "env_steps_per_task: 300"),
    ],
    "A Gymnasium environment": [("hydra/config.yaml", "gym/my_envs:Push-v0")],
    "A logger": [("mine/version_0/metrics.csv", "loss/value")],
    "An agent of your own": [("csv/version_0/metrics.csv", "loss/policy")],
    "A callback": [
        ("csv/version_0/metrics.csv", "lr-Adam"),
        ("gradient_similarity.csv", "value_policy,dmc/cartpole-two_poles,dmc/cartpole-balance"),
    ],
    "A learner of your own": [("csv/version_0/metrics.csv", "loss/latents")],
    "A network of your own": [("hydra/config.yaml", "my_networks.DeepPredictor")],
    "A policy target of your own": [("hydra/config.yaml", "my_targets.TwoBest")],
}


def run(folder: Path, language: str, text: str) -> None:
    command = {"bash": ["bash", "-euo", "pipefail", "-c", text], "python": [sys.executable, "-c", text]}[language]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = os.environ | {"PATH": path, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, text + done.stderr[-3000:]


def write_files(folder: Path, section: str) -> None:
    for _, text in BLOCK.findall(section):
        name = FILE.match(text)
        if name is not None:
            (folder / name[1]).parent.mkdir(parents=True, exist_ok=True)
            (folder / name[1]).write_text(text, encoding="utf-8")


def run_commands(folder: Path, section: str) -> None:
    typed = [(language, text) for language, text in BLOCK.findall(section) if not FILE.match(text)]
    assert typed, section
    for language, text in typed:
        run(folder, language, text)


@pytest.mark.parametrize("heading", SECTIONS)
def test_every_recipe_does_what_it_says(heading: str, tmp_path: Path) -> None:
    before = RUN_BEFORE.get(heading)
    for other, section in SECTIONS.items():
        write_files(tmp_path, section)
        if other == heading:
            break
        if other == before:
            run_commands(tmp_path, section)
    run_commands(tmp_path, SECTIONS[heading])
    for file, words in CHECKS.get(heading, ()):
        newest = max((tmp_path / "runs" / "mine").iterdir())
        assert words in (newest / file).read_text(), heading


def test_headings_named_here_are_those_of_the_page() -> None:
    assert SECTIONS.keys() >= CHECKS.keys() | RUN_BEFORE.keys() | set(RUN_BEFORE.values())
