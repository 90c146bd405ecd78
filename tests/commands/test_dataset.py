"""``ezm dataset export`` and ``import``: a run's replay goes out and comes back; every mistake is one line."""

from __future__ import annotations

import pytest
import torch

from ezm_lightning.checkpoints.folder import WEIGHTS, publish, synced
from ezm_lightning.commands import dataset
from ezm_lightning.envs import sources
from ezm_lightning.replay.episodes import SavedReplay
from tests.commands.test_eval import TASKS, Edge, Pair, Point
from tests.replay.test_minari import bits, collected
from tests.test_player import write_checkpoint

pytest.importorskip("minari", reason="pip install 'ezm-lightning[minari]'")
pytest.importorskip("h5py", reason="pip install 'ezm-lightning[minari]'")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run's folder whose replay is of the first two of its tasks."""
    sources.register_source("short", {"point": Point, "edge": Edge, "pair": Pair})
    folder = tmp_path_factory.mktemp("dataset") / "seed1_then"
    checkpoint = folder / "checkpoints" / "step=00000001.ckpt"
    draft = write_checkpoint(folder / "draft" / WEIGHTS).parent
    collected().save(draft / "rank0" / "replay")
    checkpoint.parent.mkdir()
    publish(draft, synced(draft, draft), checkpoint)
    try:
        yield folder
    finally:
        del sources.SOURCES["short"]


def widths(run) -> tuple[list[int], list[int]]:
    cfg = torch.load(run / "checkpoints" / "step=00000001.ckpt" / WEIGHTS)["hyper_parameters"]
    return cfg["obs_dims"], cfg["action_dims"]


def test_a_round_trip_of_the_commands_gives_the_same_bits(run, tmp_path, capsys) -> None:
    chosen = f"tasks=[{TASKS[0]}]"
    words = f"instructions={{{TASKS[0]}:'go there'}}"
    assert dataset.main(["export", f"run={run}", f"out={tmp_path / 'data'}", chosen, words]) == 0
    said = capsys.readouterr().out
    assert TASKS[0] in said and " MB" in said and " s\n" in said
    assert dataset.main(["import", f"path={tmp_path / 'data'}", f"out={tmp_path / 'replay'}"]) == 0
    assert "transitions" in capsys.readouterr().out
    assert sorted(file.name for file in tmp_path.iterdir()) == ["data", "replay"]
    obs_dims, action_dims = widths(run)
    own = {"obs_dim": obs_dims[0], "action_dim": action_dims[0]}
    replay = run / "checkpoints" / "step=00000001.ckpt" / "rank0" / "replay"
    before, after = (SavedReplay([folder]).episodes(0, **own) for folder in (replay, tmp_path / "replay"))
    assert sorted(map(bits, after), key=str) == sorted(map(bits, before), key=str)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["exprt"], "nearest: export"),
        ([], "ezm dataset is followed by one of export, import"),
        (["export", "run={run}", "out=x", "format=lerobot"], "format=lerobot; nearest: minari"),
        (["export", "run={run}", "out=x", "tasks=[short/poin]"], "unknown task short/poin; nearest: point"),
        (["export", "run={run}", "out=x", "tasks=[dmc/walker-walk]"], "no task 'dmc/walker-walk'; nearest: short/"),
        (["export", "run={run}", "out=x"], "holds no episode of short/pair"),
        (["export", "run={run}", "out=file"], "file exists already"),
        (["export", "run={run}", "out=file/x"], "file/x cannot be written"),
        (["export", "run=nowhere", "out=x"], "nowhere is missing"),
        (["export", "run=.", "out=x"], "without an intact checkpoint"),
        (["export", "run={run}", "ot=x"], "unknown key 'ot'; nearest: out"),
        (["import", "path=nowhere", "out=x"], "nowhere holds no Minari dataset"),
    ],
)
def test_mistakes_are_one_line_and_write_nothing(arguments, said, run, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    assert dataset.main([text.format(run=run) for text in arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and said in error
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_without_the_extra_it_says_what_to_type(run, tmp_path, capsys, monkeypatch) -> None:
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "h5py" else find(name, *rest))
    assert dataset.main(["export", f"run={run}", f"out={tmp_path / 'x'}"]) == 2
    assert "pip install 'ezm-lightning[minari]'" in capsys.readouterr().err
