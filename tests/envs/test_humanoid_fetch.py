"""`ezm fetch hb` from a local repository that stands for upstream."""

import hashlib
import shutil
import subprocess
from pathlib import Path

import pytest

from ezm_lightning.commands import cli
from ezm_lightning.commands import fetch as command
from ezm_lightning.envs.humanoidbench import assets
from ezm_lightning.envs.humanoidbench.download import UPSTREAM

FILES = {"envs/h1_pos_walk.xml": "<mujoco/>\r\n", "h1/foot.stl": "a foot"}

needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.org", "-c", "core.autocrlf=false"]
    done = subprocess.run(["git", *identity, *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture(autouse=True)
def empty_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv(assets.VARIABLE, raising=False)
    monkeypatch.setattr(assets, "_installed", lambda: None)


@pytest.fixture
def upstream(monkeypatch, tmp_path) -> Path:
    """A repository whose first commit is the pinned one; its second changes a file."""
    folder = tmp_path / "upstream"
    for name, text in FILES.items():
        file = folder / assets.PACKAGE_PATH / name
        file.parent.mkdir(parents=True)
        file.write_bytes(text.encode())
    (folder / "LICENSE").write_text("free")
    (folder / "humanoid_bench" / "env.py").write_text("not an asset")
    git(folder, "init", "--quiet")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "-m", "first")
    monkeypatch.setattr(assets, "COMMIT", git(folder, "rev-parse", "HEAD"))
    digests = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in FILES.items()}
    monkeypatch.setattr(assets, "DIGESTS", digests)
    (folder / assets.PACKAGE_PATH / "h1" / "foot.stl").write_text("another foot")
    git(folder, "commit", "--quiet", "-am", "second")
    return folder


def fetch(*arguments: object) -> int | None:
    return cli.main(["fetch", "hb", *map(str, arguments)])


@needs_git
def test_fetches_the_pinned_commit_and_only_what_the_tasks_need(upstream, capsys, monkeypatch):
    monkeypatch.chdir(upstream.parent)
    assert fetch("--from", "upstream") == 0  # a path relative to where we are
    found = assets.cache_folder() / assets.PACKAGE_PATH
    assert assets.find_assets() == found and str(found) in capsys.readouterr().out
    assert {name: (found / name).read_bytes().decode() for name in FILES} == FILES
    assert (assets.cache_folder() / "LICENSE").is_file()
    assert not (assets.cache_folder() / "humanoid_bench" / "env.py").exists()
    assert [file.name for file in assets.cache_folder().parent.iterdir()] == [assets.cache_folder().name]


@needs_git
def test_a_second_time_says_so(upstream, capsys):
    fetch("--from", upstream)
    shutil.rmtree(upstream)
    assert fetch("--from", upstream) == 0
    assert "already there and complete" in capsys.readouterr().out


@needs_git
def test_a_changed_cache_is_left_alone(upstream, capsys):
    fetch("--from", upstream)
    foot = assets.cache_folder() / assets.PACKAGE_PATH / "h1" / "foot.stl"
    foot.write_text("my own foot")
    assert fetch("--from", upstream) == 2
    assert "0 are missing and 1 differ" in capsys.readouterr().err
    assert foot.read_text() == "my own foot"


@needs_git
def test_it_says_when_other_assets_come_first(upstream, capsys, monkeypatch):
    monkeypatch.setenv(assets.VARIABLE, "builtin")
    assert fetch("--from", upstream) == 0
    assert "not used, the word builtin in HUMANOID_BENCH_ASSETS comes first" in capsys.readouterr().out
    monkeypatch.setenv(assets.VARIABLE, "/nowhere")
    assert fetch() == 0
    assert "not used: HUMANOID_BENCH_ASSETS=/nowhere is no folder" in capsys.readouterr().out


@needs_git
def test_a_repository_without_the_commit_leaves_nothing(upstream, capsys, monkeypatch):
    monkeypatch.setattr(assets, "COMMIT", "1" * 40)
    assert fetch("--from", upstream) == 2
    assert_one_line_and_nothing_left(capsys.readouterr().err)


@needs_git
def test_other_files_than_the_published_leave_nothing(upstream, capsys, monkeypatch):
    monkeypatch.setitem(assets.DIGESTS, "h1/foot.stl", "0" * 64)
    assert fetch("--from", upstream) == 2
    told = capsys.readouterr().err
    assert "1 differ" in told and "h1/foot.stl" in told
    assert_one_line_and_nothing_left(told)


@needs_git
def test_no_network_says_what_to_do(tmp_path, capsys):
    assert fetch("--from", tmp_path / "nowhere") == 2
    assert_one_line_and_nothing_left(capsys.readouterr().err)


def test_no_git_says_what_to_do(monkeypatch, capsys):
    monkeypatch.setenv("PATH", "")
    assert fetch() == 2
    told = capsys.readouterr().err
    assert "git is not installed" in told
    assert_one_line_and_nothing_left(told)


def test_a_cache_that_cannot_be_written_says_what_to_do(monkeypatch, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert fetch() == 2
    assert capsys.readouterr().err.count("\n") == 1


def assert_one_line_and_nothing_left(told: str) -> None:
    assert told.startswith("error: ") and told.count("\n") == 1
    for word in (UPSTREAM, str(assets.cache_folder()), "HUMANOID_BENCH_ASSETS"):
        assert word in told
    assert list(assets.cache_folder().parent.iterdir()) == []


def test_alone_it_explains_itself(capsys):
    assert command.main([]) == 0
    assert "ezm fetch hb" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["hb", "--frm", "x"], ["hb", "--from"], ["--from", "x"]])
def test_mistakes_are_one_line(arguments, capsys):
    assert command.main(arguments) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and "usage: ezm fetch SOURCE" in told


def test_a_source_that_fetches_nothing_is_named_with_the_nearest(capsys):
    assert command.main(["hbb"]) == 2
    assert "no source 'hbb' to fetch; nearest: hb" in capsys.readouterr().err
