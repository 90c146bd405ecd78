"""Training computes with 0 in place of denormal numbers, whose products are slow; what comes after it does not."""

from __future__ import annotations

from pathlib import Path

import lightning as L
import pytest
import torch

from ezm_lightning.commands import train
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


def test_an_error_ends_it_too() -> None:
    with pytest.raises(KeyError), flushed_denormals():
        assert product() == 0
        raise KeyError
    assert product() > 0
