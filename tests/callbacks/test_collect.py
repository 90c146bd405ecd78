"""Collection beside learning: the same whoever is faster, one update later, and resumed exactly."""

from __future__ import annotations

import csv
import time
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import pytest
import torch

from ezm_lightning.brc.reward_scale import RewardScale
from ezm_lightning.checkpoints.contents import read_checkpoint
from ezm_lightning.checkpoints.runs import newest_checkpoint
from ezm_lightning.commands import train
from ezm_lightning.envs import Simulator, Transition
from tests.brc.test_run import SMALL
from tests.runs.short import SIZE, Point, budget
from tests.runs.test_resume import same
from tests.runs.test_train import differences, load

UPDATES = 20
CHECKPOINTS = ["checkpoint.every_n_train_steps=10", "checkpoint.save_top_k=-1"]


class Slow(Point):
    """Takes longer than an update."""

    def step(self, action):
        time.sleep(0.02)
        return super().step(action)


class Forgetful(Point):
    """Pays 0, 1, 2, …, falls after ten decisions, and cannot be saved."""

    get_state, set_state = Simulator.get_state, Simulator.set_state

    def reset(self):
        self.age = 0
        return super().reset()

    def step(self, action):
        self.age += 1
        return Transition(super().step(action).obs, float(self.age - 1), self.age == 10)


class Noted(Forgetful):
    """Keeps where its episodes began, of all its objects in their order."""

    starts: ClassVar[list[float]] = []

    def reset(self):
        obs = super().reset()
        self.starts.append(float(obs[0]))
        return obs


TASKS = {"slow": Slow, "forgetful": Forgetful, "noted": Noted}


def overlapping(run: Path, *overrides: str) -> Path:
    """A run with overlap; its checkpoint after the last update."""
    own = [budget(UPDATES), "collect.overlap=true", f"hydra.run.dir={run}", *CHECKPOINTS]
    assert train.main([*SIZE, *own, *overrides]) == 0
    return run / "checkpoints" / f"step={UPDATES:08d}.ckpt"


@pytest.fixture(scope="module")
def beside(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return overlapping(tmp_path_factory.mktemp("beside"))


def test_slow_simulators_collect_the_same(beside: Path, tmp_path: Path):
    slow = overlapping(tmp_path, "tasks=[tests.callbacks.test_collect/slow]")
    assert same(slow, beside) == [
        "/run/collect/env/tasks/0: tests.callbacks.test_collect/slow != tests.runs.short/point"
    ]


def test_an_update_learns_from_what_the_one_before_last_owed(beside: Path, tmp_path: Path):
    alone = overlapping(tmp_path, "collect.overlap=false")
    (_, late), (_, prompt) = load(beside), load(alone)
    under_way = late["run"]["collect"]["under_way"]
    assert prompt["run"]["collect"]["under_way"] == [] and len(under_way) == 2  # 8 simulator steps: 2 slots × 2 repeats
    for collect in (late["run"]["collect"], prompt["run"]["collect"]):
        (spent,) = collect["env"]["env_steps"].tolist()
        assert 0 <= 100 + 8 * UPDATES - spent < 4
    (stored,), (owed,) = late["run"]["collect"]["env_steps"].tolist(), prompt["run"]["collect"]["env_steps"].tolist()
    assert 4 < owed - stored <= 8  # an episode may end between two repeats
    assert late["state.pt"]["num_transitions"].tolist() == [prompt["state.pt"]["num_transitions"].item() - 4]


def test_what_is_under_way_is_resumed(beside: Path, tmp_path: Path):
    half = overlapping(tmp_path / "run", f"ckpt_path={beside.parent / 'step=00000010.ckpt'}")
    assert same(half, beside) == []


@pytest.mark.parametrize("overlap", ["false", "true"])
@pytest.mark.parametrize("agent", [SIZE, SMALL], ids=["ezm", "brc"])
def test_an_episode_that_cannot_be_resumed_is_not_continued_by_another(tmp_path: Path, overlap: str, agent: list[str]):
    given = [f"collect.overlap={overlap}", "tasks=[tests.callbacks.test_collect/forgetful]", "tasks.action_repeat=1"]
    given += ["evaluate=null", "warmup_env_steps=100", "env_steps_per_update=6", "trainer.log_every_n_steps=1"]
    given += [] if agent is SMALL else ["tasks.reward_range=[0,9]", "tasks.value_range=[0,45]"]
    run = [*given, f"hydra.run.dir={tmp_path}"]
    assert train.main([*agent, *run, "env_steps_per_task=170"]) == 0
    assert train.main([*agent, *run, "env_steps_per_task=220", "replay.capacity=300", "ckpt_path=last"]) == 0
    rows = [row for file in tmp_path.glob("csv/*/metrics.csv") for row in csv.DictReader(file.read_text().splitlines())]
    returns = {row[key] for row in rows for key in row if key.startswith("explore/return/") and row[key]}
    assert len(rows) > 15 and {float(value) for value in returns} == {45.0}
    if agent is SMALL:
        state = read_checkpoint(newest_checkpoint(tmp_path))["state_dict"]
        expected = RewardScale([1], discount=0.99)
        expected.update_(0, torch.arange(10.0), terminated=True)
        torch.testing.assert_close(state["reward_scale.high"], expected.high)


def test_what_cannot_be_saved_begins_elsewhere_after_a_resumption(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(Noted, "starts", [])
    given = ["tasks=[tests.callbacks.test_collect/noted]", "tasks.action_repeat=1", "evaluate=null", "envs_per_task=2"]
    run = [*SIZE, *given, "warmup_env_steps=100", "env_steps_per_update=6", f"hydra.run.dir={tmp_path}"]
    assert train.main([*run, "env_steps_per_task=170"]) == 0
    before = Noted.starts.copy()
    assert train.main([*run, "env_steps_per_task=220", "replay.capacity=300", "ckpt_path=last"]) == 0
    after = Noted.starts[len(before) :]
    thrown_away = [start for start in after if start in before]  # a new environment's first episodes, before the state
    assert after[: len(thrown_away)] == thrown_away == before[: len(thrown_away)]
    assert len(after) > len(thrown_away) + 4


def test_the_learner_acts_in_a_copy_of_its_own(beside: Path, tmp_path: Path):
    with_learner = overlapping(tmp_path, "module.act_with_target=false")
    (_, one), (_, other) = load(with_learner), load(beside)
    assert differences(one["action.pt"], other["action.pt"]) != []


def test_another_number_of_processes_takes_what_is_stored(beside: Path):
    from ezm_lightning.callbacks.collect import Collect
    from ezm_lightning.envs import MultiTaskEnv

    state = torch.load(beside / "rank0" / "state.pt", weights_only=True)["collect"]
    shares = []
    for rank in range(2):
        env = MultiTaskEnv(["tests.runs.short/point"], envs_per_task=2, action_repeat=2)
        collect = Collect(env, env_steps_per_update=8, warmup_env_steps=100)
        collect.share_run_state([state], rank=rank, world_size=2)
        shares.append(int(env.env_steps))
    assert sum(shares) == int(state["env_steps"]) < int(state["env"]["env_steps"])


def test_counts_are_of_all_ranks() -> None:
    from ezm_lightning.callbacks.collect import Collect
    from ezm_lightning.envs import MultiTaskEnv

    env, logged = MultiTaskEnv(["tests.runs.short/point", "tests.runs.short/other_point"]), {}
    collect = Collect(env, env_steps_per_update=8, warmup_env_steps=100)
    collect.num_episodes[:], env.faults[:] = torch.tensor([3, 1]), torch.tensor([0, 2])
    collect.last_return[:] = torch.tensor([4.0, torch.nan])
    others = {3: torch.tensor([2, 2]), 0: torch.tensor([1, 0]), 4: torch.tensor([6.0, torch.nan])}  # by the first one
    module = SimpleNamespace(
        trainer=SimpleNamespace(world_size=2),
        device=torch.device("cpu"),
        all_gather=lambda mine: torch.stack([mine, others[int(mine[0])].to(mine)]),
        log_dict=lambda metrics, **_: logged.update(metrics),
    )
    collect.log_env(module)
    label = "tests.runs.short/point"
    assert logged == {
        "run/episodes": 8,
        f"explore/return/{label}": 5,
        "explore/mean": 5,
        f"faults/{label}": 1,
        "faults/tests.runs.short/other_point": 2,
    }
