"""A sparse task that learning alone does not find is found with demonstrations."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from ezm_lightning.commands import demos, train

pytest.importorskip("minari", reason="pip install 'ezm-lightning[minari]'")
pytest.importorskip("h5py", reason="pip install 'ezm-lightning[minari]'")

TASK = "tasks=[tests.runs.corner/far]"
SIZE = [
    "experiment=demos_cpu", TASK, "tasks.action_repeat=1", "model.latent_dim=64", "model.head_dim=64", "batch_size=64",
    "planner.num_simulations=8", "planner.max_num_considered_actions=8", "planner.num_candidates=8",
    "warmup_env_steps=400", "env_steps_per_task=900", "env_steps_per_update=5", "evaluate.interval=10_000",
    "evaluate.episodes=3", "module.ema_half_life=30",
]  # fmt: skip


def returns(run: Path, *overrides: str) -> list[float]:
    assert train.main([*SIZE, f"hydra.run.dir={run}", *overrides]) == 0
    return [float(row["return"]) for row in csv.DictReader((run / "eval.csv").open())]


def test_it_is_found_with_demonstrations_only(tmp_path: Path) -> None:
    """In 40 steps the demonstrator is paid 24 to 28. Both runs make 100 updates, the one 300 before that."""
    out = tmp_path / "demos"
    policy = "policy=tests.runs.corner.to_the_corner"
    assert demos.main(["record", policy, TASK, "action_repeat=1", "episodes=10", f"out={out}"]) == 0
    alone = returns(tmp_path / "alone", "pretrain.updates=0", "module.loss_coefs.bc=0")
    shown = returns(tmp_path / "shown", f"demos.paths=[{out}]", "pretrain.updates=300")
    assert alone == [0, 0]
    assert shown[0] > 15 and shown[1] > 8  # by searches, before the first update of the run and at its end
