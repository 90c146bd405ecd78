"""Feedback: priorities reach replay, the target moves every update, a non-finite loss stops before the weights."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from ezm_lightning.callbacks.checkpoint import AtomicCheckpointIO, sidecar_dir
from ezm_lightning.callbacks.collect import Collect
from ezm_lightning.callbacks.evaluate import Evaluate
from ezm_lightning.callbacks.feedback import StopOnNonFiniteLoss, UpdatePriorities, UpdateTarget
from ezm_lightning.envs import MultiTaskEnv
from ezm_lightning.evaluation import EpisodeReturns


def test_priorities_go_to_the_windows_they_come_from():
    seen = {}
    replay = SimpleNamespace(update_priority=lambda index, priority: seen.update(index=index, priority=priority))
    trainer = SimpleNamespace(datamodule=SimpleNamespace(replay=replay))
    outputs = {"index": torch.tensor([3, 5]), "priority": torch.tensor([0.5, 2.0])}
    UpdatePriorities().on_train_batch_end(trainer, None, outputs, None, 0)
    assert seen["index"].tolist() == [3, 5] and seen["priority"].tolist() == [0.5, 2.0]


def test_the_target_moves_once_an_update():
    calls = []
    module = SimpleNamespace(update_target_=lambda: calls.append(1))
    UpdateTarget().on_train_batch_end(None, module, {}, None, 0)
    assert calls == [1]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_non_finite_loss_names_tasks_losses_and_update(value):
    guard = StopOnNonFiniteLoss(["dmc/walker-walk", "dmc/walker-run", "gym/Hopper-v5"])
    guard.on_train_batch_start(None, None, SimpleNamespace(task=torch.tensor([2, 0, 2])), 0)
    module = SimpleNamespace(last_losses={"reward": torch.tensor(0.5), "value": torch.tensor(value)})
    trainer = SimpleNamespace(global_step=17)
    with pytest.raises(FloatingPointError) as error:
        guard.on_before_backward(trainer, module, torch.tensor(value))
    text = str(error.value)
    assert all(part in text for part in ("update 17", "dmc/walker-walk, gym/Hopper-v5", "reward=0.5", f"value={value}"))
    assert "walker-run" not in text


def test_a_finite_loss_passes():
    StopOnNonFiniteLoss(["a"]).on_before_backward(None, None, torch.tensor(1.0))


def test_a_checkpoint_is_whole_or_absent(tmp_path, monkeypatch):
    path = tmp_path / "step=00000001.ckpt"
    saver = AtomicCheckpointIO()
    saver.save_checkpoint({"x": torch.arange(3)}, path)

    def fails(*_):
        raise OSError("disk full")

    monkeypatch.setattr("ezm_lightning.callbacks.checkpoint.torch.save", fails)
    with pytest.raises(OSError, match="disk full"):
        saver.save_checkpoint({"x": torch.arange(9)}, path)
    assert torch.load(path, weights_only=True)["x"].tolist() == [0, 1, 2]


def test_a_removed_checkpoint_takes_its_sidecar_along(tmp_path):
    path = tmp_path / "step=00000001.ckpt"
    AtomicCheckpointIO().save_checkpoint({}, path)
    (sidecar_dir(path) / "rank0").mkdir(parents=True)
    AtomicCheckpointIO().remove_checkpoint(path)
    assert list(tmp_path.iterdir()) == []


def test_faults_of_simulators_are_logged_per_task(tmp_path):
    env, logged = MultiTaskEnv(["dmc/cartpole-balance", "dmc/cartpole-swingup"]), {}
    env.faults[1] = 3
    collect = Collect(env, None, env_steps_per_update=1, warmup_env_steps=0)
    collect.log_env(SimpleNamespace(log_dict=lambda metrics, **_: logged.update(metrics)))
    evaluate = Evaluate(None, None, collect, interval=1, run_dir=tmp_path)
    logger = SimpleNamespace(log_metrics=lambda metrics, **_: logged.update(metrics))
    trainer = SimpleNamespace(global_step=0, loggers=[logger], is_global_zero=True)
    evaluate._record(trainer, env, EpisodeReturns(*torch.ones(3, 2)))
    faults = {name: float(count) for name, count in logged.items() if "faults" in name}
    assert faults == {"faults/dmc/cartpole-swingup": 3, "eval_faults/dmc/cartpole-swingup": 3}
    assert logged["eval/mean"] == 1
