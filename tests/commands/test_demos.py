"""``ezm demos record``, ``import`` and ``info``: what is played is kept whole or not at all; mistakes are one line."""

from __future__ import annotations

import dataclasses
import os
import re
import tempfile
from pathlib import Path

import numpy as np
import pytest

from ezm_lightning.commands import cli, demos, train
from ezm_lightning.envs import sources
from ezm_lightning.replay.minari_format import Dataset, Episode, find_datasets, write_dataset
from tests.commands.test_eval import Edge, Pair, Point
from tests.runs.short import SIZE, budget
from tests.test_player import write_checkpoint

pytest.importorskip("minari", reason="pip install 'ezm-lightning[minari]'")
pytest.importorskip("h5py", reason="pip install 'ezm-lightning[minari]'")

HERE = "tests.commands.test_demos"
POINT = "tasks=[tests.runs.short/point]"
FEW = ["episodes=3", "envs_per_task=2"]


def to_the_middle(obs: np.ndarray, task: str) -> np.ndarray:
    """A policy of one's own."""
    assert task == "tests.runs.short/point" and obs.shape == (3,)
    return np.clip(-5 * obs[:1], -1, 1)


def too_wide(obs: np.ndarray, task: str) -> np.ndarray:
    return np.zeros(2)


def too_strong(obs: np.ndarray, task: str) -> np.ndarray:
    return np.full(1, 1.5)


def recorded(out: Path, *overrides: str) -> list[Episode]:
    assert demos.main(["record", f"policy={HERE}.to_the_middle", POINT, f"out={out}", *FEW, *overrides]) == 0
    (folder,) = find_datasets(out)
    return list(Dataset(folder).episodes())


def test_one_environment_is_enough(tmp_path) -> None:
    assert len(recorded(tmp_path / "demos", "envs_per_task=1", "episodes=1")) == 1


def test_a_policy_of_ones_own_is_recorded(tmp_path, capsys) -> None:
    episodes = recorded(tmp_path / "demos", "action_repeat=1")
    said = capsys.readouterr().out
    assert len(episodes) == 3 and "tests.runs.short/point" in said and "demos.paths=[" in said
    for episode in episodes:
        assert np.array_equal(episode.action, np.clip(-5 * episode.obs[:-1, :1], -1, 1))
        assert episode.terminated[-1] != episode.truncated[-1] and len(episode) <= 20
        moved = np.clip(episode.obs[:-1] + np.float32(0.2) * episode.action, -1, 1)
        np.testing.assert_allclose(episode.obs[1:], moved, atol=1e-6)
        np.testing.assert_allclose(episode.reward, 1 - np.abs(episode.obs[1:, 0]), atol=1e-6)
    assert demos.main(["info", f"path={tmp_path / 'demos'}"]) == 0
    told = capsys.readouterr().out
    assert f"made_by=policy {HERE}.to_the_middle, seed=1, played=6, filter=True, action_repeat=1" in told
    assert told.splitlines()[-1] in said.splitlines()[-2:]


def test_the_same_seed_records_the_same(tmp_path) -> None:
    one, again, other = (
        recorded(tmp_path / name, f"seed={seed}") for name, seed in (("one", 3), ("again", 3), ("other", 4))
    )
    assert all(np.array_equal(a.obs, b.obs) for a, b in zip(one, again, strict=True))
    assert not all(np.array_equal(a.obs[0], b.obs[0]) for a, b in zip(one, other, strict=True))


def test_an_agent_is_recorded_at_its_own_widths(tmp_path) -> None:
    sources.register_source("short", {"point": Point, "edge": Edge, "pair": Pair})
    try:
        checkpoint = write_checkpoint(tmp_path / "a.ckpt")
        arguments = [f"load={checkpoint}", f"out={tmp_path / 'demos'}", "tasks=[short/edge,short/pair]", "filter=false"]
        assert demos.main(["record", *arguments, "episodes=2", "envs_per_task=2"]) == 0
    finally:
        del sources.SOURCES["short"]
    widths = {}
    for dataset in map(Dataset, find_datasets(tmp_path / "demos")):
        widths[dataset.task] = dataset.obs_dim
        assert dataset.metadata["made_by"].startswith("agent a.ckpt (") and dataset.metadata["action_repeat"] == 2
        assert len(list(dataset.episodes())) == 2
    assert widths == {"short/edge": Edge.obs_dim, "short/pair": Pair.obs_dim}


class Away(Point):
    """Changes the working folder."""

    def __init__(self) -> None:
        os.chdir(tempfile.mkdtemp())


def test_an_environment_that_changes_the_working_folder(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    sources.register_source("away", {"point": Away})
    try:
        write_checkpoint(tmp_path / "a.ckpt", "debug", ["away/point"])
        line = ["load=a.ckpt", "out=my demos", "episodes=1", "envs_per_task=2", "filter=false", "search=false"]
        assert demos.main(["record", *line]) == 0
        assert f"""ezm train "demos.paths=['{tmp_path / "my demos"}']"\n""" in capsys.readouterr().out
        (dataset,) = map(Dataset, find_datasets(tmp_path / "my demos"))
        assert dataset.metadata["made_by"].startswith("policy of a.ckpt (")
    finally:
        del sources.SOURCES["away"]


def foreign(root: Path, pays: float = 1.0, **about) -> Path:
    """A dataset as somebody else makes it: it names no task. Two of three episodes pay ``pays`` a decision."""
    n = 5
    episode = Episode(
        obs=np.zeros((n + 1, 3), np.float32),
        action=np.zeros((n, 1), np.float32),
        reward=np.full(n, pays, np.float32),
        terminated=np.zeros(n, bool),
        truncated=np.arange(n) == n - 1,
    )
    episodes = [episode, dataclasses.replace(episode, reward=0 * episode.reward), episode]
    return write_dataset(root, "theirs", episodes, obs_dim=3, action_dim=1, about={"task": None, **about})


def test_a_dataset_of_somebody_else_gets_a_task(tmp_path, capsys) -> None:
    folder = foreign(tmp_path / "foreign")
    arguments = ["import", f"path={folder}", "task=tests.runs.short/point", f"out={tmp_path / 'demos'}"]
    assert demos.main([*arguments, "filter=true", "action_repeat=2"]) == 0
    (dataset,) = map(Dataset, find_datasets(tmp_path / "demos"))
    assert dataset.task == "tests.runs.short/point" and dataset.metadata["action_repeat"] == 2
    assert [float(episode.reward.sum()) for episode in dataset.episodes()] == [5.0, 5.0]
    assert "EfficientZero-Multitask" in dataset.metadata["made_by"]  # who made it is kept
    assert demos.main([*arguments[:-1], f"out={tmp_path / 'steps'}"]) == 0
    (dataset,) = map(Dataset, find_datasets(tmp_path / "steps"))
    assert dataset.metadata["action_repeat"] == 1  # a transition is a step where nobody says otherwise


RECORD = f"record policy={HERE}.to_the_middle {POINT} episodes=3 envs_per_task=2"
SAYS = {
    "rcord": "unknown; nearest: record (record, import, info)",
    "record out=x": "who plays? load=AGENT (such as walker, or a run's folder), or policy=scripted",
    f"record load=walker policy=scripted {POINT} out=x": "who plays?",
    "record policy=scripted out=x": "policy=scripted plays tasks=[...]",
    "record load=wolker out=x": "nearest: walker",
    "record load=walker tasks=[dmc/walker-run] out=x": "dmc/walker-run",
    "record policy=scripted tasks=[dmc/cartpole-balance] out=x": "nearest: dmc/cartpole-swingup",
    f"record policy=nowhere.act {POINT} out=x": "policy=nowhere.act: No module named 'nowhere'",
    f"record policy={HERE}.nothing {POINT} out=x": f"policy={HERE}.nothing is no function",
    f"record policy={HERE}.too_wide {POINT} out=x": "is no action of tests.runs.short/point: 1 numbers in [-1, 1]",
    f"record policy={HERE}.too_strong {POINT} out=x": "policy: [1.5] is no action of",
    f"{RECORD} out=file": "file exists already",
    f"{RECORD} out=x episodes=0": "episodes=0 must be a whole number of at least 1",
    "import path=nowhere out=x": "nowhere holds no Minari dataset",
    "import path=sparse out=x task=tests.runs.short/point filter=true": "no episode is above 0.75 of the median",
    "import path=foreign out=x": "does not say which task it is of",
    "import path=foreign out=x task=tests.commands.test_demos/none": "tests.commands.test_demos",
    "import path=foreign out=x task=dmc/walker-walk": "has observations of width 3, dmc/walker-walk has 24",
    "info path=nowhere": "nowhere holds no Minari dataset",
}


@pytest.mark.parametrize("line", SAYS)
def test_mistakes_are_one_line_and_write_nothing(line, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    foreign(tmp_path / "foreign")
    foreign(tmp_path / "sparse", pays=0.0)
    assert demos.main(line.split()) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and SAYS[line] in error
    assert sorted(file.name for file in tmp_path.iterdir()) == ["file", "foreign", "sparse"]


class Chance(Point):
    """Pays the same in every episode: none is better than 0.75 of the median only where it pays nothing."""

    max_episode_steps = 5

    def step(self, action):
        return dataclasses.replace(super().step(action), reward=0.0)


def test_too_few_good_episodes_write_nothing(tmp_path, capsys) -> None:
    sources.register_source("chance", {"zero": Chance})
    try:
        arguments = ["record", "tasks=[chance/zero]", f"out={tmp_path / 'x'}", *FEW, f"policy={HERE}.still"]
        assert demos.main(arguments) == 2
        assert "too few episodes are good enough (chance/zero 0 of 6)" in capsys.readouterr().err
        assert list(tmp_path.iterdir()) == []
        assert demos.main([*arguments, "filter=false"]) == 0
    finally:
        del sources.SOURCES["chance"]


def still(obs: np.ndarray, task: str) -> np.ndarray:
    return np.zeros(1)


TRAIN = {  # what a run says of demonstrations that do not fit, before anything is trained
    "demos.paths=[nowhere]": "demos.paths: there is no folder nowhere; ezm demos record out=nowhere makes one",
    "demos.paths=demos": "demos.paths=demos: a list of folders is demos.paths=[demos]",
    "demos.paths=[empty]": "empty holds no Minari dataset",
    "demos.paths=[foreign]": "does not say which task it is of: ezm demos import path=",
    "demos.paths=[demos] tasks=[tests.runs.short/other_point]": "has demonstrations of tests.runs.short/point, and",
    "demos.paths=[demos] tasks.action_repeat=4": "was made with action_repeat=2, the run has 4",
    "demos.paths=[wide]": "has observations of width 4, tests.runs.short/point has 3",
    "demos.paths=[demos] pretrain.updates=3 tasks=[tests.runs.short/point,tests.runs.short/other_point]": (
        "demos.paths has no demonstration of tests.runs.short/other_point; record them, or give pretrain.skip_missing"
    ),
    "pretrain.updates=3": "pretrain.updates=3 needs demonstrations: demos.paths=[FOLDER]",
    "module.loss_coefs.bc=0.1": "module.loss_coefs.bc=0.1 needs demonstrations",
    "demos.paths=[demos] demos.share=1.5": "demos.share=1.5 must be a number in [0, 1]; nearest: 1",
    "demos.paths=[demos] pretrain.updates=3 pretrain.loss_coefs.bd=1": "nearest: pretrain.loss_coefs.bc",
    "demos.paths=[demos] pretrain.updates=3 pretrain.batch_size=0": "pretrain.batch_size=0 must be a whole number",
    "collect.policy_share=[0.5,0.1]": "collect.policy_share=[0.5,0.1] must be two shares of the run",
}


@pytest.fixture(scope="module")
def sets(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("sets")
    recorded(root / "demos")
    foreign(root / "foreign")
    (root / "empty").mkdir()
    episode = next(Dataset(find_datasets(root / "demos")[0]).episodes())
    wide = dataclasses.replace(episode, obs=np.pad(episode.obs, ((0, 0), (0, 1))))
    write_dataset(root / "wide", "tests.runs.short/point", [wide], obs_dim=4, action_dim=1, about={})
    return root


@pytest.mark.parametrize("line", TRAIN)
def test_a_run_says_what_does_not_fit(line, sets, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(sets)
    before = sorted(sets.iterdir())
    assert train.main([*SIZE, budget(3), f"hydra.run.dir={tmp_path / 'run'}", *line.split()]) == 2
    (error,) = [row for row in capsys.readouterr().err.splitlines() if row.startswith("error: ")]
    assert TRAIN[line] in error
    assert sorted(sets.iterdir()) == before and not list(tmp_path.rglob("*.ckpt"))


def test_the_tasks_of_the_examples_exist() -> None:
    page = Path(__file__).parents[2] / "docs" / "newt.md"
    for text in (str(demos.__doc__), page.read_text(encoding="utf-8")):
        (named,) = re.findall(r"ezm demos import .*task=(\S+)", text)
        assert sources.task_spec(named).name == named


def test_the_verb_is_listed(capsys) -> None:
    assert cli.main(["demos", "--help"]) == 0
    assert "ezm demos record policy=scripted" in capsys.readouterr().out
