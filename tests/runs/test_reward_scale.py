"""Whole runs on tasks of odd reward scale: what is found in the warm-up, what is scaled and what is not, resuming."""

from __future__ import annotations

import csv
import shlex
import shutil
from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch

from ezm_lightning.commands import train
from ezm_lightning.envs import Transition
from ezm_lightning.reward_scale import COST_MARGIN, REWARD_MARGIN
from tests.runs.short import SIZE, Point, budget
from tests.runs.test_resume import same
from tests.runs.test_train import differences, load

UNIT = 1024.0  # a power of 2: scaled rewards have the same bits in either unit
WARMUP = 50  # decisions a task: 100 simulator steps, with an action repeat of 2
NAMES = [f"tests.runs.test_reward_scale/{task}" for task in ("dear", "costly", "known")]


class Dear(Point):
    """What a point is paid, in a unit 1024 times as small."""

    def step(self, action: np.ndarray) -> Transition:
        transition = super().step(action)
        return transition._replace(reward=UNIT * transition.reward)


class Costly(Point):
    """Fractions of a thousandth, most of them to be paid."""

    def step(self, action: np.ndarray) -> Transition:
        transition = super().step(action)
        return transition._replace(reward=1e-3 * (transition.reward - 0.9))


class Known(Dear):
    """It says how much it pays."""

    reward_range = (0.0, UNIT)


TASKS = {"dear": Dear, "costly": Costly, "known": Known}


class Dies(L.Callback):
    """The process ends after update 15, without a word."""

    def on_train_batch_end(self, trainer: L.Trainer, *_: object) -> None:
        if trainer.global_step == 15:
            raise RuntimeError("killed")


def command(run: Path, names: list[str], updates: int, *overrides: str) -> int | None:
    """Trains with 8 simulator steps a task and update."""
    size = [*SIZE, f"tasks=[{','.join(names)}]", budget(updates), f"env_steps_per_update={8 * len(names)}"]
    kept = ["checkpoint.every_n_train_steps=10", "checkpoint.save_top_k=-1"]
    return train.main([*size, *kept, f"hydra.run.dir={run}", *overrides])


def checkpoint(run: Path, update: int) -> Path:
    return run / "checkpoints" / f"step={update:08d}.ckpt"


def scales(run: Path, update: int) -> list[float]:
    return load(checkpoint(run, update))[0]["state_dict"]["reward_scale.scale"].tolist()


def recorded(run: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((run / "reward_scale.csv").open()))


def returns(run: Path) -> list[float]:
    return [float(row["return"]) for row in csv.DictReader((run / "eval.csv").open())]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of 20 updates on the three tasks."""
    folder = tmp_path_factory.mktemp("odd") / "run"
    assert command(folder, NAMES, 20) == 0
    return folder


def collected(run: Path, update: int) -> list[tuple[int, int, float]]:
    """(task, its transitions before, reward) of each transition in replay, as it was collected."""
    _, state = load(checkpoint(run, update))
    columns = [state[f"{name}.pt"].flatten().tolist() for name in ("task", "env_step", "reward", "closing")]
    rows = [row for row in zip(*columns, strict=True) if not row[3]]
    return [(task, before, reward) for task, before, reward, _ in rows]


def test_the_scale_fits_what_the_warm_up_paid(run: Path) -> None:
    rows = recorded(run)
    assert [row["task"] for row in rows] == NAMES
    assert [row["source"] for row in rows] == ["warm-up", "warm-up", "known range"]
    for task, row in enumerate(rows):
        paid = [reward for own, before, reward in collected(run, 20) if own == task and before < WARMUP]
        assert len(paid) == WARMUP
        low, high = min(0.0, *paid), max(0.0, *paid)
        assert (float(row["lowest"]), float(row["highest"])) == pytest.approx((low, high))
        fits = min(2 / (REWARD_MARGIN * high), 2 / (COST_MARGIN * -low) if low else np.inf)
        expected = 1 / UNIT if row["source"] == "known range" else fits
        assert float(row["reward_scale"]) == pytest.approx(expected)
    assert float(rows[0]["reward_scale"]) < 0.01 and float(rows[1]["reward_scale"]) > 10


def test_it_is_fixed_and_stands_in_every_checkpoint(run: Path) -> None:
    assert scales(run, 10) == scales(run, 20) == pytest.approx([float(row["reward_scale"]) for row in recorded(run)])
    seen = load(checkpoint(run, 20))[0]["state_dict"]["reward_scale.seen"]
    assert seen[:, 1].tolist() == pytest.approx([float(row["highest"]) for row in recorded(run)])
    paid = max(reward for task, _, reward in collected(run, 20) if task == 0)
    assert paid >= seen[0, 1]


def test_it_is_printed_a_line_a_task_and_logged(run: Path) -> None:
    lines = [line for line in (run / "train.log").read_text().splitlines() if "are learned" in line]
    whence = [
        "measured in the warm-up, where a decision paid",
        "measured in the warm-up",
        "by the known range of its rewards",
    ]
    for line, row, words in zip(lines, recorded(run), whence, strict=True):
        assert line.startswith(f"{row['task']}: rewards × {float(row['reward_scale']):.3g} are learned, {words}")
    logged = list(csv.DictReader((run / "csv" / "version_0" / "metrics.csv").open()))
    for row in recorded(run):
        (value,) = [each[key] for each in logged if each[key := f"reward_scale/{row['task']}"]]
        assert float(value) == pytest.approx(float(row["reward_scale"]))


def test_replay_and_curve_are_raw_and_what_is_learned_is_scaled(tmp_path: Path) -> None:
    """One task in two units: the same learner, search values and priorities bit for bit; other rewards and returns."""
    one, other = tmp_path / "one", tmp_path / "other"
    assert command(one, ["tests.runs.short/point"], 20) == 0
    assert command(other, NAMES[:1], 20) == 0
    (model, state), (model_there, state_there) = load(checkpoint(one, 20)), load(checkpoint(other, 20))
    (scale,), (scale_there,) = scales(one, 20), scales(other, 20)
    assert scale == scale_there * UNIT
    assert torch.equal(state["reward.pt"] * UNIT, state_there["reward.pt"]) and state_there["reward.pt"].max() > UNIT
    assert (state["search_value.pt"].nan_to_num() != 0).sum() > 20
    for weights in (model["state_dict"], model_there["state_dict"]):
        del weights["reward_scale.scale"], weights["reward_scale.seen"]
    assert differences(model["state_dict"], model_there["state_dict"]) == []
    for name in ("search_value.pt", "action.pt", "obs.pt", "state.pt"):
        assert differences(state[name], state_there[name], name) == []
    assert np.multiply(returns(one), UNIT) == pytest.approx(returns(other), rel=1e-6) and len(returns(one)) == 2


def test_stopped_and_resumed_is_the_same_run(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with pytest.raises(RuntimeError, match="killed"):
        command(folder, NAMES, 20, "+callbacks.dies={_target_: tests.runs.test_reward_scale.Dies}")
    (folder / "reward_scale.csv").unlink()
    assert command(folder, NAMES, 20, "ckpt_path=last") == 0
    assert same(checkpoint(folder, 20), checkpoint(run, 20)) == []
    for name in ("reward_scale.csv", "eval.csv"):
        assert (folder / name).read_text() == (run / name).read_text()


def test_another_scale_is_refused_and_the_text_to_write_works(run: Path, tmp_path: Path, capsys) -> None:
    folder = Path(shutil.copytree(run, tmp_path / "run"))
    before = scales(folder, 20)
    assert command(folder, NAMES, 22, f"tasks.reward_scale={{{NAMES[0]}: 0.5}}", "ckpt_path=last") == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert f"tasks.reward_scale of {NAMES[0]} is 0.5, the checkpoint's is {before[0]:.4g}" in line
    assert sorted(file.name for file in (folder / "checkpoints").glob("*.ckpt"))[-1] == checkpoint(folder, 20).name
    (typed,) = shlex.split(line.partition(": write ")[2])  # as a shell reads it
    assert command(folder, NAMES, 22, typed, "ckpt_path=last") == 0
    assert scales(folder, 22) == before


def test_scales_of_1_leave_no_trace(tmp_path: Path, capsys) -> None:
    assert command(tmp_path, NAMES[:1], 10, "tasks.reward_scale=1") == 0
    assert "are learned" not in capsys.readouterr().out
    assert not (tmp_path / "reward_scale.csv").exists()
    assert f"reward_scale/{NAMES[0]}" not in (tmp_path / "csv" / "version_0" / "metrics.csv").read_text()
    assert not [key for key in load(checkpoint(tmp_path, 10))[0]["state_dict"] if "reward_scale" in key]
