"""A task that says when its goal is reached: the share of such episodes is in eval.csv, the log and the table."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from ezm_lightning.acting import ZeroActor
from ezm_lightning.commands import eval as ezm_eval
from ezm_lightning.commands import train
from ezm_lightning.envs import MultiTaskEnv, Transition
from ezm_lightning.evaluation.episodes import chooser, run_episodes
from tests.runs.short import SIZE, Point, budget

HERE = "tests.evaluation.test_success"


class Goal(Point):
    """The goal is reached in the third step of every other episode; ``late`` after the episode has terminated."""

    reports_success, late = True, False

    def reset(self) -> np.ndarray:
        self.episode, self.at = getattr(self, "episode", -1) + 1, 0
        return super().reset()

    def step(self, action: np.ndarray) -> Transition:
        self.at += 1
        obs, reward, _, *_ = super().step(action)
        reached = self.at == 3 and self.episode % 2 == 0
        return Transition(obs, reward, self.late and self.at == 2, success=reached)


class Late(Goal):
    late = True


TASKS = {"goal": Goal, "late": Late, "point": Point}


def played(task: str) -> list[bool]:
    env = MultiTaskEnv([f"{HERE}/{task}"], envs_per_task=2, ignore_termination=True)
    successes = []
    for _ in range(2):
        done = run_episodes(env, chooser(ZeroActor(1), torch.Generator()))
        successes += done.success.tolist()
    return successes


def test_an_episode_succeeds_if_the_goal_held_once_before_its_end() -> None:
    """The environment begins a new episode at the end of each, and another where it is reset."""
    assert played("goal") == [True] * 4
    assert played("late") == played("point") == [False] * 4


def test_it_is_in_the_curve_the_log_and_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tasks = f"tasks=[{HERE}/goal,{HERE}/point]"
    given = [tasks, "env_steps_per_task=120", "evaluate.episodes=2", f"hydra.run.dir={tmp_path}", "logger=csv"]
    assert train.main([*SIZE, budget(1), *given]) == 0
    rows = list(csv.DictReader((tmp_path / "eval.csv").open()))
    assert [row["success"] for row in rows[-2:]] == ["1.0", ""]
    assert f"success/{HERE}/goal" in (tmp_path / "csv" / "version_0" / "metrics.csv").read_text().splitlines()[0]
    capsys.readouterr()
    others = ["eval.policy=true", f"eval.json={tmp_path / 'out.json'}"]
    assert ezm_eval.main([f"ckpt_path={tmp_path}", "eval.episodes=2", *others]) == 0
    printed = capsys.readouterr().out
    assert "success" in printed
    out = json.loads((tmp_path / "out.json").read_text())["tasks"]
    assert [row["success"] for row in out] == [1.0, None]
    assert [set(row["other_successes"].values()) for row in out] == [{1.0}, {None}]
    assert printed.count("(1.000)") == 3  # the agent, its policy's mean and a sample of it
