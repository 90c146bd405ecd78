"""Terminals that take few characters, or none; an OpenGL library that does not exist."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import warnings

import pytest

from ezm_lightning.commands import surroundings


def run(*argv: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ezm_lightning.commands.cli", *argv]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | environment)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp437"])
def test_what_a_stream_cannot_take_is_written_in_other_words(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding=encoding, errors="strict"))
    surroundings.take_any_text()
    from rich.console import Console
    from rich.table import Table

    table = Table("task", "± over")
    table.add_row("a – b", "1 · 2 …")
    Console(width=40).print(table, "σ 猫")
    sys.stdout.flush()
    text = written.getvalue().decode(encoding)
    assert "over" in text and "?" in text
    assert encoding != "ascii" or ("+/- over" in text and "a - b" in text and "sigma ?" in text)


def test_a_stream_that_takes_all_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="utf-8"))
    surroundings.take_any_text()
    print("± 猫", flush=True)
    assert written.getvalue().decode() == "± 猫\n"


def test_closed_streams_go_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    surroundings.take_any_text()
    print("into nothing")
    sys.stdout.close()


def test_a_warning_is_one_line_without_its_place(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    surroundings.shorten_warnings()
    warnings.showwarning(UserWarning("two\nlines"), UserWarning, "/some/file.py", 7)
    warnings.showwarning(RuntimeWarning("overflow"), RuntimeWarning, "/some/file.py", 7, None, "x = 1")
    assert capsys.readouterr().err == "warning: two lines\n/some/file.py:7: RuntimeWarning: overflow\n"
    monkeypatch.setattr(sys, "stderr", None)
    warnings.showwarning(UserWarning("into nothing"), UserWarning, "/some/file.py", 7)


@pytest.mark.parametrize("verb", [["tasks", "cartpole"], ["train", "experiment=debug"], ["doctor"]])
def test_an_unknown_opengl_library_is_one_line(verb: list[str]) -> None:
    done = run(*verb, MUJOCO_GL="nonsense")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "error: MUJOCO_GL=nonsense names no OpenGL library; it takes egl, osmesa, glfw, off, or is left out\n"
    )


@pytest.mark.parametrize("value", ["egl", "OSMESA", "off", "disable", "", " glfw "])
def test_those_that_mujoco_knows_are_taken(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUJOCO_GL", value)
    surroundings.check_gl()
