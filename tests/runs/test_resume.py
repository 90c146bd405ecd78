"""Nothing is lost when things break: damaged files, kills, a full disk, signals; a finished run goes on."""

from __future__ import annotations

import errno
import json
import logging
import os
import pickle
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ezm_lightning.callbacks import checkpoint as checkpoints
from ezm_lightning.callbacks import run_state
from ezm_lightning.checkpoints import tensor_file
from ezm_lightning.checkpoints.contents import read_checkpoint
from ezm_lightning.checkpoints.folder import MANIFEST, WEIGHTS, damage, publish, synced, weights_file
from ezm_lightning.checkpoints.runs import check_intact, newest_checkpoint
from ezm_lightning.commands import train
from tests.runs.short import SIZE, budget
from tests.runs.test_train import differences, load

ROOT = Path(__file__).parents[2]


def command(run: Path, updates: int, *overrides: str) -> int | None:
    return train.main([*SIZE, budget(updates), f"hydra.run.dir={run}", *overrides])


def steps(run: Path) -> list[int]:
    return sorted(int(file.stem.partition("=")[2]) for file in (run / "checkpoints").glob("*.ckpt"))


def same(one: Path, other: Path, *, counters: bool = True) -> list[str]:
    """Where two checkpoints differ in weights, optimiser, or anything of their ranks."""
    (model, state), (expected, expected_state) = load(one), load(other)
    keys = ["state_dict", "optimizer_states", "global_step"] + ["lr_schedulers"] * counters
    return [d for key in keys for d in differences(model[key], expected[key], key)] + differences(state, expected_state)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of 30 updates with its checkpoints of updates 20 and 30."""
    run = tmp_path_factory.mktemp("finished") / "run"
    assert command(run, 30, "checkpoint.every_n_train_steps=10", "checkpoint.save_top_k=2") == 0
    assert steps(run) == [20, 30]
    return run


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def newest(run: Path) -> Path:
    return run / "checkpoints" / f"step={steps(run)[-1]:08d}.ckpt"


def flip(file: Path, place: int) -> None:
    data = bytearray(file.read_bytes())
    data[place] ^= 1
    file.write_bytes(data)


DAMAGES = {
    "truncated": lambda ckpt: os.truncate(ckpt / WEIGHTS, (ckpt / WEIGHTS).stat().st_size // 2),
    "empty": lambda ckpt: os.truncate(ckpt / WEIGHTS, 0),
    "flipped": lambda ckpt: flip(ckpt / WEIGHTS, (ckpt / WEIGHTS).stat().st_size // 3),
    "weights missing": lambda ckpt: (ckpt / WEIGHTS).unlink(),
    "rank missing": lambda ckpt: shutil.rmtree(ckpt / "rank0"),
    "replay missing": lambda ckpt: (ckpt / "rank0" / "replay" / "obs.pt").unlink(),
    "replay flipped": lambda ckpt: flip(ckpt / "rank0" / "replay" / "obs.pt", 1000),
    "state truncated": lambda ckpt: os.truncate(ckpt / "rank0" / "state.pt", 99),
    "manifest missing": lambda ckpt: (ckpt / MANIFEST).unlink(),
    "manifest truncated": lambda ckpt: os.truncate(ckpt / MANIFEST, 30),
    "manifest flipped": lambda ckpt: flip(ckpt / MANIFEST, 40),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_named_with_the_newest_intact_checkpoint(run: Path, damage: str, caplog, capsys):
    broken, intact = newest(run), run / "checkpoints" / "step=00000020.ckpt"
    check_intact(broken)
    DAMAGES[damage](broken)
    with pytest.raises(ValueError, match="is not intact") as error:
        check_intact(broken)
    assert str(broken) in str(error.value) and str(error.value).endswith(f"newest intact one there: {intact}")
    assert newest_checkpoint(run) == intact
    (record,) = caplog.records
    assert str(broken) in record.message and "\n" not in record.message
    before = sorted(path.stat().st_mtime_ns for path in (run / "checkpoints").rglob("*"))
    assert command(run.parent / "other", 40, f"ckpt_path={broken}") == 2
    assert capsys.readouterr().err.startswith("error: ")
    assert sorted(path.stat().st_mtime_ns for path in (run / "checkpoints").rglob("*")) == before
    assert not (run.parent / "other").exists()


def test_every_flipped_bit_is_found(run: Path):
    chance, ckpt = random.Random(0), newest(run)
    files = [file for file in sorted(ckpt.rglob("*")) if file.is_file()]
    assert len(files) > 10
    for file in files:
        place = chance.randrange(file.stat().st_size)
        flip(file, place)
        assert damage(ckpt) is not None, file
        flip(file, place)
    assert damage(ckpt) is None


def test_weights_alone_are_checked_by_their_own_checksums(run: Path, tmp_path: Path):
    """A lone .ckpt, as `ezm eval` takes it: a flipped bit is refused, or lies where nothing is read."""
    alone, chance = tmp_path / "alone.ckpt", random.Random(1)
    whole = weights_file(newest(run)).read_bytes()
    alone.write_bytes(whole)
    expected, refused = read_checkpoint(alone)["state_dict"], 0
    for _ in range(60):
        flip(alone, place := chance.randrange(len(whole)))
        try:
            assert not differences(read_checkpoint(alone)["state_dict"], expected)
        except ValueError:
            refused += 1
        flip(alone, place)
    assert refused > 40


def test_last_passes_over_a_broken_checkpoint_and_replaces_it(run: Path, finished: Path):
    flip(newest(run) / WEIGHTS, 5000)
    (run / "checkpoints" / "step=00000025.ckpt.tmp" / "rank0").mkdir(parents=True)  # left by a killed writer
    assert command(run, 30, "checkpoint.every_n_train_steps=10", "ckpt_path=last") == 0
    assert same(newest(run), newest(finished)) == []
    assert [path.name for path in sorted((run / "checkpoints").iterdir())] == ["step=00000030.ckpt"]


class Malicious:
    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self):
        return os.mkdir, (str(self.witness),)


@pytest.mark.parametrize("saver", [torch.save, lambda content, file: file.write_bytes(pickle.dumps(content))])
@pytest.mark.parametrize("place", ["checkpoint", "state.pt", "replay/state.pt", "replay/obs.pt"])
def test_code_in_a_file_is_refused_not_run(run: Path, tmp_path: Path, capsys, place: str, saver):
    ckpt, witness = newest(run), tmp_path / "run by the file"
    rank = ckpt / "rank0"
    saver({"state_dict": Malicious(witness)}, ckpt / WEIGHTS if place == "checkpoint" else rank / place)
    (ckpt / MANIFEST).unlink()
    draft = ckpt.rename(tmp_path / "draft")
    publish(draft, synced(draft, draft), ckpt)  # whoever made it sealed it
    assert command(tmp_path / "other", 40, f"ckpt_path={ckpt}") == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert "weights_only=True" in line
    assert not witness.exists()


@pytest.mark.parametrize("part", [run_state, checkpoints], ids=["rank", "lightning"])
def test_a_full_disk_costs_one_checkpoint_not_the_run(tmp_path: Path, monkeypatch, caplog, part):
    run, write, seen = tmp_path / "run", tensor_file.write, []

    def full_at_the_second(content: object, path: Path) -> None:
        seen.append((newest_checkpoint(run), sorted(file.name for file in (run / "checkpoints").glob("*"))))
        write(content, path)
        if len(seen) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(part, "write", full_at_the_second)
    with caplog.at_level(logging.WARNING):
        assert command(run, 30, "checkpoint.every_n_train_steps=10") == 0
    first = run / "checkpoints" / "step=00000010.ckpt"
    newest_then, names = seen[2]
    assert newest_then == first and names[0] == "step=00000010.ckpt"
    assert not [name for name in names if "00000020" in name]
    (warning,) = [record.message for record in caplog.records if "not written" in record.message]
    assert "update 20" in warning and "No space left on device" in warning and "training continues" in warning
    assert steps(run) == [30] and damage(newest(run)) is None


@pytest.mark.parametrize("part", [run_state, checkpoints], ids=["rank", "lightning"])
@pytest.mark.parametrize("written", [0, 1])
def test_a_last_checkpoint_that_is_not_written_is_an_error(tmp_path: Path, monkeypatch, capsys, part, written: int):
    run, write, seen = tmp_path / "run", tensor_file.write, []

    def full(content: object, path: Path) -> None:
        seen.append(path)
        if len(seen) > written:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(content, path)

    monkeypatch.setattr(part, "write", full)
    assert command(run, 30, "checkpoint.every_n_train_steps=10") == 2
    said = capsys.readouterr()
    (line,) = [line for line in said.err.splitlines() if line.startswith("error: ")]
    assert "update 30 is not written" in line and "No space left on device" in line
    newest = run / "checkpoints" / "step=00000010.ckpt"
    assert steps(run) == [10] * written
    assert line.endswith(f"the newest is {newest if written else 'none'}")
    assert f"checkpoint  {newest if written else 'none was written'}\n" in said.out
    named = [word for text in said for word in text.split() if word.startswith(str(tmp_path))]
    assert named and all(Path(word.rstrip(";:,")).exists() for word in named)


def test_the_closing_lines_name_what_was_written(tmp_path: Path, capsys):
    for name, overrides in {"csv": ["~logger.tensorboard"], "none": ["logger=null"], "left_out": ["~logger"]}.items():
        run = tmp_path / name
        assert command(run, 3, *overrides) == 0
        said = capsys.readouterr().out
        named = [word for word in said.split() if word.startswith(str(run))]
        assert all(Path(word).exists() for word in named) and str(newest(run)) in named
        assert "tensorboard" not in said and (run / "eval.csv").is_file()
        assert (f"{run}/csv" in named) == (name == "csv")


def test_a_device_without_space_is_an_operating_system_error():
    with pytest.raises(OSError) as error:
        tensor_file.write({"x": torch.zeros(1_000_000)}, Path("/dev/full"))
    assert error.value.errno == errno.ENOSPC


def test_a_finished_run_says_so(run: Path, capsys):
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file() and "hydra" not in path.parts}
    assert command(run, 30, "ckpt_path=last") == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert "has spent env_steps_per_task=340 already" in line
    least = int(re.search(r"resumes with env_steps_per_task=(\d+) or more", line)[1])
    assert train.main([*SIZE, f"env_steps_per_task={least - 1}", f"hydra.run.dir={run}", "ckpt_path=last"]) == 0
    assert "has spent" in capsys.readouterr().out
    after = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file() and "hydra" not in path.parts}
    assert after == before


def test_a_budget_smaller_than_before_says_what_to_type(run: Path, capsys):
    """At once, before anything is loaded; and what it says works."""
    shutil.rmtree(run / "checkpoints" / "step=00000030.ckpt")
    smaller = [*SIZE, budget(25), f"hydra.run.dir={run}", "ckpt_path=last"]
    assert train.main(smaller) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert "rows_per_slot" not in line
    advice = line.rpartition(": add ")[2]
    assert advice == "replay.capacity=340"
    assert train.main([*smaller, advice]) == 0
    assert steps(run)[-1] == 25


def test_a_finished_run_goes_on_with_a_larger_budget(tmp_path: Path):
    """As if the budget had been larger from the start; the learning rate is that of the larger budget."""
    constant = ["module.lr_final_factor=1.0", "checkpoint.every_n_train_steps=100"]
    short, whole = tmp_path / "short", tmp_path / "whole"
    assert command(short, 20, "replay.capacity=400", *constant) == 0
    assert command(short, 45, "replay.capacity=900", "ckpt_path=last", *constant) == 0
    assert command(whole, 45, "replay.capacity=900", *constant) == 0
    differs = same(newest(short), newest(whole), counters=False)
    assert {each.split(":")[0].rpartition("/")[0] for each in differs} <= {"/run/python/1"}  # one evaluation more
    run_state = torch.load(newest(short) / "rank0" / "state.pt", weights_only=True)
    (spent,) = run_state["collect"]["env"]["env_steps"].tolist()
    assert 0 <= 100 + 8 * 45 - spent < 4  # less is owed than the vector step of 2 environments × 2 repeats


def test_the_learning_rate_follows_the_larger_budget(run: Path):
    def rate(checkpoint: Path) -> float:
        return torch.load(weights_file(checkpoint), weights_only=True)["optimizer_states"][0]["param_groups"][0]["lr"]

    assert rate(newest(run)) == pytest.approx(1e-5)  # the last tenth of 30 updates
    assert command(run, 60, "checkpoint.every_n_train_steps=10", "checkpoint.save_top_k=-1", "ckpt_path=last") == 0
    assert steps(run) == [20, 30, 40, 50, 60]
    rates = [rate(run / "checkpoints" / f"step={step:08d}.ckpt") for step in (40, 50, 60)]
    assert rates == pytest.approx([1e-4, 1e-4, 1e-5])


def forks(what: str, folder: Path, number: int = 0) -> list[dict]:
    arguments = [sys.executable, "-m", "tests.runs.killing", what, str(folder), str(number)]
    done = subprocess.run(
        arguments, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True
    )
    log = "".join(file.read_text()[-2000:] for file in folder.glob("*.log"))
    assert done.returncode == 0, done.stderr[-3000:] + log
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert lines[-1]["status"] == 0, log
    return lines


@pytest.mark.parametrize("number", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_at_any_moment_at_most_one_interval_is_lost(tmp_path: Path, number: int):
    *killed, _ = forks("kills", tmp_path, number)
    assert len(killed) == number and all(each["status"] in (-9, 0) for each in killed)
    assert all(each["update"] - each["newest"] <= 5 for each in killed)
    assert sum(each["writing"] for each in killed) >= number // 4
    assert steps(tmp_path / "run") == [15 * number]
    assert same(newest(tmp_path / "run"), newest(tmp_path / "reference")) == []
    assert len(list((tmp_path / "run" / "checkpoints").iterdir())) == 1  # nothing is left of the killed writers


def test_a_signal_ends_the_update_saves_and_exits(tmp_path: Path):
    term, interrupt, hangup, twice, _ = forks("signals", tmp_path)
    assert [each["status"] for each in (term, interrupt, hangup, twice)] == [143, 130, 129, 130]
    for each in (term, interrupt, hangup):
        assert each["newest"] == each["update"] > each["before"]
    assert same(newest(tmp_path / "run"), newest(tmp_path / "reference")) == []
