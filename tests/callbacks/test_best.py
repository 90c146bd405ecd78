"""The best checkpoint beside the newest: the weights of the evaluation with the largest value."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch

from ezm_lightning.agent import load
from ezm_lightning.checkpoints.folder import weights_file
from ezm_lightning.checkpoints.runs import newest_checkpoint
from ezm_lightning.commands import train
from ezm_lightning.commands.eval import evaluate
from tests.runs.short import SIZE, budget

EVALUATED = ["evaluate.interval=40", "evaluate.episodes=3", "checkpoint.monitor=eval/mean"]


def returns(run: Path) -> dict[int, float]:
    return {int(row["update"]): float(row["return"]) for row in csv.DictReader((run / "eval.csv").open())}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("best")
    assert train.main([*SIZE, budget(30), *EVALUATED, f"hydra.run.dir={folder}"]) == 0
    return folder


def test_it_has_the_weights_of_the_best_evaluation(run: Path) -> None:
    after_an_update = {update: value for update, value in returns(run).items() if update > 0}
    best = max(after_an_update.values())
    agent = load(run / "checkpoints" / "best.ckpt")
    assert evaluate(agent, agent.tasks, episodes=3, seed=10_001)[0].return_ == pytest.approx(best)
    saved = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)
    assert after_an_update[saved["global_step"]] == best and "optimizer_states" not in saved


def test_a_run_goes_on_from_the_newest_and_never_from_the_best(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert newest_checkpoint(run).name == "step=00000030.ckpt"
    assert train.main([*SIZE, budget(40), f"ckpt_path={run / 'checkpoints' / 'best.ckpt'}"]) == 2
    assert "has only weights, for ezm eval" in capsys.readouterr().err


def test_a_run_that_goes_on_keeps_the_best_of_before(run: Path) -> None:
    before = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)["global_step"]
    seen = returns(run)
    go_on = [f"ckpt_path={newest_checkpoint(run)}", f"hydra.run.dir={run}"]
    assert train.main([*SIZE, budget(50), *EVALUATED, *go_on]) == 0
    later = {update: value for update, value in returns(run).items() if update > max(seen)}
    best = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)["global_step"]
    expected = max(later, key=later.__getitem__) if max(later.values()) > seen[before] else before
    assert best == expected


def test_a_run_that_goes_on_elsewhere_has_a_best_of_its_own(run: Path, tmp_path: Path) -> None:
    start = newest_checkpoint(run)
    go_on = [f"ckpt_path={start}", f"hydra.run.dir={tmp_path / 'run'}"]
    before = torch.load(weights_file(start), weights_only=True)["global_step"]
    assert train.main([*SIZE, budget(before + 20), *EVALUATED, *go_on]) == 0
    later = {update: value for update, value in returns(tmp_path / "run").items() if update > before}
    best = torch.load(tmp_path / "run" / "checkpoints" / "best.ckpt", weights_only=True)["global_step"]
    assert best == max(later, key=later.__getitem__)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        (
            "checkpoint.monitor=eval/men",
            "checkpoint.monitor=eval/men is no metric of the evaluations; nearest: eval/mean",
        ),
        ("checkpoint.mode=mx", "checkpoint.mode=mx must be max or min; nearest: max"),
    ],
)
def test_what_cannot_be_watched_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], override, said) -> None:
    assert train.main([*SIZE, budget(4), *EVALUATED, override, f"hydra.run.dir={tmp_path / 'run'}"]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


def test_a_resumed_run_says_so_before_it_trains(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = newest_checkpoint(run)
    go_on = [f"ckpt_path={before}", f"hydra.run.dir={run}", "checkpoint.monitor=eval/men"]
    assert train.main([*SIZE, budget(60), *EVALUATED, *go_on]) == 2
    assert "checkpoint.monitor=eval/men is no metric of the evaluations" in capsys.readouterr().err
    assert newest_checkpoint(run) == before
