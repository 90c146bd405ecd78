"""Updates a second: counted from the first update on, evaluations taken off once."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest

from ezm_lightning.callbacks import pace as pace_module
from ezm_lightning.callbacks.evaluate import Evaluate
from ezm_lightning.callbacks.pace import Pace


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    now = SimpleNamespace(seconds=1000.0)
    monkeypatch.setattr(pace_module, "time", SimpleNamespace(monotonic=lambda: now.seconds))
    return now


def test_an_evaluation_before_the_first_update_is_not_taken_off(clock: SimpleNamespace, tmp_path) -> None:
    """One of 8 s before training and one of 5 s in 25 s with 40 updates: two a second."""
    evaluate = Evaluate(lambda slots: None, interval=100, episodes=1, run_dir=tmp_path)
    trainer = SimpleNamespace(callbacks=[evaluate], global_step=10, max_steps=100, loggers=[])
    pace = Pace()
    clock.seconds, evaluate.seconds = clock.seconds + 8, 8.0
    pace.on_train_start(trainer, SimpleNamespace(hparams={}))
    assert math.isnan(pace.mean_updates_per_second(trainer))
    clock.seconds, evaluate.seconds, trainer.global_step = clock.seconds + 25, 13.0, 50
    assert pace.mean_updates_per_second(trainer) == pytest.approx(2.0)
    assert pace.seconds_left(trainer) == pytest.approx(25 / 40 * 50)
