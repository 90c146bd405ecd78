"""The floors of ``ezm eval`` on cartpole, random and zero actions, beside what was measured before."""

from __future__ import annotations

import pytest
from torch import Tensor

from ezm_lightning.envs import MultiTaskEnv
from ezm_lightning.evaluation.episodes import evaluation_seed, floor_actors, play
from ezm_lightning.ops.seeds import rank_seed


@pytest.fixture(scope="module")
def floors() -> dict[str, Tensor]:
    """Mean returns of balance and swingup over ten episodes, by kind of action."""
    tasks = ["dmc/cartpole-balance", "dmc/cartpole-swingup"]
    env = MultiTaskEnv(tasks, envs_per_task=10, action_repeat=2, ignore_termination=True)
    actors = floor_actors(env.action_dims, env.action_dim)
    return {name: play(env, actor, seed=1).honoured.view(2, 10).mean(1) for name, actor in actors.items()}


def test_no_rank_trains_with_the_seed_of_an_evaluation() -> None:
    training, evaluation = ({rank_seed(seed, rank) for rank in range(64)} for seed in (7, evaluation_seed(7)))
    assert len(training) == len(evaluation) == 64 and not training & evaluation
    assert [rank_seed(7, rank) for rank in range(10)] == list(range(7, 10_000, 1000))


def test_random_actions(floors: dict[str, Tensor]) -> None:
    assert floors["random"].tolist() == [pytest.approx(325, abs=60), pytest.approx(40, abs=25)]


def test_balance_begins_at_its_goal(floors: dict[str, Tensor]) -> None:
    assert floors["zero"].tolist() == [pytest.approx(762, abs=25), pytest.approx(0, abs=0.05)]
