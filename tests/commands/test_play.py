"""``ezm play``: a shipped agent moves; every mistake is one line and leaves nothing behind."""

from __future__ import annotations

import os
import tempfile

import numpy as np
import pytest

from ezm_lightning.commands import play
from ezm_lightning.envs import sources
from ezm_lightning.envs.task_env import TaskEnv
from ezm_lightning.evaluation import window
from tests.commands.test_eval import Point
from tests.test_player import write_checkpoint


@pytest.fixture
def drawn(monkeypatch):
    """Pictures without OpenGL; counts them."""
    pictures = []

    def render(self):
        pictures.append(np.full((*self.picture_size, 3), len(pictures) % 256, np.uint8))
        return pictures[-1]

    monkeypatch.setattr(TaskEnv, "render", render)
    monkeypatch.setattr(TaskEnv, "step", short(TaskEnv.step))
    return pictures


def short(step):
    """Episodes of 20 decisions."""

    def stepped(self, action):
        self.taken = getattr(self, "taken", 0) + 1
        obs, reward, terminated, truncated, info = step(self, action)
        return obs, reward, terminated, truncated or self.taken % 20 == 0, info

    return stepped


def test_a_shipped_agent_moves_in_an_mp4_and_a_gif(drawn, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["search=false", "window=false", "out=new/videos", "size=[32,48]", "seconds=0.4", "episodes=2"]
    assert play.main(["walker", *arguments]) == 0
    out = capsys.readouterr().out
    assert len(drawn) == 10  # 0.4 s of 25 frames, then the episodes are played on undrawn
    assert out.count("return") == 2 and "in 20 decisions" in out
    files = sorted((tmp_path / "new" / "videos").iterdir())
    assert [file.name for file in files] == ["dmc_walker-walk.gif", "dmc_walker-walk.mp4"]
    assert files[0].read_bytes()[:6] == b"GIF89a" and files[1].read_bytes()[4:8] == b"ftyp"
    assert [file.name for file in tmp_path.iterdir()] == ["new"]


class Away(Point):
    """Changes the working folder."""

    def __init__(self):
        os.chdir(tempfile.mkdtemp())


def test_a_checkpoint_by_its_name_in_an_environment_that_changes_the_working_folder(
    drawn, tmp_path, capsys, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    sources.register_source("away", {"point": Away})
    try:
        name = "it's mine/checkpoints/step=00000001.ckpt"
        write_checkpoint(tmp_path / name, "debug", ["away/point"])
        assert play.main([name, "search=false", "window=false", "out=new", "size=[32,48]", "seconds=0.4"]) == 0
    finally:
        del sources.SOURCES["away"]
    said = capsys.readouterr().out
    assert f"agent {name} plays away/point" in said and "video new/away_point.mp4\ngif   new/away_point.gif" in said
    assert sorted(file.name for file in (tmp_path / "new").iterdir()) == ["away_point.gif", "away_point.mp4"]


@pytest.mark.parametrize(
    ("word", "named"),
    [
        ("walker", True),
        ("runs/demo/seed1/checkpoints/step=00000020.ckpt", True),
        ("step=00000020.ckpt", True),
        ("step=00000021.ckpt", False),
        ("load=walker", False),
        ("hydra.run.dir=x", False),
        ("hydra/launcher=x", False),
        ("+load=a/b", False),
        ("--cfg", False),
    ],
)
def test_the_first_word_is_an_agent_unless_it_is_an_override(word, named, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "step=00000020.ckpt").touch()
    assert play.is_agent(word) == named


def test_where_there_is_a_display_a_window_shows_every_decision(drawn, capsys, monkeypatch, tmp_path) -> None:
    shown = []

    class Screen:
        def __init__(self, title, height, width):
            assert (title, height, width) == ("walker: dmc/walker-walk", 240, 320)

        def show(self, picture):
            shown.append(picture)
            return len(shown) < 15  # then it is closed

        def close(self):
            shown.append("closed")

    monkeypatch.setattr(play, "Window", Screen)
    monkeypatch.setenv("DISPLAY", ":0")
    assert window.has_display()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    assert play.main(["walker", "search=false", "fps=1000", "out=file"]) == 0  # which writes nothing
    assert len(drawn) == 15 and shown[-1] == "closed"


def test_a_picture_that_cannot_be_drawn_leaves_nothing(tmp_path, capsys, monkeypatch) -> None:
    def render(self):
        raise RuntimeError("no OpenGL library is in use")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(TaskEnv, "render", render)
    assert play.main(["walker", "window=false"]) == 2
    assert capsys.readouterr().err == "error: no video was written: no OpenGL library is in use\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["walkr"], "nearest: walker"),
        ([], "no agent is named; with the package come cartpole, walker"),
        (["walker", "task=dmc/walker-wlk"], "nearest: dmc/walker-walk"),
        (["walker", "simulations=0"], "simulations=0"),
        (["walker", "episodes=0"], "episodes=0"),
        (["walker", "sed=1"], "unknown key 'sed'; nearest: seed"),
        (["walker", "size=[31,48]"], "even numbers of pixels"),
        (["walker", "size=[32]"], "must be a height and a width"),
        (["walker", "window=5"], "window=5 must be true or false"),
        (["walker", "out=file"], "out=file cannot be written"),
        (["walker", "out=file/below"], "out=file/below cannot be written"),
    ],
)
def test_mistakes_are_one_line(arguments, said, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    assert play.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and said in error
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_an_empty_working_folder_is_not_taken_for_an_unused_run(tmp_path, monkeypatch) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    assert play.main(["nobody"]) == 2
    assert (tmp_path / "empty").is_dir()
