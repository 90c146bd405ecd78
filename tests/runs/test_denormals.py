"""Training and acting compute with 0 in place of denormal numbers, whose products are slow; what follows does not."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch

from ezm_lightning.acting import ZeroActor
from ezm_lightning.commands import train
from ezm_lightning.envs import MultiTaskEnv
from ezm_lightning.evaluation.episodes import play
from ezm_lightning.ops.denormals import flushed_denormals
from tests.runs.short import SIZE, budget

seen: list[float] = []


def product() -> float:
    """1e-39, which is denormal."""
    return float(torch.tensor(1e-30) * torch.tensor(1e-9))


class Watch(L.Callback):
    """Notes a product when gradients are ready."""

    def on_before_optimizer_step(self, *_: object) -> None:
        seen.append(product())


def test_training_flushes(tmp_path: Path) -> None:
    seen.clear()
    watch = "+callbacks.watch={_target_: tests.runs.test_denormals.Watch}"
    assert train.main([*SIZE, budget(3), watch, f"hydra.run.dir={tmp_path}/run"]) == 0
    assert seen == [0.0] * 3
    assert product() > 0


def test_evaluation_flushes_where_the_agent_acts() -> None:
    class Watching(ZeroActor):
        def act(self, *arguments: Any, **options: Any) -> dict[str, torch.Tensor]:
            seen.append(product())
            return super().act(*arguments, **options)

    seen.clear()
    with contextlib.closing(MultiTaskEnv(["dmc/pendulum-swingup"], envs_per_task=1, ignore_termination=True)) as env:
        play(env, Watching(env.action_dim), seed=0)
    assert len(seen) > 1 and not any(seen)
    assert product() > 0


def test_inside_another_it_leaves_the_outer_one_on() -> None:
    with flushed_denormals():
        with flushed_denormals():
            assert product() == 0
        assert product() == 0
    assert product() > 0


def test_an_error_ends_it_too() -> None:
    with pytest.raises(KeyError), flushed_denormals():
        assert product() == 0
        raise KeyError
    assert product() > 0
