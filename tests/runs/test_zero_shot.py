"""A task between those that were learned is played by its instruction alone."""

from __future__ import annotations

import csv
from pathlib import Path

from omegaconf import OmegaConf

from ezm_lightning.agent import chosen_tasks, instructed, load
from ezm_lightning.checkpoints.runs import newest_checkpoint
from ezm_lightning.commands import eval as ezm_eval
from ezm_lightning.commands import train, transfer
from ezm_lightning.language import encoders
from tests.runs.directions import TEXTS, circle

LEARNED, BETWEEN = list(TEXTS)[::2], list(TEXTS)[1::2]
SIZE = [
    "experiment=dmc_cpu", "tasks.action_repeat=1", "model.latent_dim=64", "model.head_dim=64", "batch_size=64",
    "planner.num_simulations=4", "planner.max_num_considered_actions=4", "planner.num_candidates=4",
    "planner.num_policy_candidates=2",
    "warmup_env_steps=100", "env_steps_per_task=250", "env_steps_per_update=4", "evaluate=null", "envs_per_task=1",
    "module.ema_half_life=30", "module.optimizer.lr=1e-3",
]  # fmt: skip


def learn(run: Path, *overrides: str) -> None:
    assert train.main([*SIZE, f"tasks=[{','.join(LEARNED)}]", f"hydra.run.dir={run}", *overrides]) == 0


def mean_return(agent, tasks: list[str]) -> float:
    rows = ezm_eval.evaluate(agent, chosen_tasks(agent, tasks), episodes=2, seed=5)
    return sum(row.return_ for row in rows) / len(rows)


def test_a_direction_between_two_that_were_learned(tmp_path, monkeypatch) -> None:
    """The eight new tasks have at least 80 % of the mean return of those that were learned. An agent that knows tasks
    by their index begins with the mean of its rows, and has less than half of that."""
    monkeypatch.setitem(encoders.ENCODERS, "circle", encoders.Kind(2, lambda: circle, lambda: "", lambda: "test"))
    monkeypatch.chdir(tmp_path)
    OmegaConf.save(OmegaConf.create(TEXTS), "texts.yaml")
    by_text, by_index = tmp_path / "runs/text/seed1", tmp_path / "runs/index/seed1"
    learn(by_text, "task_embedding=text", "text.encoder=circle", "text.instructions=texts.yaml")
    told = load(newest_checkpoint(by_text))
    learned = mean_return(told, LEARNED)
    new = mean_return(instructed(told, {task: TEXTS[task] for task in BETWEEN}), BETWEEN)
    learn(by_index)
    line = [f"ckpt_path={by_index}", f"tasks=[{','.join(BETWEEN)}]", "transfer.train=[embedding]", "transfer.init=mean"]
    budget = ["transfer.env_steps_per_task=102", "transfer.warmup_env_steps=100", "transfer.episodes=2"]
    assert transfer.main([*line, *budget, "transfer.name=new"]) == 0
    rows = list(csv.DictReader((tmp_path / "runs/new/transfer_seed1.csv").open()))
    untold = [float(row["return"]) for row in rows if row["update"] == "0"]
    assert len(untold) == len(BETWEEN)
    assert learned > 10
    assert new >= 0.8 * learned
    assert sum(untold) / len(untold) < 0.5 * new
