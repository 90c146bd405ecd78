"""Collection beside learning: the same whoever is faster, one update later, and resumed exactly."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch

from ezm_lightning.commands import train
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


TASKS = {"slow": Slow}


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
