"""An agent of one's own is one file and one config: it trains, is evaluated, saved, resumed, with no edit elsewhere."""

from __future__ import annotations

import csv
import json
import shlex
from pathlib import Path

import pytest

from ezm_lightning.commands import eval as ezm_eval
from ezm_lightning.commands import train
from tests.runs.test_resume import same

ROOT = Path(__file__).parents[2]
TOY = [
    f"--config-dir={Path(__file__).parent / 'toy_conf'}",
    "agent=toy",
    "tasks=[tests.runs.short/point]",
    "envs_per_task=2",
    "warmup_env_steps=400",
    "env_steps_per_update=4",
    "evaluate.interval=1_000",
    "evaluate.episodes=4",
    "checkpoint.every_n_train_steps=200",
]


def run(folder: Path, updates: int, *overrides: str) -> Path:
    """Trains for as many updates; the last checkpoint."""
    budget = f"env_steps_per_task={400 + 4 * updates}"
    assert train.main([*TOY, budget, "replay.capacity=4_000", f"hydra.run.dir={folder}", *overrides]) == 0
    return folder / "checkpoints" / f"step={updates:08d}.ckpt"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tmp_path_factory.mktemp("whole"), 600)


def test_it_learns_and_is_evaluated(whole: Path) -> None:
    rows = list(csv.DictReader((whole.parents[1] / "eval.csv").open()))
    assert float(rows[-1]["return"]) > float(rows[0]["return"]) + 1
    assert int(rows[-1]["update"]) == 600
    metrics = (whole.parents[1] / "csv" / "version_0" / "metrics.csv").read_text()
    assert "mean_abs" in metrics.splitlines()[0]


def test_its_record_names_the_folder_of_its_configs(whole: Path) -> None:
    (start,) = json.loads((whole.parents[1] / "run.json").read_text())["starts"]
    assert shlex.split(start["command"])[:4] == ["ezm", "train", TOY[0], "agent=toy"]


def test_stopped_and_resumed_is_the_same_run(whole: Path, tmp_path: Path) -> None:
    first = run(tmp_path, 400)
    resumed = run(tmp_path, 600, f"ckpt_path={first}")
    assert same(resumed, whole) == []


def test_ezm_eval_plays_it(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ezm_eval.main([f"ckpt_path={whole}", "eval.episodes=2"]) == 2
    assert "not part of ezm_lightning" in capsys.readouterr().err
    assert ezm_eval.main([f"ckpt_path={whole}", "eval.episodes=2", "eval.trust=true"]) == 0
    assert "tests.runs.short/point" in capsys.readouterr().out
    assert ezm_eval.main([f"ckpt_path={whole}", "eval.trust=true", "planner.num_simulations=4"]) == 2
    assert "has no planner" in capsys.readouterr().err


def test_it_is_short() -> None:
    assert len((Path(__file__).parent / "toy_agent.py").read_text().splitlines()) < 80
