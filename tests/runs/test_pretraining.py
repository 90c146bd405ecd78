"""The stage of demonstrations: no search, no step, the run after it as ever, and the same bits wherever it was cut."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import pytest
import torch

from ezm_lightning.checkpoints.contents import read_checkpoint
from ezm_lightning.checkpoints.runs import newest_checkpoint
from ezm_lightning.commands import demos, train
from ezm_lightning.planner import Planner
from tests.runs.short import SIZE, budget
from tests.runs.test_resume import same

pytest.importorskip("minari", reason="pip install 'ezm-lightning[minari]'")
pytest.importorskip("h5py", reason="pip install 'ezm-lightning[minari]'")

POLICY = "policy=tests.commands.test_demos.to_the_middle"
UPDATES = 20
KEPT = ["checkpoint.every_n_train_steps=10", "checkpoint.save_top_k=-1"]


def go(run: Path, demonstrations: Path, *overrides: str) -> None:
    arguments = [f"demos.paths=[{demonstrations}]", f"pretrain.updates={UPDATES}", "module.loss_coefs.bc=0.1"]
    assert train.main([*SIZE, budget(20), f"hydra.run.dir={run}", *KEPT, *arguments, *overrides]) == 0


def steps(run: Path) -> list[str]:
    return sorted(file.stem for file in (run / "checkpoints").glob("*.ckpt"))


@pytest.fixture(scope="module")
def shown(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("shown") / "demos"
    tasks = "tasks=[tests.runs.short/point]"
    assert demos.main(["record", POLICY, tasks, f"out={out}", "episodes=4", "envs_per_task=4"]) == 0
    return out


@pytest.fixture(scope="module")
def whole(shown, tmp_path_factory) -> tuple[Path, list[int]]:
    """A run that was not stopped, and how often its planner was called in the stage."""
    run, plans = tmp_path_factory.mktemp("whole") / "run", []
    calls = 0

    def counted(method):
        def call(self, *arguments, **options):
            nonlocal calls
            calls += 1
            return method(self, *arguments, **options)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for name in ("__call__", "plan"):
            patch.setattr(Planner, name, counted(getattr(Planner, name)))
        patch.setattr(train, "print_pretrained", lambda cfg, trainer: plans.append(calls))
        go(run, shown)
    return run, [*plans, calls]


def test_no_update_of_the_stage_makes_a_plan(whole) -> None:
    """One is made before the first: a collector of TorchRL asks its policy once when it is made."""
    run, (during, after) = whole
    assert during == 1 and after > 20
    assert steps(run / "pretrain") == ["step=00000010", "step=00000020"] == steps(run)


def test_the_run_counts_as_it_does_without_the_stage(whole, tmp_path) -> None:
    run, _ = whole
    assert train.main([*SIZE, budget(20), f"hydra.run.dir={tmp_path / 'plain'}"]) == 0
    rows, plain = (list(csv.DictReader((each / "eval.csv").open())) for each in (run, tmp_path / "plain"))
    counted = [[(row["update"], row["env_steps"]) for row in each] for each in (rows, plain)]
    assert counted[0] == counted[1] and rows[0]["update"] == "0"
    assert rows[0]["return"] != plain[0]["return"]  # what the stage has learned


def test_statistics_of_observations_stand_still_in_the_stage(whole) -> None:
    run, _ = whole
    first, last = (read_checkpoint(run / "pretrain" / "checkpoints" / f"step={n:08d}.ckpt") for n in (10, 20))
    names = [name for name in first["state_dict"] if name.startswith("model.obs_norm.")]
    assert len(names) == 3 and all(torch.equal(first["state_dict"][n], last["state_dict"][n]) for n in names)
    assert first["state_dict"]["model.obs_norm.count"].max() > 80  # the warm-up's and as many of demonstrations
    weights = [name for name in first["state_dict"] if name.startswith("model.policy_head")]
    assert not any(torch.equal(first["state_dict"][n], last["state_dict"][n]) for n in weights)


def cut(run: Path, to: Path, place: str, *, after: str) -> Path:
    """A copy of a finished run as it was when it had just written a checkpoint."""
    copy = Path(shutil.copytree(run, to))
    if place == "pretrain":
        shutil.rmtree(copy / "checkpoints")
    for file in (copy / place / "checkpoints").glob("step=*"):
        if file.name.partition(".")[0] > after:
            shutil.rmtree(file) if file.is_dir() else file.unlink()
    return copy


@pytest.mark.parametrize(
    ("place", "after"), [("pretrain", "step=00000010"), ("pretrain", "step=00000020"), (".", "step=00000010")]
)
def test_cut_and_gone_on_it_is_the_same_run(whole, shown, tmp_path, place, after) -> None:
    run, _ = whole
    copy = cut(run, tmp_path / "run", place, after=after)
    assert newest_checkpoint(copy) == copy / place / "checkpoints" / f"{after}.ckpt"
    go(copy, shown, "ckpt_path=last")
    assert same(newest_checkpoint(copy), newest_checkpoint(run)) == []
    assert not (copy / "pretrain" / "pretrain").exists()


def test_the_stage_changes_while_it_is_under_way_and_not_afterwards(whole, shown, tmp_path, capsys) -> None:
    run, _ = whole
    longer = f"pretrain.updates={UPDATES + 5}"
    under_way = cut(run, tmp_path / "first", "pretrain", after="step=00000010")
    go(under_way, shown, longer, "ckpt_path=last")
    assert steps(under_way / "pretrain")[-1] == f"step={UPDATES + 5:08d}"
    over = cut(run, tmp_path / "second", ".", after="step=00000010")
    arguments = [f"demos.paths=[{shown}]", longer, "ckpt_path=last"]
    assert train.main([*SIZE, budget(20), f"hydra.run.dir={over}", *KEPT, *arguments]) == 2
    assert f"cannot resume with {longer} (there: {UPDATES}): that stage is over" in capsys.readouterr().err


def test_another_run_begins_with_what_the_stage_has_learned(whole, shown, tmp_path) -> None:
    run, _ = whole
    other = tmp_path / "other"
    go(other, shown, f"ckpt_path={run / 'pretrain'}")
    assert same(newest_checkpoint(other), newest_checkpoint(run)) == []
    assert not (other / "pretrain" / "checkpoints").exists()


def test_other_demonstrations_than_before_are_refused(whole, tmp_path, capsys) -> None:
    run, _ = whole
    out, copy = tmp_path / "others", cut(run, tmp_path / "run", ".", after="step=00000010")
    tasks = "tasks=[tests.runs.short/point]"
    assert demos.main(["record", POLICY, tasks, f"out={out}", "episodes=4", "envs_per_task=4", "seed=9"]) == 0
    arguments = [f"demos.paths=[{out}]", f"pretrain.updates={UPDATES}", "ckpt_path=last"]
    assert train.main([*SIZE, budget(20), f"hydra.run.dir={copy}", *KEPT, *arguments]) == 2
    (error,) = [row for row in capsys.readouterr().err.splitlines() if row.startswith("error: ")]
    assert "are not those that the run was saved with" in error


def test_a_task_without_demonstrations_may_learn_from_its_warm_up(shown, tmp_path) -> None:
    tasks = "tasks=[tests.runs.short/point,tests.runs.short/other_point]"
    arguments = [
        f"demos.paths=[{shown}]",
        "pretrain.updates=3",
        "pretrain.skip_missing=true",
        "checkpoint.monitor=eval/mean",
    ]
    assert train.main([*SIZE, tasks, budget(3), f"hydra.run.dir={tmp_path / 'run'}", *arguments]) == 0
    assert steps(tmp_path / "run" / "pretrain") == ["step=00000003"]
