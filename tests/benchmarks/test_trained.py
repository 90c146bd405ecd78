"""``python -m benchmarks trained``: a checkpoint's gradients on its own replay, with and without denormal numbers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import benchmarks as bench
from benchmarks import measure
from benchmarks.trained import Gradients
from ezm_lightning.agent import load
from ezm_lightning.checkpoints.runs import newest_checkpoint
from ezm_lightning.commands import train
from ezm_lightning.commands.distil import replay_folders
from tests.runs.short import SIZE, budget


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    assert train.main([*SIZE, budget(20), f"hydra.run.dir={folder}"]) == 0
    return folder


def test_rows_have_both_times(run: Path, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(measure.PRODUCT, "cpu", 64)
    assert bench.main(["trained", f"ckpt_path={run}", "json=true", "repeats=5", "clock=cpu"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["size"].split(": ")[1] for row in rows] == ["gradients", "plan"]
    for row in rows:
        assert row["peer"] == "with denormals" and row["floor_ms"] > 0
        assert row["ratio"] == pytest.approx(row["ms_median"] / row["peer_ms"])


def test_the_weights_stay_and_the_batches_are_of_the_replay(run: Path) -> None:
    path = newest_checkpoint(run)
    agent = load(path)
    gradients = Gradients(agent, replay_folders(str(path)))
    gradients.all_batches()
    model = gradients.module.model
    after = model.state_dict()
    assert all(torch.equal(after[name], x) for name, x in agent.module.model.state_dict().items() if "norm" not in name)
    assert any(p.grad is not None and p.grad.any() for p in model.parameters())
    assert len({float(batch.obs.sum()) for batch in gradients.batches}) > 1


@pytest.mark.parametrize(
    ("given", "message"),
    [([], "ckpt_path=RUN says which checkpoint"), (["ckpt_path=nowhere"], "ckpt_path=nowhere does not exist")],
)
def test_a_checkpoint_must_be_given(given, message, capsys) -> None:
    assert bench.main(["trained", *given]) == 2
    assert message in capsys.readouterr().err
