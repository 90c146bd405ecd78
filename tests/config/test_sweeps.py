"""Sweeps: jobs in folders of their own, on this host and as SLURM jobs; one that is preempted goes on."""

from __future__ import annotations

import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ezm_lightning.callbacks import stop as stopping
from ezm_lightning.callbacks.stop import Stop
from ezm_lightning.commands import train
from ezm_lightning.config import sweeps
from ezm_lightning.config.compose import compose_checked
from ezm_lightning.config.folder import config_dir
from tests.runs.short import SIZE, budget

submitit = pytest.importorskip("submitit", reason="pip install 'ezm-lightning[slurm]'")
SLURM = ["-m", "hydra/launcher=submitit_slurm", "experiment=debug"]
OUTSIDE = ("SLURM_NTASKS", "SLURM_STEP_ID", "SLURM_JOB_NAME", "SLURM_RESTART_COUNT", "TORCHELASTIC_RUN_ID",
           "TORCHELASTIC_RESTART_COUNT", "SUBMITIT_EXECUTOR", "WORLD_SIZE", "RANK", "SLURM_PROCID")  # fmt: skip


@pytest.fixture(autouse=True)
def _on_no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in OUTSIDE:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def srun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that looks like one of a SLURM cluster."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "srun").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")


def test_a_sweep_runs_its_jobs_and_one_that_is_preempted_goes_on(tmp_path: Path, monkeypatch) -> None:
    """With submitit's local executor, which requeues as its SLURM executor does."""
    monkeypatch.setenv("PREEMPT", str(tmp_path / "told"))
    monkeypatch.chdir(Path(__file__).parents[2])
    sweep = ["-m", "seed=1,2", "hydra/launcher=submitit_local", f"hydra.sweep.dir={tmp_path}/sweep"]
    assert train.main([*sweep, *SIZE, "tasks=[tests.runs.preempted/point]", budget(5)]) == 0
    one, two = sorted((tmp_path / "sweep").glob("seed*"))
    assert (one.name[:6], two.name[:6]) == ("seed1_", "seed2_")
    for run in (one, two):
        assert (run / "eval.csv").is_file() and (run / "checkpoints" / "step=00000005.ckpt").is_dir()
    starts = sorted(len(list(run.glob("csv/version_*"))) for run in (one, two))
    assert starts == [1, 2]  # the one that was there first is preempted
    logs = "".join(log.read_text() for log in (tmp_path / "sweep" / ".submitit").rglob("*_log.*"))
    assert [logs.count(words) for words in ("stopped after update", "Requeued job", "resuming from")] == [1, 1, 1]


def sbatch(*overrides: str) -> str:
    """The script that submitit would hand to sbatch."""
    cfg = compose_checked("train", ["hydra/launcher=submitit_slurm", *overrides], config_dir())
    launcher = sweeps.resolved_launcher(cfg)
    launcher.pop("_target_")
    folder, times = launcher.pop("submitit_folder"), launcher.pop("max_num_timeout")
    executor = submitit.AutoExecutor(folder, cluster="slurm", slurm_max_num_timeout=times)
    known = executor._valid_parameters()
    executor.update_parameters(**{key if key in known else f"slurm_{key}": value for key, value in launcher.items()})
    assert executor._executor.max_num_timeout == 20
    return executor._executor._make_submission_file_text("python -m ezm", "0")


def test_the_preset_asks_slurm_for_what_the_trainer_uses(srun) -> None:
    gpus = ["trainer=ddp", "trainer.devices=4", "trainer.num_nodes=2", "env_threads=8", "torch_threads=2"]
    text = sbatch(*gpus, "hydra.launcher.partition=long", "hydra.launcher.mem_gb=64")
    for flag in ("nodes=2", "ntasks-per-node=4", "gpus-per-node=4", "cpus-per-task=10", "requeue", "signal=USR2@120",
                 "time=1440", "partition=long", "mem=64GB"):  # fmt: skip
        assert f"#SBATCH --{flag}\n" in text
    assert "\nsrun " in text
    assert "gpus" not in sbatch("trainer=cpu") and "--ntasks-per-node=1\n" in sbatch("trainer=cpu")


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (SLURM, "hydra/launcher=submitit_slurm: no srun here"),
        (SLURM[1:], "hydra/launcher=submitit_slurm starts the jobs of a sweep, be it one: add --multirun"),
        (["-m", "hydra/launcher=submitit_slrm", "seed=1,2"], "nearest: submitit_slurm"),
        (["-m", "trainer.devices=2", "seed=1,2"], "trainer.devices=2: the jobs of a sweep have one process each"),
    ],
)
def test_a_sweep_that_cannot_be_launched_is_one_line(tmp_path, monkeypatch, capsys, argv: list[str], line: str) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "")
    assert train.main(argv) == 2
    said = capsys.readouterr().err
    assert line in said and said.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["trainer=ddp"], "trainer.devices=-1: SLURM is asked for a number of GPUs; nearest: 1"),
        (["trainer=ddp", "trainer.devices=1,2"], "the jobs of a sweep get the same nodes, tasks_per_node"),
        (["hydra.launcher.partitoin=long"], "unknown key 'hydra.launcher.partitoin'"),
    ],
)
def test_slurm_is_not_asked_for_the_impossible(tmp_path, monkeypatch, capsys, srun, overrides, line: str) -> None:
    monkeypatch.chdir(tmp_path)
    assert train.main([*SLURM, *overrides]) == 2
    assert line in capsys.readouterr().err


def test_a_launcher_that_is_not_installed_names_the_extra(monkeypatch, capsys) -> None:
    monkeypatch.setattr(sweeps, "_installed", lambda package: False)
    assert train.main(SLURM) == 2
    said = capsys.readouterr().err
    assert said == "error: hydra/launcher=submitit_slurm is not installed: pip install 'ezm-lightning[slurm]'\n"


@pytest.mark.parametrize(
    "environment",
    [
        {"SLURM_NTASKS": "4", "SLURM_STEP_ID": "0", "SLURM_PROCID": "1"},
        {"TORCHELASTIC_RUN_ID": "none", "WORLD_SIZE": "4", "RANK": "1"},
    ],
)
def test_processes_started_outside_need_one_folder(monkeypatch, capsys, environment: dict[str, str]) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert train.main(["experiment=debug"]) == 2
    assert "4 processes of one run" in capsys.readouterr().err
    assert not sweeps.is_first_process()
    sweeps.check_run_is_named(True)
    monkeypatch.setenv("SLURM_JOB_NAME", "bash")
    assert ("SLURM_NTASKS" in environment) == sweeps.is_first_process()


@pytest.mark.parametrize(
    ("name", "value", "again"),
    [
        ("SLURM_RESTART_COUNT", "0", False),
        ("SLURM_RESTART_COUNT", "1", True),
        ("TORCHELASTIC_RESTART_COUNT", "2", True),
        ("SUBMITIT_EXECUTOR", "slurm", True),
    ],
)
def test_a_run_that_is_started_again_finds_its_checkpoint(monkeypatch, name: str, value: str, again: bool) -> None:
    monkeypatch.setattr(sweeps, "newest_checkpoint", lambda run: run / "newest")
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert sweeps.own_checkpoint(Path("run")) is None
    monkeypatch.setenv(name, value)
    assert sweeps.own_checkpoint(Path("run")) == (Path("run/newest") if again else None)


class Rank:
    """A trainer as `Stop` sees it, alone or beside others that have received ``others``."""

    def __init__(self, *, first: bool = True, others: int = 0) -> None:
        self.is_global_zero, self.others = first, others
        self.strategy = SimpleNamespace(root_device=torch.device("cpu"), launcher=None, reduce=self.reduce)

    def reduce(self, number: torch.Tensor, reduce_op: str) -> torch.Tensor:
        assert reduce_op == "max"
        return number.clamp(min=self.others)


@pytest.fixture
def submitted():
    """The signals that submitit's handler of SIGUSR2 has got; its handlers are set for this test."""
    got: list[int] = []

    def requeue(number: int, _: Any) -> None:
        got.append(number)
        raise SystemExit(-1)

    before = signal.signal(signal.SIGUSR2, requeue), signal.signal(signal.SIGTERM, lambda *_: None)
    yield got
    signal.signal(signal.SIGUSR2, before[0])
    signal.signal(signal.SIGTERM, before[1])


def end(rank: Rank, *numbers: int) -> int:
    """The status of a run whose process receives these signals during an update."""
    stop = Stop()
    with stop.listening(), pytest.raises(SystemExit) as ended:
        stop.on_train_batch_start(rank)
        for number in numbers:
            signal.raise_signal(number)
        stop.end(rank)
    return ended.value.code


def test_every_signal_has_its_status() -> None:
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)
    assert [end(Rank(), number) for number in numbers] == [143, 130, 138, 140]
    assert end(Rank(others=signal.SIGTERM)) == 143
    assert end(Rank(first=False), signal.SIGTERM) == 0


def test_submitit_requeues_what_has_been_saved(submitted: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    assert end(Rank(), signal.SIGUSR2) == -1
    assert end(Rank(), signal.SIGTERM, signal.SIGUSR2) == -1
    assert end(Rank(), signal.SIGUSR2, signal.SIGTERM) == -1
    assert submitted == [signal.SIGUSR2] * 3
    monkeypatch.setattr(stopping.time, "sleep", lambda seconds: signal.raise_signal(signal.SIGUSR2))
    assert end(Rank(), signal.SIGTERM) == -1  # the signal to requeue comes after what has been saved
    monkeypatch.setattr(stopping.time, "sleep", lambda seconds: None)
    assert end(Rank(), signal.SIGTERM) == 143  # it never comes
    assert end(Rank(), signal.SIGINT) == 130
    assert end(Rank(first=False), signal.SIGUSR2) == 0
    assert submitted == [signal.SIGUSR2] * 4


def test_before_the_first_update_submitit_requeues_at_once(submitted: list[int]) -> None:
    with Stop().listening():
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(SystemExit):
            signal.raise_signal(signal.SIGUSR2)
    assert submitted == [signal.SIGUSR2]
