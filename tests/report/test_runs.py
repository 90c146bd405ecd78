"""Runs are read whichever version wrote them, finished or not; what cannot be read is said."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import numpy as np
import pytest

from ezm_lightning.report.runs import find_curves, read_run
from tests.report.folders import HEADER, curve, make_run, start


def test_a_run_of_today(tmp_path: Path) -> None:
    starts = [
        start("ezm train seed=3", seconds=3600),
        start("ezm train ckpt_path=last", commit="fedcba9876543", clean=False),
    ]
    folder = make_run(tmp_path / "run", [(10, 1.0), (100, 5.0)], seed=3, fall=2.0, started=starts)
    run = read_run(folder / "eval.csv")
    own = run.record
    assert run.name == "mine" and own.seed == 3 and own.command == "ezm train seed=3"
    assert own.commit == "012345678, then fedcba987 with changes"
    assert own.machine == "cpu, 8 CPU cores, 2 threads"
    assert own.seconds == 5400 and own.core_hours == 3 and own.gpu_hours is None
    assert own.state(run.last_step) == "finished"
    walker = run.curves["dmc/walker-walk"]
    assert walker.returns.tolist() == [1, 5] and walker.ignoring.tolist() == [3, 7]


def test_core_hours_are_the_cpu_time_where_every_start_recorded_it(tmp_path: Path) -> None:
    timed, untimed = start("ezm train", seconds=3600) | {"cpu_seconds": 1800.0}, start("ezm train", seconds=3600)
    for number, (starts, hours) in enumerate((([timed, timed], 1.0), ([timed, untimed], 4.0))):
        folder = make_run(tmp_path / str(number), [(10, 1.0)], started=starts)
        assert read_run(folder / "eval.csv").record.core_hours == hours


def test_the_pretraining_is_part_of_the_cost(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", [(10, 1.0)], started=[{**start("a", seconds=60), "cpu_seconds": 1800}])
    (folder / "pretrain").mkdir()
    stage = {"starts": [{**start("a", seconds=40), "cpu_seconds": 900}], "seconds": 40}
    (folder / "pretrain" / "run.json").write_text(json.dumps(stage))
    own = read_run(folder / "eval.csv").record
    assert own.seconds == 100 and own.core_hours == pytest.approx(0.75)


def test_gpu_hours_are_wall_clock_times_processes(tmp_path: Path) -> None:
    starts = [start("ezm train", device="NVIDIA H100", processes=2)]
    own = read_run(make_run(tmp_path / "run", [(10, 1.0)], started=starts) / "eval.csv").record
    assert own.gpu_hours == 1 and own.core_hours is None and own.machine.startswith("NVIDIA H100, 8 CPU cores")


def test_a_run_of_an_older_version(tmp_path: Path) -> None:
    """No run.json, Hydra's default folder, no column of returns that ignore terminations."""
    folder = make_run(tmp_path / "run", [], hydra=".hydra", seed=2)
    old = "env_steps,update,task,return,return_std"
    (folder / "eval.csv").write_text(curve([(10, 1.0)], header=old))
    run = read_run(folder / "eval.csv")
    assert run.record.command == "ezm train experiment=mine seed=2" and run.record.commit is None
    assert run.curves["dmc/walker-walk"].returns.tolist() == [1]
    assert np.isnan(run.curves["dmc/walker-walk"].ignoring).all()


def test_the_time_of_a_run_without_a_record_is_that_between_its_events(tmp_path: Path) -> None:
    from torch.utils.tensorboard import SummaryWriter

    folder, now = make_run(tmp_path / "run", [(10, 1.0)]), time.time()
    for index, seconds in enumerate((600, 300)):  # two starts; a file's first event is written when it is opened
        writer = SummaryWriter(str(folder / "tensorboard" / str(index)))
        writer.add_scalar("x", 1.0, 1, walltime=now + seconds)
        writer.close()
    files = sorted((folder / "tensorboard").rglob("events*"))
    files[1].write_bytes(files[1].read_bytes() + b"cut off")
    own = read_run(folder / "eval.csv").record
    assert own.seconds == pytest.approx(900, abs=60) and own.core_hours == pytest.approx(0.5, abs=0.04)


@pytest.mark.parametrize(("age", "state"), [(0, "running"), (3600, "unfinished")])
def test_a_run_that_has_not_spent_its_budget(tmp_path: Path, age: float, state: str) -> None:
    folder = make_run(tmp_path / "run", [(10, 1.0), (60, 2.0)])
    then = time.time() - age
    for file in folder.rglob("*"):
        os.utime(file, (then, then))
    run = read_run(folder / "eval.csv")
    assert run.record.state(run.last_step) == state


def test_a_file_that_a_crash_has_cut_off(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", [(10, 1.0), (20, 2.0)])
    text = (folder / "eval.csv").read_text()
    (folder / "eval.csv").write_text(text + "30,30,dmc/walker-walk,nan,1.0,3.0,5\n40,40,dmc/wal")
    (folder / "hydra" / "config.yaml").write_text("name: mi\n  seed: [")
    run = read_run(folder / "eval.csv")
    assert run.curves["dmc/walker-walk"].env_steps.tolist() == [10, 20]
    assert run.problems == ["line 4 has the return nan", "line 5 is no evaluation"]
    assert run.name == tmp_path.name and run.record.state(20) == "not recorded"


def test_of_two_lines_for_one_step_the_later_counts(tmp_path: Path) -> None:
    file = tmp_path / "eval.csv"
    file.write_text(curve([(20, 2.0), (10, 1.0), (20, 5.0)]))
    run = read_run(file)
    assert run.curves["dmc/walker-walk"].returns.tolist() == [1, 5]
    assert run.problems == ["two evaluations of dmc/walker-walk at 20 simulator steps: the later line counts"]


def test_a_curve_alone_has_the_record_of_runs_jsonl(tmp_path: Path) -> None:
    (tmp_path / "group").mkdir()
    file = tmp_path / "group" / "b_seed2.csv"
    file.write_text(curve([(10, 1.0)]))
    lines = [
        {"group": "group", "run": "a", "command": "ezm train seed=1", "commit": "a"},
        {"group": "group", "run": "b_seed2", "command": "ezm train tasks=x seed=4 batch_size=8", "commit": "abc",
         "seconds": 60, "machine": "CPU, one thread a run"},
    ]  # fmt: skip
    cut = ['{"group": "group", "ru', "[]", *map(json.dumps, lines)]
    (tmp_path / "runs.jsonl").write_text("\n".join(cut))
    own = read_run(file).record
    assert (own.name, own.seed, own.commit, own.seconds) == ("group", 4, "abc", 60)
    assert own.core_hours == pytest.approx(1 / 60)
    assert own.settings == {"ezm": "", "train": "", "batch_size": "8"}
    (tmp_path / "runs.jsonl").unlink()
    own = read_run(file).record
    assert own.seed == 2 and own.command is None and own.settings == {"b": ""}


def test_runs_are_found_below_a_folder(tmp_path: Path) -> None:
    make_run(tmp_path / "a" / "seed1_x", [(10, 1.0)])
    make_run(tmp_path / "a" / "seed2_x", [])
    (tmp_path / "a" / "seed1_x" / "csv").mkdir()
    (tmp_path / "a" / "seed1_x" / "csv" / "metrics.csv").write_text("step,loss\n")
    (tmp_path / "a" / "b.csv").write_text(curve([(10, 1.0)]))
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "report.json").write_text("{}")
    (tmp_path / "report" / "evaluations.csv").write_text(HEADER)
    (tmp_path / "a" / "transfer_seed1.csv").write_text(curve([(10, 1.0)], header=f"{HEADER},train"))  # of several runs
    files, without = find_curves(str(tmp_path))
    assert [str(file.relative_to(tmp_path)) for file in files] == ["a/b.csv", "a/seed1_x/eval.csv"]
    assert without == [tmp_path / "a" / "seed2_x"]


def test_links_are_followed_once_and_links_to_nowhere_are_no_file(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "elsewhere" / "seed1_x", [(10, 1.0)])
    (folder / "latest").symlink_to(tmp_path / "nowhere")
    (folder / "above").symlink_to(tmp_path)
    (tmp_path / "chosen").mkdir()
    (tmp_path / "chosen" / "mine").symlink_to(folder)
    files, _ = find_curves(str(tmp_path / "chosen"))
    assert [file.resolve() for file in files].count(folder / "eval.csv") == len(files) == 1
    assert read_run(files[0]).record.quiet_for < 60


def test_settings_that_move_no_curve_make_no_group_of_their_own(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", [(10, 1.0)])
    config = folder / "hydra" / "config.yaml"
    quiet = "{accelerator: cpu, enable_progress_bar: false, log_every_n_steps: 3, gradient_clip_val: 1}"
    config.write_text(config.read_text().replace("{accelerator: cpu}", quiet))
    assert [key for key in read_run(folder / "eval.csv").record.settings if "trainer" in key] == [
        "trainer.gradient_clip_val"
    ]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("rnu", "there is no folder {}/rnu; nearest: {}/run"),
        ("none/here", "there is no folder {}/none/here; nor is there {}/none"),
        ("run", "{}/run holds no eval.csv, which a run writes at its first evaluation"),
        ("notes.csv", "{}/notes.csv is not a curve: its first line has no env_steps, task, return"),
    ],
)
def test_what_cannot_be_reported_is_named(tmp_path: Path, name: str, words: str) -> None:
    make_run(tmp_path / "run", [])
    (tmp_path / "notes.csv").write_text("a,b\n")
    with pytest.raises(ValueError) as caught:
        find_curves(str(tmp_path / name))
    assert str(caught.value) == words.format(tmp_path, tmp_path)


def test_a_file_without_evaluations_is_no_run(tmp_path: Path) -> None:
    (tmp_path / "eval.csv").write_text(HEADER + "\n")
    assert read_run(tmp_path / "eval.csv") is None
