"""A run's folder is its own: what others have left there stays, and nobody writes to it beside it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ezm_lightning.checkpoints.folder import MANIFEST, WEIGHTS
from ezm_lightning.checkpoints.runs import held, new_folder, newest_checkpoint
from ezm_lightning.checkpoints.tensor_file import write
from ezm_lightning.commands import eval as evaluation
from ezm_lightning.commands import train
from tests.runs.short import SIZE, budget


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of 10 updates."""
    run = tmp_path_factory.mktemp("first") / "run"
    assert train.main([*SIZE, budget(10), f"hydra.run.dir={run}"]) == 0
    return run


@pytest.fixture
def run(first: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, below the working folder."""
    monkeypatch.chdir(tmp_path)
    subprocess.run(["cp", "-r", str(first), str(tmp_path / "run")], check=True)
    return tmp_path / "run"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def checkpoint_of(run: Path) -> Path:
    return run / "checkpoints" / "step=00000010.ckpt"


@pytest.mark.parametrize("left", ["all", "curve", "checkpoint", "best"])
def test_a_second_run_does_not_replace_the_first(run: Path, capsys, left: str) -> None:
    if left == "curve":
        subprocess.run(["rm", "-r", str(run / "checkpoints")], check=True)
    elif left in ("checkpoint", "best"):
        (run / "eval.csv").unlink()
    if left == "best":
        (checkpoint_of(run) / WEIGHTS).rename(run / "checkpoints" / "best.ckpt")
        subprocess.run(["rm", "-r", str(checkpoint_of(run))], check=True)
    before = contents(run)
    for other in ([f"hydra.run.dir={run}"], ["hydra.run.dir=run", "seed=2"]):
        assert train.main([*SIZE, budget(10), *other]) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and "holds another run" in said and "or name another folder" in said
    assert contents(run) == before


def test_what_the_refusal_says_to_type_goes_on(run: Path, capsys) -> None:
    assert train.main([*SIZE, budget(12), f"hydra.run.dir={run}"]) == 2
    advice = capsys.readouterr().err.partition("resume it with ")[2].partition(", or")[0].split()
    assert train.main([*SIZE, budget(12), *advice]) == 0
    assert (run / "checkpoints" / "step=00000012.ckpt").is_dir()
    assert "0.0" not in (run / "eval.csv").read_text().splitlines()[0]


def test_last_in_a_new_folder_leaves_the_run_as_it_is(run: Path, tmp_path: Path) -> None:
    before, branch = contents(run), tmp_path / "branch"
    run.rename(tmp_path / "seed1_x")
    again = [*SIZE, "ckpt_path=last", f"hydra.run.dir={branch}"]
    for updates in (12, 14):  # from the other folder, and then in its own
        assert train.main([*again, budget(updates)]) == 0
        assert [path.name for path in (branch / "checkpoints").iterdir()] == [f"step={updates:08d}.ckpt"]
    assert contents(tmp_path / "seed1_x") == before


def test_a_spent_budget_leaves_no_folder(run: Path, tmp_path: Path, capsys) -> None:
    assert train.main([*SIZE, budget(10), f"ckpt_path={run}", f"hydra.run.dir={tmp_path / 'new'}"]) == 0
    assert "already" in capsys.readouterr().out and not (tmp_path / "new").exists()


def test_a_folder_whose_run_never_trained_can_be_used(run: Path) -> None:
    """Such as one that was killed before its first checkpoint."""
    header, start, *_ = (run / "eval.csv").read_text().splitlines()
    (run / "eval.csv").write_text(f"{header}\n{start}\n")
    subprocess.run(["rm", "-r", str(run / "checkpoints")], check=True)
    assert train.main([*SIZE, budget(1), f"hydra.run.dir={run}"]) == 0


def test_folders_that_nobody_named_are_never_shared(tmp_path: Path) -> None:
    folders = [new_folder(tmp_path / "name" / "seed1_now") for _ in range(3)]
    assert [folder.name for folder in folders] == ["seed1_now", "seed1_now_2", "seed1_now_3"]


def test_two_runs_that_start_in_one_second_have_two_folders(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    fixed = "hydra.run.dir=runs/debug/seed1_${now:%Y}"
    configs = tmp_path / "own" / "experiment"
    configs.mkdir(parents=True)
    (configs / "fixed.yaml").write_text(f"# @package _global_\nhydra: {{run: {{dir: '{fixed.partition('=')[2]}'}}}}\n")
    small = [text for text in SIZE if not text.startswith("experiment")]
    debug = ["warmup_env_steps=20", "envs_per_task=1", "batch_size=4", "unroll_steps=2", "replay.capacity=100"]
    argv = ["--config-dir=own", "experiment=fixed", *small, *debug, "env_steps_per_task=28", "planner.num_candidates=2"]
    argv += ["planner.num_policy_candidates=1", "evaluate.episodes=1"]
    assert [train.main(argv), train.main(argv)] == [0, 0]
    assert len(list((tmp_path / "runs").glob("*/*/eval.csv"))) == 2


def test_a_folder_in_which_another_process_writes_is_refused(run: Path, capsys) -> None:
    code = "import sys; from ezm_lightning.checkpoints.runs import held; from pathlib import Path\n"
    code += f"with held(Path({str(run)!r})): print('held', flush=True); sys.stdin.read()"
    holder = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert holder.stdout.readline() == b"held\n"
        assert train.main([*SIZE, budget(12), f"hydra.run.dir={run}", "ckpt_path=last"]) == 2
        assert "another process is writing to" in capsys.readouterr().err
        assert checkpoint_of(run).is_dir()
    finally:
        holder.communicate()
    with held(run):
        pass


def test_an_evaluation_needs_the_weights_alone(run: Path, capsys) -> None:
    subprocess.run(["rm", "-r", str(checkpoint_of(run) / "rank0"), str(checkpoint_of(run) / MANIFEST)], check=True)
    for given in (run, run / "checkpoints", checkpoint_of(run), checkpoint_of(run) / WEIGHTS):
        assert evaluation.main([f"ckpt_path={given}", "eval.episodes=1"]) == 0
    last = ["ckpt_path=last", f"hydra.run.dir={run}", "eval.episodes=1"]
    assert evaluation.main(last) == 0
    capsys.readouterr()
    assert train.main([*SIZE, budget(12), f"ckpt_path={run}"]) == 2
    assert "without an intact checkpoint" in capsys.readouterr().err
    os.truncate(checkpoint_of(run) / WEIGHTS, 1000)
    assert evaluation.main([f"ckpt_path={run}", "eval.episodes=1"]) == 2
    assert "without an intact checkpoint" in capsys.readouterr().err


@pytest.mark.parametrize("task", ["ChangesFolder", "ChangesFolderLater", "LosesFolder"])
def test_an_environment_may_change_the_working_folder(tmp_path: Path, monkeypatch, task: str) -> None:
    import gymnasium

    from ezm_lightning.envs import gym as gym_source
    from tests.envs import odd

    gym_source.task_spec.cache_clear()
    gymnasium.register(f"{task}-v0", entry_point=getattr(odd, task), max_episode_steps=20)
    monkeypatch.chdir(tmp_path)
    argv = [*SIZE, f"tasks=[gym/{task}-v0]", budget(4)]
    assert train.main([*argv, "hydra.run.dir=a"]) == 0
    assert Path.cwd() == tmp_path and (tmp_path / "a" / "eval.csv").is_file()
    assert len(list((tmp_path / "a" / "checkpoints").glob("*.ckpt"))) == 1
    assert train.main([*argv, budget(6), "hydra.run.dir=a", "ckpt_path=last"]) == 0
    assert (tmp_path / "a" / "checkpoints" / "step=00000006.ckpt").is_dir()
    assert evaluation.main(["ckpt_path=a", "eval.episodes=1", "eval.json=a.json"]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "a.json"]


def test_what_could_not_be_read_back_is_not_written(tmp_path: Path) -> None:
    import numpy as np

    with pytest.raises(
        ValueError, match=r"x.pt could not be read again: it has \['a'\]\[1\]\['b'\] of type numpy.ndarray"
    ):
        write({"good": torch.ones(2), "a": [1, {"b": np.ones(2)}]}, tmp_path / "x.pt")
    assert list(tmp_path.iterdir()) == []


def sweep(tmp_path: Path, *argv: str) -> int | None:
    return train.main(["-m", *SIZE, budget(2), f"hydra.sweep.dir={tmp_path}/sweep", *argv])


def test_a_sweep_goes_on_after_a_job_that_fails(tmp_path: Path, capsys) -> None:
    tasks = "tasks=tests.envs.odd/broken,tests.runs.short/point"
    small = [text for text in SIZE if not text.startswith("tasks=")]
    argv = [
        "-m",
        *small,
        budget(2),
        f"hydra.sweep.dir={tmp_path}/sweep",
        "hydra.sweep.subdir='${hydra:job.num}'",
        tasks,
    ]
    assert train.main(argv) == 2
    said = capsys.readouterr().err.splitlines()
    errors = [line for line in said if line.startswith("error: ")]
    assert "tests.envs.odd/broken: RuntimeError: always" in errors[0] and errors[-1] == "error: 1 of 2 jobs failed: 0"
    assert (tmp_path / "sweep" / "1" / "eval.csv").is_file()


def test_a_job_that_is_stopped_says_how_it_goes_on(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    stops = ["-m", *SIZE, budget(1_000), "hydra.sweep.dir=sweep", "hydra.sweep.subdir=job", "evaluate=null"]
    assert train.main([*stops, "seed=1", "+trainer.max_time={milliseconds: 1}"]) == 0
    (said,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("stopped after"))
    own = said.partition("this job's values and ")[2].partition(" resumes from there")[0].split()
    assert own == [f"ckpt_path={tmp_path / 'sweep' / 'job'}", f"hydra.run.dir={tmp_path / 'sweep' / 'job'}"]
    before = newest_checkpoint(tmp_path / "sweep" / "job")
    assert train.main([*SIZE, budget(12), "replay.capacity=8100", "evaluate=null", *own]) == 0
    assert newest_checkpoint(tmp_path / "sweep" / "job") != before


def test_a_second_sweep_does_not_replace_the_first(tmp_path: Path, capsys) -> None:
    by_seed = "hydra.sweep.subdir='seed${seed}'"
    assert sweep(tmp_path, by_seed, "seed=1,2") == 0
    before = contents(tmp_path / "sweep")
    capsys.readouterr()
    assert sweep(tmp_path, by_seed, "seed=2,3") == 2
    assert "seed2 holds another run" in capsys.readouterr().err
    assert contents(tmp_path / "sweep") == before
    assert sweep(tmp_path, "hydra.sweep.subdir=same", "seed=4,5") == 2
    assert "same holds another run" in capsys.readouterr().err
