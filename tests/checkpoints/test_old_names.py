"""A checkpoint made by an older version, commit a571b24, is evaluated and goes on.

    ezm train experiment=debug tasks=[dmc/cartpole-balance] model=tiny model.latent_dim=8 model.head_dim=8
    model.projection_dim=8 model.task_embedding_dim=4 model.action_embedding_dim=4 model.num_bins=11
    value_target=variance planner.num_simulations=2 planner.max_num_considered_actions=2 warmup_env_steps=100
    evaluate.interval=1_000_000 env_steps_per_task=180 envs_per_task=1

Its folder's name has been shortened in its config, and the manifest written anew.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from ezm_lightning.agent import load
from ezm_lightning.checkpoints.contents import read_checkpoint
from ezm_lightning.checkpoints.old_names import renewed
from ezm_lightning.commands import train
from ezm_lightning.commands.eval import evaluate
from ezm_lightning.policy_target import BestAction
from ezm_lightning.value_mix import VarianceShare

OLD = Path(__file__).parent / "a571b24" / "step=00000010.ckpt"
SIZE = [
    "experiment=debug", "tasks=[dmc/cartpole-balance]", "model=tiny", "model.latent_dim=8", "model.head_dim=8",
    "model.projection_dim=8", "model.task_embedding_dim=4", "model.action_embedding_dim=4", "model.num_bins=11",
    "value_mix=variance", "policy_target=best_action", "planner.num_simulations=2",
    "planner.max_num_considered_actions=2", "warmup_env_steps=100", "evaluate.interval=1_000_000", "envs_per_task=1",
]  # fmt: skip


def test_its_agent_is_what_it_was():
    """The policy was fitted to the best action then, and had no temperature."""
    agent = load(OLD)
    saved = torch.load(OLD, weights_only=True)["state_dict"]
    module = agent.module
    assert isinstance(module.reanalyzer.policy_target, BestAction) and isinstance(module.value_mix, VarianceShare)
    for name, value in module.target.model.state_dict().items():
        assert torch.equal(value, saved[f"target_model.{name}"])
    assert torch.equal(module.value_mix.range.extremes, saved["td_share.extremes"])
    (row,) = evaluate(agent, agent.tasks, episodes=1, seed=0)
    assert row.return_ > 0


def test_its_run_goes_on(tmp_path):
    folder = tmp_path / "run" / "checkpoints"
    shutil.copytree(OLD.parent, folder)
    go_on = [f"ckpt_path={folder / OLD.name}", f"hydra.run.dir={tmp_path / 'run'}", "env_steps_per_task=260"]
    assert train.main([*SIZE, *go_on]) == 0
    (last,) = folder.glob("*.ckpt")
    assert read_checkpoint(last)["global_step"] == 20


def test_what_is_of_today_stays_as_it_is():
    content = read_checkpoint(OLD)
    assert renewed(content) is content


@pytest.mark.parametrize("other", [{}, {"state_dict": {}}, {"hyper_parameters": {"model": 1}, "state_dict": {}}])
def test_what_is_no_checkpoint_stays_as_it_is(other):
    assert renewed(other) is other
