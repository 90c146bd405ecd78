"""docs/extend.md, executed as it is printed there: files are written, the rest is run, from top to bottom."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "extend.md"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"(?:# @package _global_\n)?# (\S+\.(?:py|yaml))\n")
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


def test_every_recipe_does_what_it_says(tmp_path: Path) -> None:
    sections = PAGE.read_text(encoding="utf-8").split("\n## ")[1:]
    assert {section.splitlines()[0] for section in sections} >= set(CHECKS)
    for section in sections:
        typed = 0
        for language, text in BLOCK.findall(section):
            name = FILE.match(text)
            if name is None:
                run(tmp_path, language, text)
                typed += 1
            else:
                (tmp_path / name[1]).parent.mkdir(parents=True, exist_ok=True)
                (tmp_path / name[1]).write_text(text, encoding="utf-8")
        assert typed, section
        for file, words in CHECKS.get(section.splitlines()[0], ()):
            newest = max((tmp_path / "runs" / "mine").iterdir())
            assert words in (newest / file).read_text(), section
