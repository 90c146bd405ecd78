"""Jobs of a sweep (``--multirun``), here and on a cluster: checks of the launch, and resuming a requeued job."""

from __future__ import annotations

import contextlib
import glob
import logging
import os
import re
import shutil
import time
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import IntervalSweep
from omegaconf import DictConfig, OmegaConf, read_write
from omegaconf.errors import OmegaConfBaseException

from ezm_lightning.checkpoints.runs import check_unused, newest_checkpoint
from ezm_lightning.config.compose import hydra_resolvers, on_slurm
from ezm_lightning.config.overrides import parse
from ezm_lightning.errors import first_line

log = logging.getLogger(__name__)
ANY_JOB = 987_654_321  # a placeholder for the number of a job, which is not known yet
NOW = re.compile(r"\$\{now:([^}]*)\}")
RESOURCES = ("nodes", "tasks_per_node", "gpus_per_node", "cpus_per_task")


def check_launcher(overrides: Sequence[str], *, multirun: bool) -> None:
    """Raises ValueError for a chosen launcher or sweeper that is not installed or would not be used."""
    for override in overrides:
        key, _, launcher = override.partition("=")
        if key == "hydra/sweeper" and launcher.startswith("optuna") and not _installed("hydra-optuna-sweeper"):
            raise ValueError(f"{override} is not installed: pip install 'ezm-lightning[hpo]'")
        if key == "hydra/sweeper" and not multirun:
            raise ValueError(f"{override} chooses the jobs of a sweep: add --multirun")
        if key != "hydra/launcher":
            continue
        if launcher.startswith("submitit_") and not _installed("hydra-submitit-launcher"):
            raise ValueError(f"{override} is not installed: pip install 'ezm-lightning[slurm]'")
        if not multirun:
            raise ValueError(f"{override} starts the jobs of a sweep, be it one: add --multirun")


def check_folder_keys(overrides: Sequence[str], *, multirun: bool) -> None:
    """Raises ValueError for the folder of a run in a sweep, or of a sweep without one: Hydra reads neither."""
    for override in (text.lstrip("+") for text in overrides):
        if multirun and override.startswith("hydra.run.dir="):
            raise ValueError(f"{override} is the folder of one run: those of a sweep are below hydra.sweep.dir=...")
        if not multirun and override.startswith(("hydra.sweep.dir=", "hydra.sweep.subdir=")):
            raise ValueError(f"{override} is of a sweep: add --multirun, or name the run's folder by hydra.run.dir=...")


def check_sweeper(overrides: Sequence[str], configs: Sequence[DictConfig]) -> None:
    """Raises ValueError if the sweeper cannot draw from an interval, cannot keep its trials or has no score."""
    basic = str(OmegaConf.select(configs[0], "hydra.sweeper._target_")).endswith(".BasicSweeper")
    intervals = [override.input_line for override in parse(overrides) if isinstance(override.value(), IntervalSweep)]
    if basic and intervals:
        raise ValueError(
            f"{intervals[0]}: an interval needs a sweeper that draws from it: hydra/sweeper=optuna_tpe "
            "(pip install 'ezm-lightning[hpo]'), or choice(a,b,c)"
        )
    direction = OmegaConf.select(configs[0], "hydra.sweeper.direction")
    if getattr(direction, "name", direction) not in (None, "maximize"):
        raise ValueError(
            "hydra.sweeper.direction=minimize looks for the lowest return; nearest: hydra.sweeper.direction=maximize"
        )
    storage = OmegaConf.select(configs[0], "hydra.sweeper.storage")
    if isinstance(storage, str):
        raise ValueError(
            f"hydra.sweeper.storage={storage}: trials are kept by "
            f"hydra/sweeper=optuna_kept hydra.sweeper.storage.url={storage}"
        )
    if not basic and any(OmegaConf.select(cfg, "callbacks.evaluate") is None for cfg in configs):
        raise ValueError(
            "callbacks.evaluate=null leaves the sweeper without a score to choose by: the last mean return"
        )


def _installed(package: str) -> bool:
    try:
        return bool(version(package))
    except PackageNotFoundError:
        return False


def check_sweep(configs: Sequence[DictConfig]) -> None:
    """Raises ValueError if the launcher cannot start these jobs; their configs include Hydra's node."""
    for cfg in configs:
        if OmegaConf.select(cfg, "ckpt_path") == "last":
            raise ValueError("ckpt_path=last continues one run; leave out --multirun")
        (_check_slurm if on_slurm(cfg) else _check_one_process)(cfg)
    launchers = [resolved_launcher(cfg) for cfg in configs]
    requests = sorted({str([launcher.get(key) for key in RESOURCES]) for launcher in launchers})
    if len(requests) > 1:
        raise ValueError(f"the jobs of a sweep get the same {', '.join(RESOURCES)}, not {' and '.join(requests)}")


def resolved_launcher(cfg: DictConfig) -> dict[str, Any]:
    """The arguments of the launcher of a config. Raises ValueError with an argument that has no value."""
    try:
        with hydra_resolvers(cfg):
            return OmegaConf.to_container(cfg.hydra.launcher, resolve=True)  # type: ignore[return-value]
    except OmegaConfBaseException as error:
        raise ValueError(f"hydra.launcher: {first_line(error)}") from error


def _check_slurm(cfg: DictConfig) -> None:
    if shutil.which("srun") is None:
        raise ValueError(
            "hydra/launcher=submitit_slurm: no srun here; start it on a host of the cluster, "
            "or try the sweep with hydra/launcher=submitit_local"
        )
    if not isinstance(cfg.trainer.devices, int) or cfg.trainer.devices < 1:
        raise ValueError(f"trainer.devices={cfg.trainer.devices}: SLURM is asked for a number of GPUs; nearest: 1")


def _check_one_process(cfg: DictConfig) -> None:
    for key in ("trainer.devices", "trainer.num_nodes"):
        number = OmegaConf.select(cfg, key)
        if number not in (None, 1):
            raise ValueError(
                f"{key}={number}: the jobs of a sweep have one process each, but with hydra/launcher=submitit_slurm; "
                "nearest: 1, or a command for each run"
            )


def check_sweep_folders(configs: Sequence[DictConfig]) -> None:
    """Raises ValueError if a job of a sweep would replace another run."""
    for cfg in configs:
        numbered = cfg.copy()
        with read_write(numbered.hydra.job):
            numbered.hydra.job.num = ANY_JOB
        with contextlib.suppress(OmegaConfBaseException), hydra_resolvers(numbered):
            folder = str(Path(numbered.hydra.sweep.dir, numbered.hydra.sweep.subdir))
            for run in glob.glob(glob.escape(folder).replace(str(ANY_JOB), "*")):
                check_unused(Path(run))


def sweep_subdir(cfg: DictConfig) -> str:
    """The pattern of a sweep's run folders with today's time, the same for all ranks and after requeuing."""
    sweep: Any = OmegaConf.to_container(cfg.hydra.sweep, resolve=False)
    return NOW.sub(lambda match: time.strftime(match[1]), sweep["subdir"])


def check_run_is_named(named: bool) -> None:
    """Raises ValueError if srun or torchrun has started several processes and the run's folder is not given."""
    processes = _started_outside()
    if processes > 1 and not named:
        raise ValueError(
            f"{processes} processes of one run, started by srun or torchrun, need one folder: hydra.run.dir=runs/NAME"
        )


def _started_outside() -> int:
    """The number of processes that srun or torchrun has started for this run; 1 without them."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return int(os.environ["WORLD_SIZE"])
    if os.environ.get("SLURM_JOB_NAME") in ("bash", "interactive"):  # as in Lightning
        return 1
    return int(os.environ.get("SLURM_NTASKS", "1")) if "SLURM_STEP_ID" in os.environ else 1


def is_first_process() -> bool:
    """Whether this process is the only one or the first that srun or torchrun has started."""
    return _started_outside() == 1 or os.environ.get("RANK", os.environ.get("SLURM_PROCID")) == "0"


def may_be_started_again() -> bool:
    """Whether this may be a run that its cluster has started before, in the same folder."""
    counts = (os.environ.get(f"{cluster}_RESTART_COUNT") for cluster in ("SLURM", "TORCHELASTIC"))
    return "SUBMITIT_EXECUTOR" in os.environ or any(count not in (None, "", "0") for count in counts)


def own_checkpoint(run: Path) -> Path | None:
    """The newest intact checkpoint of a run that its cluster has started again; None for a new run."""
    if not may_be_started_again():
        return None
    checkpoint = newest_checkpoint(run)
    if checkpoint is not None and is_first_process():
        log.warning("started again: resuming from %s", checkpoint)
    return checkpoint
