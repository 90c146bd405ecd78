"""Runs a command with Hydra: composes and checks before anything is written; reports a mistake in one line."""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import re
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from ezm_lightning.checkpoints.runs import (
    check_unused,
    check_writable,
    existing_checkpoint,
    held,
    last_checkpoint,
    new_folder,
    remove_unused_run,
    run_of,
)
from ezm_lightning.checkpoints.text_file import replace_text
from ezm_lightning.config.compose import compose_checked, compose_raw, hydra_resolvers
from ezm_lightning.config.folder import Folders, command_help, config_dir, module_doc
from ezm_lightning.config.interrupt import interruptible
from ezm_lightning.config.overrides import jobs, parse, quoted, rewrite
from ezm_lightning.config.sweeps import (
    check_folder_keys,
    check_launcher,
    check_run_is_named,
    check_sweep,
    check_sweep_folders,
    check_sweeper,
    is_first_process,
    may_be_started_again,
    own_checkpoint,
    sweep_subdir,
)
from ezm_lightning.envs.process import same_folder
from ezm_lightning.errors import Parser, one_line, raised_here, refuse

__all__ = ["config_dir", "hydra_main"]

ONE_LINE = (ValueError, ImportError, OSError, MemoryError, FloatingPointError)
QUIET = ("hydra/job_logging", "hydra/hydra_logging")


class JobFailed(Exception):
    """A job of a sweep has failed and has printed why. Hydra runs the other jobs and raises this at the end."""


def hydra_main(
    config_name: str,
    task_function: Callable[[DictConfig], Any],
    argv: Sequence[str] | None = None,
    directory: Path | None = None,
) -> int:
    """The exit status of ``task_function`` run with the config that ``argv`` composes.

    2 for a mistake that is explained in one line on stderr: a command line that does not compose or that the classes in
    it do not accept (then nothing is written), or an error that this package raises itself, such as a replay that does
    not fit in memory. Any other exception keeps its traceback. A sweep runs all its jobs; 2 if any has failed.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    directory = config_dir() if directory is None else directory.resolve()
    try:
        flags = _parse_flags(argv)
        folders = [directory, *_own_folder(flags)]
        if flags.help:
            print(command_help(module_doc(task_function.__module__), config_name.partition("_")[0], folders))
            return 0
        with same_folder():
            overrides = _checked_overrides(config_name, flags, folders)
    except ONE_LINE as error:
        return refuse(error)
    options = [text for text in argv if text not in flags.overrides]
    try:
        with interruptible():
            _run_hydra(config_name, task_function, [*options, *overrides], directory)
    except JobFailed as failed:
        return refuse(str(failed))
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    return 0


def _parse_flags(argv: Sequence[str]) -> argparse.Namespace:
    parser = get_args_parser()
    parser.__class__ = Parser  # Hydra's own flags; a wrong one is reported in one line
    parser.allow_abbrev = False  # --experiment does not mean --experimental-rerun
    for text, following in itertools.zip_longest(argv, argv[1:], fillvalue=""):
        name, equals, _ = text.removeprefix("--").partition("=")
        takes_a_word = not equals and following and not following.startswith("-") and "=" not in following
        if text.startswith("--") and (equals or takes_a_word) and f"--{name}" not in parser._option_string_actions:
            meant = text.removeprefix("--") if equals else f"{name}={following}"
            raise ValueError(f"unknown flag {text}; an override has no dashes: {meant}")
    return parser.parse_intermixed_args(argv)


def _own_folder(flags: argparse.Namespace) -> list[Path]:
    """The user's folder of configs, if there is one, which is used beside the package's."""
    if flags.config_path is not None:
        raise ValueError(
            f"--config-path={flags.config_path} would replace the configs of ezm_lightning; "
            f"yours go beside them: --config-dir={flags.config_path}"
        )
    if flags.config_dir is None:
        return []
    if any(text.lstrip("+").startswith("hydra.searchpath=") for text in flags.overrides):
        raise ValueError(f"give --config-dir={flags.config_dir} or hydra.searchpath=..., not both")
    folder = Path(flags.config_dir).resolve()
    if not folder.is_dir():
        raise ValueError(f"--config-dir={flags.config_dir} is no folder")
    return [folder]


def _checked_overrides(config_name: str, flags: argparse.Namespace, folders: Folders) -> list[str]:
    overrides = rewrite(flags.overrides, folders)
    name = flags.config_name or config_name
    quiet = [f"{group}=none" for group in QUIET if not any(text.startswith(group) for text in overrides)]
    if flags.cfg or flags.info or flags.hydra_help or flags.shell_completion:
        compose_raw(name, overrides, folders) if flags.cfg else parse(overrides)
        return overrides + quiet
    check_launcher(overrides, multirun=flags.multirun)
    check_folder_keys(overrides, multirun=flags.multirun)
    configs = [compose_checked(name, job, folders) for job in (jobs(overrides) if flags.multirun else [overrides])]
    if flags.multirun:
        if configs[0].hydra.output_subdir is None:
            raise ValueError(f"ezm {name.replace('_', ' ')} makes no runs to sweep over: leave out --multirun")
        check_sweep(configs)
        check_sweep_folders(configs)
        check_sweeper(overrides, configs)
        return [*overrides, f"hydra.sweep.subdir={quoted(sweep_subdir(configs[0]))}", *quiet]
    return _with_run(configs[0], overrides) + quiet


def _with_run(cfg: DictConfig, overrides: list[str]) -> list[str]:
    """``overrides`` with the paths of the run's folder and of the checkpoint; ``last`` keeps the run's folder, unless
    another one is named."""
    with hydra_resolvers(cfg):
        run, choice, seed = Path(cfg.hydra.run.dir), OmegaConf.select(cfg, "ckpt_path"), OmegaConf.select(cfg, "seed")
    named = "hydra.run.dir" in {text.lstrip("+").partition("=")[0] for text in overrides}
    remaining = [text for text in overrides if not text.lstrip("+").startswith(("ckpt_path=", "hydra.run.dir="))]
    weights = "run_dir" not in cfg  # a command that does not train needs only weights
    ckpt_path = None if choice in (None, "last") else existing_checkpoint(str(choice), weights=weights)
    goes_on = False
    if choice == "last":
        checkpoint = last_checkpoint(run, seed, weights=weights)
        goes_on = not named or weights or run_of(checkpoint).resolve() == run.resolve()
        ckpt_path, run = str(checkpoint), run_of(checkpoint) if goes_on else run
    if not goes_on and cfg.hydra.output_subdir is not None:
        run = _free_folder(run, ckpt_path, named=named)
    return [*remaining, f"hydra.run.dir={quoted(run)}", *([f"ckpt_path={quoted(ckpt_path)}"] if ckpt_path else [])]


def _free_folder(run: Path, ckpt_path: str | None, *, named: bool) -> Path:
    """The folder of a new run: ``run``, or the next free one if ``run`` exists and was not ``named``."""
    check_run_is_named(named)
    if not is_first_process():
        return run
    check_writable(run)
    if not named:
        return new_folder(run)
    resumes = ckpt_path is not None and run.resolve() in Path(ckpt_path).resolve().parents
    if not resumes and not may_be_started_again():
        check_unused(run)
    return run


def _run_hydra(
    config_name: str, task_function: Callable[[DictConfig], Any], arguments: Sequence[str], directory: Path
) -> None:
    """Hydra's own main. The command gets the ``sys.argv`` of the user, from which Lightning starts further ranks."""
    original, started, begun, failed = sys.argv, time.time(), [], []
    replaced = _files_of_hydra(arguments)

    def command(cfg: DictConfig) -> Any:
        sys.argv = original
        hydra_cfg = HydraConfig.get()
        run, in_sweep = Path(hydra_cfg.runtime.output_dir), hydra_cfg.mode == RunMode.MULTIRUN
        begun.append(run)
        try:
            with same_folder(), _own_folder_of(cfg, run, in_sweep, replaced):
                result = task_function(_resumed(cfg, run))
            if "run_dir" in cfg and cfg.ckpt_path is not None:  # its budget may be spent already
                remove_unused_run(run, started)
            return result
        except KeyboardInterrupt:
            remove_unused_run(run, started)
            raise
        except Exception as error:
            ours = explained(error)
            if ours is not None:
                remove_unused_run(run, started)
                status = refuse(ours)
            elif in_sweep:
                traceback.print_exception(error)
            else:
                raise
            if not in_sweep:
                raise SystemExit(status) from error
            failed.append(run)
            raise JobFailed(f"the job in {run} failed") from None

    command.__module__ = task_function.__module__
    sys.argv = [original[0], *arguments]
    try:
        with _whole_tracebacks():
            hydra.main(config_path=str(directory), config_name=config_name, version_base="1.3")(command)()
    except JobFailed as first:
        count = f"{len(failed)} of {len(begun)} jobs failed: {', '.join(run.name for run in failed)}"
        raise JobFailed(count if failed else str(first)) from None
    finally:
        sys.argv = original


def _files_of_hydra(arguments: Sequence[str]) -> dict[Path, str]:
    """The files of an existing run that Hydra replaces, with their content."""
    runs = (parse([text])[0].value() for text in arguments if text.startswith("hydra.run.dir="))
    files = (file for run in runs for file in Path(os.path.abspath(str(run))).glob("hydra/*.yaml"))
    return {file: file.read_text(encoding="utf-8") for file in files}


@contextlib.contextmanager
def _own_folder_of(cfg: DictConfig, run: Path, in_sweep: bool, replaced: Mapping[Path, str]) -> Iterator[None]:
    """Locks a training run's folder against other processes; refuses a folder with another run to a job of a sweep.

    The files that Hydra has ``replaced`` are restored if no checkpoint is saved: the config stays that of the newest.
    """
    if "run_dir" not in cfg or not is_first_process() or HydraConfig.get().output_subdir is None:
        yield
        return
    before = _checkpoints(run)
    try:
        if in_sweep and not may_be_started_again():
            check_unused(run)
        with held(run):
            yield
    finally:
        if before and _checkpoints(run) == before:
            for file, text in replaced.items():
                if run in file.parents:  # not so for a job of a sweep
                    replace_text(file, text)


def _checkpoints(run: Path) -> dict[Path, int]:
    """The checkpoints in a run's folder, with the times at which they were written."""
    return {path: path.stat().st_mtime_ns for path in run.rglob("checkpoints/step=*.ckpt")}


def _resumed(cfg: DictConfig, run: Path) -> DictConfig:
    """``cfg``, with the run's own newest checkpoint if a cluster has started it again."""
    checkpoint = own_checkpoint(run) if "run_dir" in cfg else None
    if checkpoint is None:
        return cfg
    again = cfg.copy()
    again.ckpt_path = str(checkpoint)
    return again


@contextlib.contextmanager
def _whole_tracebacks() -> Iterator[None]:
    """Within this context Hydra raises; otherwise it shortens tracebacks and exits."""
    before = os.environ.get("HYDRA_FULL_ERROR")
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        yield
    finally:
        os.environ.pop("HYDRA_FULL_ERROR", None) if before is None else os.environ.update(HYDRA_FULL_ERROR=before)


def explained(error: BaseException) -> BaseException | None:
    """The error whose message explains the mistake to the user: one that this package raised, or that of a class which
    refused arguments of the config. None for any other."""
    cause = error
    while isinstance(cause, InstantiationException) and cause.__cause__ is not None:
        cause = cause.__cause__
    if isinstance(cause, ONE_LINE) and raised_here(cause):
        return cause
    key = re.search(r"^full_key: (.+)$", str(error), re.MULTILINE)
    if cause is error or key is None:
        return None
    refused = ValueError(f"{key[1]}: {one_line(cause)}")
    refused.__cause__ = cause
    return refused
