"""What a run leaves: its record, its log, its curve with means; and the tables at its end."""

from __future__ import annotations

import csv
import json
import platform
import shlex
import subprocess
from pathlib import Path

import pytest

from ezm_lightning.callbacks import evaluate
from ezm_lightning.callbacks.evaluate import Evaluate
from ezm_lightning.callbacks.record import git_state
from ezm_lightning.checkpoints.runs import RECORD, newest_checkpoint, recorded_id, recorded_starts
from ezm_lightning.checkpoints.text_file import replace_text
from ezm_lightning.commands import closing, train
from ezm_lightning.envs.spec import TaskSpec
from ezm_lightning.evaluation.scores import normalised
from tests.runs.short import SIZE, budget

TASKS = ["tests.runs.watched/goal", "tests.runs.watched/other"]
ARGUMENTS = [*SIZE, f"tasks=[{','.join(TASKS)}]"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recorded") / "run"
    assert train.main([*ARGUMENTS, budget(10), f"hydra.run.dir={folder}"]) == 0
    return folder


def record(run: Path) -> dict:
    return json.loads((run / RECORD).read_text())


def test_a_record_says_what_ran_where_and_how_long(run: Path) -> None:
    (start,) = record(run)["starts"]
    assert start["command"].startswith("ezm train experiment=debug") and budget(10) in start["command"]
    assert start["host"]["name"] == platform.node() and start["host"]["processes"] == 1
    assert start["python"] == platform.python_version() and {"torch", "lightning"} <= set(start["packages"])
    assert start["ended"] and start["last_update"] == 20 and 0 < start["seconds"] <= record(run)["seconds"]
    assert start["cpu_seconds"] > 0
    rows = list(csv.DictReader((run / "eval.csv").open()))[-2:]
    assert record(run)["returns"] == {row["task"]: pytest.approx(float(row["return"]), rel=1e-6) for row in rows}
    assert set(record(run)["floors"]) == set(TASKS)


def test_the_recorded_command_trains_the_same_again(run: Path, tmp_path: Path) -> None:
    program, verb, *overrides = shlex.split(record(run)["starts"][0]["command"])
    assert (program, verb) == ("ezm", "train")
    assert train.main([*overrides, f"hydra.run.dir={tmp_path}"]) == 0
    assert (tmp_path / "eval.csv").read_text() == (run / "eval.csv").read_text()


def test_the_curve_has_means_and_short_numbers(run: Path) -> None:
    rows = list(csv.DictReader((run / "eval.csv").open()))
    for update in {row["update"] for row in rows}:
        own = [row for row in rows if row["update"] == update]
        assert len({row["mean"] for row in own}) == 1 and len(own) == 2
        assert float(own[0]["mean"]) == pytest.approx(sum(float(row["return"]) for row in own) / 2, rel=1e-6)
    assert all(len(row["return"].replace(".", "").lstrip("-0")) <= 7 for row in rows)


def test_a_resumed_run_adds_a_start_and_its_time(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = record(run)
    assert train.main([*ARGUMENTS, budget(15), f"hydra.run.dir={run}", "ckpt_path=last"]) == 0
    after = record(run)
    assert [start["first_update"] for start in after["starts"]] == [0, 20]
    assert after["starts"][0] == before["starts"][0] and after["floors"] == before["floors"]
    assert after["seconds"] > before["seconds"]
    log = (run / "train.log").read_text()
    assert log.count("# 2") == 2 and log.count("checkpoint  ") == 2
    assert "30 updates · " in capsys.readouterr().out


def test_a_run_that_resumes_in_a_new_folder_has_its_earlier_starts(run: Path, tmp_path: Path) -> None:
    before = record(run)
    line = [*ARGUMENTS, budget(20), f"hydra.run.dir={tmp_path}", f"ckpt_path={newest_checkpoint(run)}"]
    assert train.main(line) == 0
    after = record(tmp_path)
    assert after["starts"][:-1] == before["starts"] and after["seconds"] > before["seconds"]
    assert after["starts"][-1]["first_update"] == before["starts"][-1]["last_update"]


def test_a_full_disk_costs_the_curve_a_warning(run: Path, tmp_path: Path, monkeypatch) -> None:
    failed: list[Path] = []

    def full_at_first(file: Path, text: str) -> None:
        if not failed:
            failed.append(file)
            raise OSError(28, "No space left on device")
        replace_text(file, text)

    monkeypatch.setattr(evaluate, "replace_text", full_at_first)
    with pytest.warns(UserWarning, match=r"eval.csv is not written \(No space left on device\); training continues"):
        assert train.main([*ARGUMENTS, budget(10), f"hydra.run.dir={tmp_path}"]) == 0
    first = (run / "eval.csv").read_text()
    assert failed == [tmp_path / "eval.csv"] and first.startswith((tmp_path / "eval.csv").read_text())


def test_a_run_that_is_stopped_has_not_ended(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = [*ARGUMENTS, budget(1_000), "+trainer.max_time={milliseconds: 1}", "evaluate.floors=false"]
    assert train.main([*line, f"hydra.run.dir={tmp_path}"]) == 0
    (start,) = record(tmp_path)["starts"]
    assert not start["ended"] and start["last_update"] < 2_000
    header = next(line for line in capsys.readouterr().out.splitlines() if " before " in line)
    assert " at 100 " in header and "after" not in header


def test_rows_of_older_checkpoints_get_their_mean(tmp_path: Path) -> None:
    old = [
        {"env_steps": 5, "update": 1, "task": task, "return": value, "return_std": 0.0,
         "return_ignoring_termination": value, "episodes": 1, "success": None}
        for task, value in (("a/b", 1.0), ("a/c", 2.0))
    ]  # fmt: skip
    evaluate = Evaluate(None, interval=1, episodes=1, run_dir=tmp_path)
    evaluate.load_state_dict({"rows": old})
    evaluate._write()
    assert [row["mean"] for row in csv.DictReader((tmp_path / "eval.csv").open())] == ["1.5", "1.5"]
    assert evaluate.floors == {} and evaluate.last_mean() == 1.5


def test_the_closing_table_has_floors_a_mean_and_what_to_type(tmp_path: Path, capsys, monkeypatch) -> None:
    arguments = ["experiment=debug", "tasks=[dmc/cartpole-balance,dmc/cartpole-swingup]", "evaluate.interval=1_000_000",
                 "env_steps_per_task=1_008"]  # fmt: skip
    assert train.main([*arguments, f"hydra.run.dir={tmp_path / 'run'}"]) == 0
    said, rows = capsys.readouterr().out, list(csv.DictReader((tmp_path / "run" / "eval.csv").open()))[-2:]
    table = {line.split()[0]: line.split()[1:] for line in said.splitlines() if line.strip()}
    floors = record(tmp_path / "run")["floors"]
    for row in rows:
        value, floor = float(row["return"]), floors[row["task"]]
        expected = [f"{value:.1f}", "0.0", f"{value / 1000:.3f}", f"{floor['random']:.1f}", f"{floor['zero']:.1f}"]
        assert table[row["task"]][1:] == expected
    assert table["mean"][1] == f"{float(rows[0]['mean']):.1f}"
    assert floors["dmc/cartpole-balance"]["zero"] > 500  # a balanced pole stands for a while by itself
    assert "below zero actions: dmc/cartpole-balance" in said
    assert "wall-clock" in said and "updates/s" in said
    next_lines = [line.removeprefix("next").strip() for line in said.splitlines() if line.startswith("next")]
    assert next_lines[:2] == [
        f"tensorboard --logdir {tmp_path / 'run'}",
        f"ezm eval ckpt_path={tmp_path / 'run'} eval.video=true",
    ]


def test_report_is_named_where_there_is_such_a_verb(tmp_path: Path, monkeypatch) -> None:
    for verbs, expected in (({"report": None}, [f"ezm report {tmp_path}"]), ({}, [])):
        monkeypatch.setattr(closing, "VERBS", verbs)
        assert closing.next_commands(tmp_path, None, draws=True) == expected


def test_floors_leave_training_as_it_is(run: Path, tmp_path: Path) -> None:
    assert train.main([*ARGUMENTS, budget(10), "evaluate.floors=false", f"hydra.run.dir={tmp_path}"]) == 0
    first = (run / "eval.csv").read_text().splitlines()
    assert (tmp_path / "eval.csv").read_text().splitlines() == first[:5]


def test_scores() -> None:
    assert normalised(35.0, TaskSpec("hb/x", 1, 1, 10, random_score=10.0, success_score=60.0)) == 0.5
    assert normalised(350.0, TaskSpec("dmc/x", 1, 1, 1000, success_score=1000.0)) == 0.35
    assert normalised(350.0, TaskSpec("gym/x", 1, 1, 1000, success_score=1000.0)) is None
    assert normalised(350.0, TaskSpec("dmc/lqr", 1, 1, 1000)) is None


def test_the_commit_is_that_of_a_checkout(tmp_path: Path) -> None:
    def git(*arguments: str) -> None:
        options = ["-c", "user.name=x", "-c", "user.email=x@y"]
        subprocess.run(["git", "-C", str(tmp_path), *options, *arguments], check=True, capture_output=True)

    (tmp_path / "__init__.py").write_text("")
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "runs.jsonl").write_text("")
    assert git_state(tmp_path) is None
    git("init")
    assert git_state(tmp_path) is None  # it lies in a project, and is not a part of it
    git("add", "."), git("commit", "-m", "one")
    state = git_state(tmp_path)
    assert state is not None and state["clean"] and len(state["commit"]) == 40
    (tmp_path / "results" / "runs.jsonl").write_text("{}")
    assert git_state(tmp_path) == state  # the record of a finished run
    (tmp_path / "__init__.py").write_text("x = 1\n")
    assert git_state(tmp_path) == {**state, "clean": False}


def test_a_loggers_own_name_for_a_run_is_kept_for_those_that_go_on(tmp_path: Path) -> None:
    run, ckpt = tmp_path / "run", str(tmp_path / "run" / "checkpoints" / "step=1.ckpt")
    assert recorded_id(run, ckpt, "WandbLogger") is None and recorded_starts(run) == []
    run.mkdir()
    starts = [{"loggers": {"WandbLogger": "abc"}}, {"loggers": {}}]
    (run / RECORD).write_text(json.dumps({"starts": starts}))
    assert recorded_id(run, ckpt, "WandbLogger") == "abc"
    assert recorded_id(run, ckpt, "MLFlowLogger") is None
    assert recorded_id(run, None, "WandbLogger") is None  # a new run
    assert recorded_id(run, "elsewhere/step=1.ckpt", "WandbLogger") is None
    (run / RECORD).write_text("{")
    assert recorded_id(run, ckpt, "WandbLogger") is None
