"""A sweep for a score: `ezm train` returns its last mean return, and Optuna chooses the next parameters by it."""

from __future__ import annotations

import csv
import re
import shlex
from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml
from hydra.core.utils import JobReturn
from hydra.experimental.callback import Callback

from ezm_lightning.commands import train
from ezm_lightning.config import sweeps
from tests.runs.short import SIZE, budget

needs_optuna = pytest.mark.skipif(
    not sweeps._installed("hydra-optuna-sweeper"), reason="pip install 'ezm-lightning[hpo]'"
)
ROOT = Path(__file__).parents[2]
RATE = "module.optimizer.lr=interval(1e-4,1e-3)"
TPE = ["-m", "hydra/sweeper=optuna_tpe"]
SMALL = [*SIZE, budget(2), "evaluate.floors=false", "logger=none"]


class Noted(Callback):
    """Notes what Hydra hands to a sweeper of each job, whichever sweeper it is."""

    values: ClassVar[list[float]] = []

    def on_job_end(self, config: Any, job_return: JobReturn, **_: Any) -> None:
        self.values.append(job_return.return_value)


@pytest.fixture
def returned(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    monkeypatch.setattr(Noted, "values", [])
    return Noted.values


NOTED = "+hydra.callbacks.noted={_target_: tests.runs.test_sweep_for_a_score.Noted}"


def last_mean(run: Path) -> float:
    """The mean over tasks of the last evaluation in eval.csv."""
    rows = list(csv.DictReader((run / "eval.csv").open()))
    last = [float(row["return"]) for row in rows if row["update"] == rows[-1]["update"]]
    return sum(last) / len(last)


def documented() -> list[str]:
    """The overrides of the example of docs/scale.md."""
    (block,) = re.findall(
        r"```\n(ezm train -m hydra/sweeper=optuna_tpe .*?)```", (ROOT / "docs/scale.md").read_text(), re.S
    )
    program, verb, *overrides = shlex.split(block.replace("\\\n", " "))
    assert (program, verb) == ("ezm", "train") and overrides[:2] == TPE
    return overrides[2:]


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a sweep of four trials over the two parameters of the example."""
    folder = tmp_path_factory.mktemp("swept")
    parameters = [text for text in documented() if text.endswith(")")]
    assert parameters == [RATE, "td_steps=choice(1,3,5)"]
    trials = ["hydra.sweeper.n_trials=4", f"hydra.sweep.dir={folder}"]
    assert train.main([*TPE, *SMALL, *parameters, *trials]) == 0
    return folder


def trials(sweep: Path) -> list[tuple[dict[str, str], float]]:
    """Of each run of a sweep what was chosen for it, and the mean that it ended with."""
    runs = sorted(sweep.glob("seed*"), key=lambda run: int(run.name.rpartition("_")[2]))
    chosen = [yaml.safe_load((run / "hydra" / "overrides.yaml").read_text()) for run in runs]
    swept = ("module.optimizer.lr", "td_steps")
    pairs = [dict(text.split("=", 1) for text in texts if text.startswith(swept)) for texts in chosen]
    return [(pair, last_mean(run)) for pair, run in zip(pairs, runs, strict=True)]


def test_a_run_returns_the_mean_of_its_last_evaluation(tmp_path: Path, returned: list[float]) -> None:
    two = [*(text for text in SMALL if not text.startswith("tasks=")), "evaluate.interval=50",
           "tasks=[tests.runs.short/point,tests.runs.short/other_point]"]  # fmt: skip
    assert train.main([*two, NOTED, f"hydra.run.dir={tmp_path}"]) == 0
    rows = list(csv.DictReader((tmp_path / "eval.csv").open()))
    assert len({row["update"] for row in rows}) > 1 and rows[-1]["return"] != rows[-2]["return"]
    assert returned == [pytest.approx(last_mean(tmp_path), rel=1e-6)]


@needs_optuna
def test_each_trial_is_a_run_with_parameters_of_its_own(swept: Path) -> None:
    chosen = [pair for pair, _ in trials(swept)]
    assert len(chosen) == 4 and all(pair["td_steps"] in ("1", "3", "5") for pair in chosen)
    rates = [float(pair["module.optimizer.lr"]) for pair in chosen]
    assert all(1e-4 <= rate <= 1e-3 for rate in rates) and len(set(rates)) == 4


@needs_optuna
def test_the_best_trial_is_the_one_with_the_highest_return(swept: Path) -> None:
    best = yaml.safe_load((swept / "optimization_results.yaml").read_text())
    parameters, mean = max(trials(swept), key=lambda trial: trial[1])
    assert best["name"] == "optuna" and best["best_value"] == pytest.approx(mean, rel=1e-6)
    assert {key: str(value) for key, value in best["best_params"].items()} == parameters


@needs_optuna
def test_the_next_sweep_goes_on_with_the_trials_that_are_kept(tmp_path: Path) -> None:
    file = f"hydra.sweeper.storage.url=sqlite:///{tmp_path}/trials.db"
    kept = ["-m", "hydra/sweeper=optuna_kept", file, "hydra.sweeper.study_name=point"]
    best = []
    for name in ("first", "second"):
        one = ["hydra.sweeper.n_trials=1", RATE, f"hydra.sweep.dir={tmp_path / name}"]
        assert train.main([*kept, *SMALL, *one]) == 0
        best.append(yaml.safe_load((tmp_path / name / "optimization_results.yaml").read_text())["best_value"])
    (first, mean), (second, later) = [*trials(tmp_path / "first"), *trials(tmp_path / "second")]
    assert first != second  # the same numbers are not drawn again
    assert best == pytest.approx([mean, max(mean, later)], rel=1e-6)


def test_a_sweep_over_all_combinations_needs_no_optuna(tmp_path: Path, monkeypatch, returned: list[float]) -> None:
    """Any sweeper gets the same numbers."""
    monkeypatch.setattr(sweeps, "_installed", lambda package: False)
    assert train.main(["-m", *SMALL, NOTED, "td_steps=choice(1,3)", "seed=1,2", f"hydra.sweep.dir={tmp_path}"]) == 0
    jobs = trials(tmp_path)
    assert [pair["td_steps"] for pair, _ in jobs] == ["1", "1", "3", "3"]
    assert returned == pytest.approx([mean for _, mean in jobs], rel=1e-6)
    assert not (tmp_path / "optimization_results.yaml").exists()


REFUSED = {
    "lowest": (["-m", "hydra/sweeper=optuna", "td_steps=1,3"], "nearest: hydra.sweeper.direction=maximize"),
    "interval": (["-m", RATE], "needs a sweeper that draws from it: hydra/sweeper=optuna_tpe"),
    "no score": ([*TPE, "callbacks.evaluate=null", "td_steps=1,3"], "=null leaves the sweeper without a score"),
    "one run": (TPE[1:], "hydra/sweeper=optuna_tpe chooses the jobs of a sweep: add --multirun"),
    "an end": ([*TPE, "module.optimizer.lr=interval(-1,1e-3)"], "lr=-1"),
    "a choice": ([*TPE, "td_steps=choice(1,0)"], "td_steps=0"),
    "a key": ([*TPE, "hydra.sweeper.n_trails=2", "td_steps=1,3"], "nearest: hydra.sweeper.n_trials"),
    "a file": ([*TPE, "hydra.sweeper.storage=sqlite:///x.db", "td_steps=1,3"], "hydra.sweeper.storage.url=sqlite:///x.db"),
}  # fmt: skip


@needs_optuna
@pytest.mark.parametrize(("overrides", "line"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_swept_is_one_line(tmp_path: Path, monkeypatch, capsys, overrides: list[str], line: str) -> None:
    monkeypatch.chdir(tmp_path)
    assert train.main([*overrides, "experiment=debug"]) == 2
    said = capsys.readouterr().err
    assert line in said and said.startswith("error: ") and said.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_sweeper_that_is_not_installed_names_the_extra(monkeypatch, capsys) -> None:
    monkeypatch.setattr(sweeps, "_installed", lambda package: False)
    assert train.main([*TPE, "experiment=debug"]) == 2
    assert "hydra/sweeper=optuna_tpe is not installed: pip install 'ezm-lightning[hpo]'" in capsys.readouterr().err
