"""Feedback: priorities reach replay, the target moves every update; faults are logged."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from ezm_lightning.callbacks.checkpoint import AtomicCheckpointIO, tidy
from ezm_lightning.callbacks.collect import Collect
from ezm_lightning.callbacks.evaluate import Evaluate
from ezm_lightning.callbacks.priorities import UpdatePriorities
from ezm_lightning.callbacks.target import UpdateTarget
from ezm_lightning.checkpoints.folder import damage, publish, remove, synced
from ezm_lightning.envs import MultiTaskEnv


def test_priorities_go_to_the_windows_they_come_from():
    seen = {}
    replay = SimpleNamespace(update_priority=lambda index, priority: seen.update(index=index, priority=priority))
    trainer = SimpleNamespace(datamodule=SimpleNamespace(replay=replay))
    outputs = {"index": torch.tensor([3, 5]), "priority": torch.tensor([0.5, 2.0])}
    UpdatePriorities().on_train_batch_end(trainer, None, {**outputs, "skipped": True}, None, 0)
    assert not seen
    UpdatePriorities().on_train_batch_end(trainer, None, {**outputs, "skipped": False}, None, 0)
    assert seen["index"].tolist() == [3, 5] and seen["priority"].tolist() == [0.5, 2.0]


def test_the_target_moves_once_an_update():
    calls = []
    module = SimpleNamespace(update_target_=lambda: calls.append("moved"))
    for skipped in (False, True):
        UpdateTarget().on_train_batch_end(None, module, {"skipped": skipped}, None, 0)
    assert calls == ["moved"]
    UpdateTarget().on_train_batch_end(None, SimpleNamespace(), {}, None, 0)  # nothing trails behind this learner


def test_a_checkpoint_is_whole_or_absent(tmp_path, monkeypatch):
    path = tmp_path / "lightning.ckpt"
    saver = AtomicCheckpointIO()
    saver.save_checkpoint({"x": torch.arange(3)}, path)

    def fails(*_):
        raise OSError("disk full")

    monkeypatch.setattr("ezm_lightning.callbacks.checkpoint.write", fails)
    with pytest.raises(OSError, match="disk full"):
        saver.save_checkpoint({"x": torch.arange(9)}, path)
    assert torch.load(path, weights_only=True)["x"].tolist() == [0, 1, 2]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["lightning.ckpt"]


def make_checkpoint(folder, step):
    draft = folder / "draft"
    AtomicCheckpointIO().save_checkpoint({}, draft / "lightning.ckpt")
    (draft / "rank0").mkdir()
    (draft / "rank0" / "state.pt").write_bytes(bytes(10))
    path = folder / f"step={step:08d}.ckpt"
    publish(draft, synced(draft, draft), path)
    return path


def test_a_published_checkpoint_is_sealed_and_takes_the_place_of_another(tmp_path):
    for _ in range(2):
        path = make_checkpoint(tmp_path, 1)
        assert damage(path) is None and [each.name for each in tmp_path.iterdir()] == [path.name]
        (path / "rank0" / "state.pt").write_bytes(bytes(9))
        assert "is damaged (9 bytes" in damage(path)


def test_a_kill_while_a_checkpoint_is_removed_leaves_no_part_of_it_under_its_name(tmp_path, monkeypatch):
    path = make_checkpoint(tmp_path, 1)

    def killed(*_, ignore_errors=False):
        if not ignore_errors:
            raise KeyboardInterrupt

    monkeypatch.setattr("ezm_lightning.checkpoints.folder.shutil.rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        remove(path)
    monkeypatch.undo()
    assert not path.exists()
    tidy(tmp_path, {"step=00000001"})
    assert list(tmp_path.iterdir()) == []


def test_tidying_removes_old_checkpoints_and_what_killed_writers_left(tmp_path):
    for step in (1, 2):
        make_checkpoint(tmp_path, step)
    (tmp_path / "step=00000002.ckpt.tmp").mkdir()
    (tmp_path / "step=00000003.ckpt.tmp").write_bytes(b"left")
    (tmp_path / "notes.txt").write_text("the user's")
    tidy(tmp_path, {"step=00000002"})
    assert sorted(file.name for file in tmp_path.iterdir()) == ["notes.txt", "step=00000002.ckpt"]


def test_faults_of_simulators_are_logged_per_task(tmp_path):
    env, logged = MultiTaskEnv(["dmc/cartpole-balance", "dmc/cartpole-swingup"]), {}
    env.faults[1] = 3
    collect = Collect(env, env_steps_per_update=1, warmup_env_steps=0)
    alone = SimpleNamespace(world_size=1)
    collect.log_env(SimpleNamespace(trainer=alone, log_dict=lambda metrics, **_: logged.update(metrics)))
    evaluate = Evaluate(None, interval=1, episodes=1, run_dir=tmp_path)
    logger = SimpleNamespace(log_metrics=lambda metrics, **_: logged.update(metrics))
    trainer = SimpleNamespace(global_step=0, loggers=[logger], is_global_zero=True, callbacks=[collect])
    evaluate._record(trainer, env, *torch.ones(3, 1, 2))
    faults = {name: float(count) for name, count in logged.items() if "faults" in name}
    assert faults == {"faults/dmc/cartpole-swingup": 3, "eval_faults/dmc/cartpole-swingup": 3}
    assert logged["eval/mean"] == 1
