"""Replay to Minari and back, to the bit; what Minari would take without a word is refused."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tensordict import TensorDict

from ezm_lightning.replay import Replay
from ezm_lightning.replay.episodes import SavedReplay, replay_of
from ezm_lightning.replay.minari_format import Dataset, Episode, dataset_id, find_datasets, write_dataset

pytest.importorskip("minari", reason="pip install 'ezm-lightning[minari]'")
pytest.importorskip("h5py", reason="pip install 'ezm-lightning[minari]'")

WIDTHS = [{"obs_dim": 4, "action_dim": 2}, {"obs_dim": 3, "action_dim": 1}]
NAMES = ["short/point", "short/pair"]


def collected(steps: int = 120) -> Replay:
    """Two tasks of different widths in two slots each; episodes terminate, are truncated, are left, and go on."""
    generator = torch.Generator().manual_seed(0)
    replay = Replay(slot_task=[0, 0, 1, 1], obs_dim=4, action_dim=2, capacity=90, unroll_steps=2, td_steps=2,
                    batch_size=4, extras=["search_value"])  # fmt: skip

    def padded(values: torch.Tensor, *widths: int) -> torch.Tensor:
        for slot, width in enumerate(widths):
            values[slot, width:] = 0
        return values

    obs = padded(torch.randn(4, 4, generator=generator), 4, 4, 3, 3)
    for step in range(steps):
        ends = torch.rand(4, 1, generator=generator) < 0.1
        terminated = ends & (torch.rand(4, 1, generator=generator) < 0.5)
        after = padded(torch.randn(4, 4, generator=generator), 4, 4, 3, 3)
        action = padded(torch.rand(4, 2, generator=generator) * 2 - 1, 2, 2, 1, 1)
        value = torch.where(torch.rand(4, generator=generator) < 0.3, torch.nan, torch.rand(4, generator=generator))
        flags = {"terminated": terminated, "truncated": ends & ~terminated, "done": ends}
        reward = torch.randn(4, 1, generator=generator)
        replay.extend(
            TensorDict(
                {
                    "obs": obs,
                    "action": action,
                    "task": torch.tensor([0, 0, 1, 1]),
                    "search_value": value,
                    "next": {"obs": after, "reward": reward, **flags},
                },
                batch_size=[4],
            )
        )
        left = torch.full((4, 1), step == 60)  # the collector is reset
        obs = torch.where(ends | left, padded(torch.randn(4, 4, generator=generator), 4, 4, 3, 3), after)
    return replay


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("replay") / "replay"
    collected().save(folder)
    return folder


@pytest.fixture(scope="module")
def root(saved, tmp_path_factory) -> Path:
    place, replay = tmp_path_factory.mktemp("minari"), SavedReplay([saved])
    for task, (name, widths) in enumerate(zip(NAMES, WIDTHS, strict=True)):
        about = {"action_repeat": 2, "instruction": "stay"}
        folder = write_dataset(place, name, replay.episodes(task, **widths), about=about, **widths)
        assert folder == place / dataset_id(name)
    return place


def bits(episode: Episode) -> list:
    """All that an episode holds, so that NaN and -0.0 count too."""
    values = dataclasses.asdict(episode)
    columns = {name: (column.dtype, column.tobytes()) for name, column in values.pop("columns").items()}
    return [columns, *((x.dtype, x.shape, x.tobytes()) if isinstance(x, np.ndarray) else x for x in values.values())]


def test_a_round_trip_gives_the_same_bits(saved, root, tmp_path) -> None:
    """Replay, Minari, episodes, replay, episodes: everywhere the same."""
    datasets = [Dataset(root / dataset_id(name)) for name in NAMES]
    read = [list(dataset.episodes()) for dataset in datasets]
    replay_of(read).save(tmp_path / "again")
    first, again = SavedReplay([saved]), SavedReplay([tmp_path / "again"])
    kinds = set()
    for task, widths in enumerate(WIDTHS):
        original = list(first.episodes(task, **widths))
        assert len(original) == len(datasets[task]) > 5
        assert list(map(bits, read[task])) == list(map(bits, original))
        assert sorted(map(bits, again.episodes(task, **widths)), key=str) == sorted(map(bits, original), key=str)
        for episode in original:
            kinds.add((bool(episode.terminated[-1]), bool(episode.truncated[-1]), episode.running))
            assert np.isnan(episode.columns["search_value"]).any() or len(episode) < 9
    assert kinds == {(True, False, False), (False, True, False), (False, False, True)}


def test_the_rows_of_the_replay_come_back_too(saved, root, tmp_path) -> None:
    """Row by row of the storage, in the order of time: also what is in no episode's transitions, such as flags."""
    replay_of([list(Dataset(root / dataset_id(name)).episodes()) for name in NAMES]).save(tmp_path / "again")

    def rows(folder: Path) -> set[bytes]:
        columns = {file.stem: torch.load(file) for file in sorted(folder.glob("*.pt")) if file.stem != "state"}
        return {
            b"".join(column[i].numpy().tobytes() for column in columns.values())
            for i in range(len(columns["closing"]))
            if not columns["closing"][i]
        }

    before, after = rows(saved), rows(tmp_path / "again")
    assert after == before and len(after) > 150


def test_minari_itself_reads_it(root) -> None:
    """In a process of its own, by Minari's own name and folder."""
    code = (
        "import minari, json; d = minari.load_dataset('ezm/short-point-v0'); e = d[0]; m = d.storage.metadata; "
        "print(json.dumps([d.total_episodes, list(e.observations.shape), list(e.actions.shape), "
        "str(e.rewards.dtype), bool(e.terminations[-1] | e.truncations[-1]), sorted(e.infos), "
        "m['task'], m['instruction'], m['action_repeat']]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "MINARI_DATASETS_PATH": root}
    )
    assert done.returncode == 0, done.stderr
    total, obs, action, dtype, ended, infos, *about = json.loads(done.stdout)
    assert total > 5 and obs == [action[0] + 1, 4] and action[1] == 2 and dtype == "float32" and ended
    assert infos == ["env_step", "search_value"] and about == ["short/point", "stay", 2]


def test_a_replay_of_other_slots_adopts_it(root, tmp_path) -> None:
    replay_of([list(Dataset(root / dataset_id(name)).episodes()) for name in NAMES]).save(tmp_path / "again")
    other = Replay(slot_task=[0, 1], obs_dim=4, action_dim=2, capacity=500, unroll_steps=3, td_steps=4, batch_size=8,
                   extras=["search_value"])  # fmt: skip
    other.adopt([tmp_path / "again"], rank=0, world_size=1)
    batch = other.sample()
    assert batch.obs.shape == (8, 8, 4) and batch.task.tolist() == [0] * 4 + [1] * 4
    assert not batch.obs[4:, :, 3].any()


def test_a_column_with_a_name_of_the_replay_is_left_out(tmp_path) -> None:
    names = ["reward", "terminated", "state", "slot", "task", "closing", "env_step", "mood"]
    columns = {name: np.full(4, 7.0) for name in names}
    replay = replay_of([[dataclasses.replace(WHOLE, columns=columns)]])
    assert replay.extras == ("mood",)
    replay.save(tmp_path / "replay")
    (episode,) = SavedReplay([tmp_path / "replay"]).episodes(0, 2, 1)
    assert not episode.reward.any() and episode.terminated.tolist() == [False, False, True]
    assert (episode.columns["mood"] == 7).all()


WHOLE = Episode(
    obs=np.zeros((4, 2), np.float32),
    action=np.zeros((3, 1), np.float32),
    reward=np.zeros(3, np.float32),
    terminated=np.array([False, False, True]),
    truncated=np.zeros(3, bool),
)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"obs": WHOLE.obs[:3]}, r"obs is \[3, 2\], expected \[4, 2\]"),
        ({"action": np.zeros((3, 2), np.float32)}, r"action is \[3, 2\], expected \[3, 1\]"),
        ({"reward": np.array([0, np.nan, 0], np.float32)}, "reward is not finite"),
        ({"action": np.full((3, 1), 1.5, np.float32)}, r"an action is 1.5, outside \[-1, 1\]"),
        ({"terminated": np.zeros(3, bool)}, "it has no end"),
        ({"terminated": np.array([True, False, True])}, "it goes on after its end"),
        ({"columns": {"search_value": np.zeros(3)}}, "search_value has 3 values, expected 4"),
    ],
)
def test_an_episode_that_is_not_whole_is_refused(change, said, tmp_path) -> None:
    WHOLE.check("episode 0", 2, 1)
    with pytest.raises(ValueError, match=said) as error:
        write_dataset(tmp_path, "a/b", [dataclasses.replace(WHOLE, **change)], obs_dim=2, action_dim=1, about={})
    assert "\n" not in str(error.value)


def test_a_folder_that_is_no_dataset_and_a_damaged_one_are_one_line(root, tmp_path) -> None:
    with pytest.raises(ValueError, match="holds no Minari dataset"):
        find_datasets(tmp_path)
    with pytest.raises(ValueError, match="is no Minari dataset"):
        Dataset(tmp_path)
    spoilt = Path(shutil.copytree(root / dataset_id(NAMES[0]), tmp_path / "spoilt"))
    data = (spoilt / "data" / "main_data.hdf5").read_bytes()
    (spoilt / "data" / "main_data.hdf5").write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match=r"damaged|cannot be read") as error:
        list(Dataset(spoilt).episodes())
    assert "\n" not in str(error.value)
    about = Path(shutil.copytree(root / dataset_id(NAMES[0]), tmp_path / "about")) / "data" / "metadata.json"
    content = json.loads(about.read_text())
    del content["observation_space"]
    about.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"cannot be read as a Minari dataset \(\w+") as error:
        Dataset(tmp_path / "about")
    assert "\n" not in str(error.value)


def test_the_id_of_any_task_is_one_that_minari_takes() -> None:
    from minari.dataset.minari_dataset import parse_dataset_id

    for task in ("dmc/walker-walk", "gym/Hopper-v5", "gym/my_envs:Push-v0", "gym/LunarLander-v3?continuous=true"):
        assert parse_dataset_id(dataset_id(task))[0] == "ezm"


def test_a_relative_folder_works_too(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = write_dataset(Path("here"), "a/b", [WHOLE], obs_dim=2, action_dim=1, about={})
    assert bits(next(Dataset(folder).episodes())) == bits(WHOLE)
