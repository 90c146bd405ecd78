"""What TensorBoard gets, read back from the event files: the axis, the groups, texts, videos, embeddings, HParams."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import lightning as L
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout
from tensorboard.plugins.hparams import metadata

from ezm_lightning.callbacks.pace import without_paths
from ezm_lightning.commands import train
from tests.runs.short import SIZE, budget

TASKS = ["tests.runs.watched/goal", "tests.runs.watched/other"]
ARGUMENTS = [
    *SIZE,
    f"tasks=[{','.join(TASKS)}]",
    "evaluate.interval=100",
    "evaluate.video_interval=100",
    "checkpoint.every_n_train_steps=20",
]


def events(run: Path) -> EventAccumulator:
    """The run as TensorBoard reads it."""
    found = EventAccumulator(str(run / "tensorboard"), size_guidance={"images": 0, "histograms": 0, "tensors": 0})
    return found.Reload()


def command(run: Path, updates: int, *overrides: str) -> int | None:
    return train.main([*ARGUMENTS, budget(updates // 2), f"hydra.run.dir={run}", *overrides])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of 80 updates, 4 simulator steps a task each."""
    folder = tmp_path_factory.mktemp("watched") / "run"
    assert command(folder, 80) == 0
    return folder


def steps(found: EventAccumulator, tag: str) -> list[int]:
    return [event.step for event in found.Scalars(tag)]


def test_the_axis_is_environment_steps_and_updates_are_a_curve(run: Path) -> None:
    found = events(run)
    assert steps(found, "loss/value") == [140 + 40 * k for k in range(8)]
    assert [event.value for event in found.Scalars("run/updates")][-1] == 80
    updates = {event.step: event.value for event in found.Scalars("run/updates")}
    assert all(step == 100 + 4 * update for step, update in updates.items())
    assert steps(found, "eval/mean") == [100, 200, 300, 400, 420]


def test_the_first_two_groups_are_evaluation_and_training_returns(run: Path) -> None:
    tags = events(run).Tags()["scalars"]
    groups = sorted({tag.partition("/")[0] for tag in tags})
    assert groups[:2] == ["eval", "explore"]
    shown = sorted(tag for tag in tags if tag.startswith("eval/"))
    assert shown == ["eval/mean", *(f"eval/return/{task}" for task in TASKS), "eval/success"]
    assert "epoch" not in tags and "hp_metric" not in tags
    wanted = {
        *("optim/learning_rate", "optim/gradient_norm", "speed/updates_per_second", "speed/env_steps_per_second"),
        *(f"success/{task}" for task in TASKS),
        *(f"explore/return/{task}" for task in TASKS),
        *(f"loss_by_task/value/{task}" for task in TASKS),
    }
    assert wanted <= set(tags)


def test_curves_are_those_of_the_table(run: Path) -> None:
    found, rows = events(run), list(csv.DictReader((run / "eval.csv").open()))
    for task in TASKS:
        curve = {event.step: event.value for event in found.Scalars(f"eval/return/{task}")}
        own = {int(row["env_steps"]): float(row["return"]) for row in rows if row["task"] == task}
        assert curve == pytest.approx(own)
    mean = {event.step: event.value for event in found.Scalars("eval/mean")}
    for step, value in mean.items():
        own = [float(row["return"]) for row in rows if int(row["env_steps"]) == step]
        assert value == pytest.approx(sum(own) / 2)
        assert all(float(row["mean"]) == pytest.approx(value) for row in rows if int(row["env_steps"]) == step)
    loss = sum(found.Scalars(f"loss_by_task/value/{task}")[-1].value for task in TASKS)
    assert loss > 0


def test_all_tasks_are_in_one_chart(run: Path) -> None:
    layout = Layout.FromString(events(run).Tensors("custom_scalars__config__")[-1].tensor_proto.string_val[0])
    assert [category.title for category in layout.category][:2] == ["evaluation", "training"]
    charts = {chart.title: list(chart.multiline.tag) for chart in layout.category[0].chart}
    assert charts["all tasks"] == ["eval/return/.*"]


def test_command_and_config_are_texts(run: Path) -> None:
    found = events(run)
    command = found.Tensors("run/command/text_summary")[0].tensor_proto.string_val[0].decode()
    assert command.strip().startswith("ezm train experiment=debug") and "evaluate.interval=100" in command
    config = found.Tensors("run/config/text_summary")[0].tensor_proto.string_val[0].decode()
    assert json.loads(config)["batch_size"] == 16


def test_each_task_has_its_videos(run: Path) -> None:
    found = events(run)
    for task in TASKS:
        pictures = found.Images(f"eval/video/{task}")
        assert [picture.step for picture in pictures] == [200, 300, 400, 420]
        assert all(picture.encoded_image_string.startswith(b"GIF8") for picture in pictures)
    files = sorted(file.relative_to(run / "videos").as_posix() for file in (run / "videos").rglob("*.gif"))
    assert files[0] == "000000200/tests.runs.watched_goal.gif" and len(files) == 8


def test_values_and_candidate_actions_are_histograms(run: Path) -> None:
    found = events(run)
    actions = found.Histograms("search/candidate_actions")[-1].histogram_value
    assert actions.num > 16 and -1 <= actions.min < 0 < actions.max <= 1
    assert found.Histograms("target/values")[-1].histogram_value.num > 16


def test_the_projector_has_the_tasks_names(run: Path) -> None:
    (folder,) = (run / "tensorboard").glob("*/tasks")
    assert (folder / "metadata.tsv").read_text().split() == TASKS
    assert len((folder / "tensors.tsv").read_text().splitlines()) == 2


def test_hparams_are_few_and_their_metric_is_the_mean_return(run: Path) -> None:
    data = events(run).summary_metadata
    content = metadata.parse_experiment_plugin_data(data[metadata.EXPERIMENT_TAG].plugin_data.content)
    assert [info.name.tag for info in content.metric_infos] == ["eval/mean"]
    start = metadata.parse_session_start_info_plugin_data(data[metadata.SESSION_START_INFO_TAG].plugin_data.content)
    assert {"seed", "learning_rate", "num_simulations", "env_steps_per_task"} <= set(start.hparams)
    assert len(start.hparams) <= 15 and start.hparams["batch_size"].number_value == 16


class Dies(L.Callback):
    """The process ends after update 57, without a word."""

    def on_train_batch_end(self, trainer: L.Trainer, *_: object) -> None:
        if trainer.global_step == 57:
            raise RuntimeError("killed")


def test_a_resumed_run_continues_its_curves(run: Path, tmp_path: Path) -> None:
    """What was written after the checkpoint of update 40 is forgotten; each curve has each step once."""
    folder = tmp_path / "run"
    with pytest.raises(RuntimeError, match="killed"):
        command(folder, 80, "+callbacks.dies={_target_: tests.callbacks.test_tensorboard.Dies}")
    assert steps(events(folder), "loss/value")[-1] == 300  # of update 50
    assert command(folder, 80, "ckpt_path=last") == 0
    resumed, whole = events(folder), events(run)
    for tag in ("loss/value", "eval/mean", "run/updates", "explore/mean", f"eval/return/{TASKS[0]}"):
        expected = [(event.step, pytest.approx(event.value)) for event in whole.Scalars(tag)]
        assert [(event.step, event.value) for event in resumed.Scalars(tag)] == expected


def test_a_run_without_pictures_or_other_tasks_goes_on(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    """One task has no embeddings to compare; one that cannot be drawn has no video, and a warning says so."""
    arguments = [*SIZE, "tasks=[tests.runs.watched/blind]", "evaluate.video_interval=40", "evaluate.interval=40"]
    assert train.main([*arguments, budget(12), f"hydra.run.dir={tmp_path}"]) == 0
    assert any("draws no pictures" in str(warning.message) for warning in recwarn)
    found = events(tmp_path).Tags()
    assert not found["images"] and "eval/mean" in found["scalars"]
    assert not list((tmp_path / "tensorboard").glob("*/tasks")) and not (tmp_path / "videos").exists()


def test_without_tensorboard_nothing_of_it_is_written(tmp_path: Path) -> None:
    assert train.main([*SIZE, budget(3), "logger=none", f"hydra.run.dir={tmp_path}"]) == 0
    assert not (tmp_path / "tensorboard").exists() and (tmp_path / "eval.csv").is_file()


def test_loggers_get_no_paths_of_this_machine() -> None:
    here = str(Path.cwd())
    parameters = {"run_dir": "/home/me/runs", "a": {"b": 1, "c": f"sqlite:///{here}/x.db"}, "d": ["x", here], "e": {}}
    assert without_paths({**parameters, "f": {"g": "/etc"}}) == {"a": {"b": 1}, "d": ["x"]}


def test_names_with_a_slash_stay_where_home_is_the_root(tmp_path: Path, monkeypatch) -> None:
    parameters = {"tasks": ["dmc/walker-walk"], "lr": 1}
    monkeypatch.chdir("/")
    monkeypatch.setenv("HOME", "/")
    assert without_paths(parameters) == parameters


def test_a_process_may_have_no_home_and_no_working_folder(tmp_path: Path, monkeypatch) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    assert without_paths({"a": "word", "b": "/etc"}) == {"a": "word"}
