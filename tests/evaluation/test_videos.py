"""Videos of evaluations: a task that cannot be drawn costs its own video alone, and never the evaluation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ezm_lightning.acting import ZeroActor
from ezm_lightning.commands.closing import next_commands
from ezm_lightning.envs import MultiTaskEnv
from ezm_lightning.evaluation.episodes import chooser, run_episodes
from ezm_lightning.evaluation.videos import EpisodeVideos
from tests.runs.short import Point

pytest.importorskip("imageio_ffmpeg")
HERE = "tests.evaluation.test_videos"


class Drawn(Point):
    def render(self, height, width):
        return np.full((height, width, 3), 128, np.uint8)


class Mistaken(Point):
    def render(self, height, width):
        return self.camera  # a name that there is not


class Larger(Point):
    def render(self, height, width):
        return np.zeros((100, 150, 3), np.uint8)


class Floats(Point):
    def render(self, height, width):
        return np.zeros((height, width, 3))


class Stops(Drawn):
    """Its third picture fails."""

    pictures = 0

    def render(self, height, width):
        self.pictures += 1
        if self.pictures == 3:
            raise MemoryError("no more pictures")
        return super().render(height, width)


TASKS = {"drawn": Drawn, "mistaken": Mistaken, "larger": Larger, "floats": Floats, "stops": Stops}


def recorded(folder: Path, *tasks: str) -> EpisodeVideos:
    """The videos of an episode of each task, which all play to their ends."""
    env, videos = MultiTaskEnv(tasks, ignore_termination=True), EpisodeVideos(folder, 64, 64, fps=10)
    returns = run_episodes(env, chooser(ZeroActor(1), torch.Generator()), on_step=videos.record(env))
    assert (returns.honoured > 0).all()
    env.close()
    return videos


@pytest.mark.parametrize(
    ("task", "said"),
    [
        ("mistaken", "AttributeError: 'Mistaken' object has no attribute 'camera'"),
        ("larger", r"the shape \[100, 150, 3\] of uint8, expected \[64, 64, 3\] of uint8"),
        ("floats", r"the shape \[64, 64, 3\] of float64, expected"),
        ("stops", "no more pictures"),
        ("point", "Point draws no pictures"),
    ],
)
def test_a_task_that_cannot_be_drawn_costs_its_own_video(tmp_path: Path, task: str, said: str) -> None:
    name = "tests.runs.short/point" if task == "point" else f"{HERE}/{task}"
    videos = recorded(tmp_path, f"{HERE}/drawn", name)
    with pytest.warns(UserWarning, match=f"{name.replace('/', '_')}.mp4 was not written: .*{said}"):
        (file,) = videos.finish()
    assert list(tmp_path.iterdir()) == [file] and file.name == f"{HERE}_drawn.mp4" and file.stat().st_size > 500


def test_a_video_is_advised_where_something_draws(tmp_path: Path) -> None:
    for tasks, draws in ((["point"], False), (["point", "drawn"], True)):
        places = [f"{HERE}/{task}" if task != "point" else "tests.runs.short/point" for task in tasks]
        env = MultiTaskEnv(places)
        assert env.draws == draws
        advice = next_commands(tmp_path, tmp_path / "step=00000001.ckpt", draws=env.draws)
        assert f"ezm eval ckpt_path={tmp_path}{' eval.video=true' if draws else ''}" in advice
    assert not MultiTaskEnv(["gym/Pendulum-v1"]).draws and MultiTaskEnv(["gym/Hopper-v5"]).draws


def test_if_no_task_can_be_drawn_the_first_reason_is_given(tmp_path: Path) -> None:
    videos = recorded(tmp_path, f"{HERE}/larger", f"{HERE}/floats")
    with pytest.raises(ImportError, match=r"no video was written: a picture has the shape \[100, 150, 3\]"):
        videos.finish()
    assert list(tmp_path.iterdir()) == []
