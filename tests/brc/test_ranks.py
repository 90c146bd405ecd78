"""BRC in two processes: one model, one reward scale of all episodes, the updates of one process, exact resume."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from ezm_lightning.brc.module import BRC
from tests.brc.test_run import SMALL
from tests.runs.test_ranks import ALONE, PYTHON, ROOT, TASKS, TWO, reports

UPDATES = 40
SPEND = [*TASKS, f"env_steps_per_task={200 + 2 * UPDATES}", f"checkpoint.every_n_train_steps={UPDATES // 2}"]


def launch(folder: Path, *overrides: str) -> list[dict]:
    """What each of two processes reports at the end of a run in ``folder``."""
    given = [*(text for text in SMALL if not text.startswith("tasks=")), *SPEND, *TWO, "checkpoint.save_top_k=-1"]
    done = subprocess.run(
        [*PYTHON, "-m", "tests.runs.two_ranks", str(folder), *given, f"hydra.run.dir={folder}/run", *overrides],
        cwd=ROOT, env=os.environ | ALONE, capture_output=True, text=True, timeout=500,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return reports(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    launch(folder)
    return folder


def test_the_ranks_hold_one_model_and_share_the_budget(folder: Path) -> None:
    one, other = reports(folder)
    assert one["learner"] == other["learner"] and one["updates"] == other["updates"] == UPDATES
    for steps in zip(one["env_steps"], other["env_steps"], strict=True):
        assert abs(sum(steps) - (200 + 2 * UPDATES)) <= 8  # two vector steps of two simulator steps and two slots


def test_the_reward_scale_is_of_the_episodes_of_both_ranks(folder: Path) -> None:
    one, other = reports(folder)
    (one_low, one_high), (other_low, other_high) = one["own"], other["own"]
    low, high = list(map(min, one_low, other_low)), list(map(max, one_high, other_high))
    assert one["extremes"] == other["extremes"] == [low, high]
    assert one["own"] != one["extremes"] != other["own"]


def test_a_rank_restores_the_extremes_that_it_alone_knows() -> None:
    """They are merged at the next batch, and the weights of a checkpoint are those of the first rank."""
    module = BRC(obs_dims=[3, 3], action_dims=[1, 1], width=8, actor_width=8)
    module.generator = torch.Generator()
    module.reward_scale.update_(1, torch.tensor([-3.0, 5.0]), terminated=True)
    state, low, high = module.rank_state(), module.reward_scale.low.clone(), module.reward_scale.high.clone()
    module.reward_scale.low[:], module.reward_scale.high[:] = torch.inf, -torch.inf  # the first rank's
    module.load_rank_state(state)
    assert torch.equal(module.reward_scale.low, low) and torch.equal(module.reward_scale.high, high)


def test_two_ranks_resume_bit_for_bit(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "run" / "checkpoints", tmp_path / "run" / "checkpoints")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / f"step={UPDATES:08d}.ckpt")
    resumed = launch(tmp_path, "ckpt_path=last")
    assert [{**rank, "own": None} for rank in resumed] == [{**rank, "own": None} for rank in reports(folder)]
