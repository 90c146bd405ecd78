"""ezm dataset export|import: the episodes of a run as Minari datasets, and Minari datasets as a replay.

  ezm dataset export run=runs/demo/seed1_TIME out=data             the whole replay of the run, a dataset per task
  ezm dataset export run=runs/demo/seed1_TIME out=data tasks=[dmc/cartpole-swingup]
  ezm dataset import path=data out=replay                          a folder that Replay.adopt and Replay.load read
  ezm dataset import path=DATASET out=replay task=dmc/walker-walk  somebody else's dataset, which names no task

An episode keeps terminated and truncated apart, its final observation, the actor's extra columns (search_value) and the
number of each step (env_step). The metadata have the task, action repeat, seed, versions, and the instruction that
``instructions={task: text}`` gives. A round trip gives the same bits. Others read the datasets with
MINARI_DATASETS_PATH=data, for example minari.load_dataset("ezm/dmc-cartpole-swingup-v0"). Needs pip install
'ezm-lightning[minari]'.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TypeVar

from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.progress import track

from ezm_lightning.checkpoints.contents import read_checkpoint
from ezm_lightning.checkpoints.folder import damage, is_checkpoint, rank_folders
from ezm_lightning.checkpoints.runs import checkpoint_in
from ezm_lightning.config.launch import hydra_main
from ezm_lightning.config.per_task import for_each
from ezm_lightning.config.saved import resolved_config
from ezm_lightning.envs.sources import resolve_tasks
from ezm_lightning.errors import nearest, refuse
from ezm_lightning.export.folder import check_new, new_folder
from ezm_lightning.replay.demonstrations import check_fits
from ezm_lightning.replay.episodes import SavedReplay, replay_of
from ezm_lightning.replay.minari_format import (
    Dataset,
    check_package,
    dataset_id,
    find_datasets,
    tasks_of,
    write_dataset,
)

FORMATS = ("minari",)
Item = TypeVar("Item")


def export_datasets(cfg: DictConfig) -> None:
    """Writes a dataset for each task, from a composed config."""
    check_request(cfg)
    checkpoint = checkpoint_of(cfg.run)
    saved = resolved_config(read_checkpoint(checkpoint), checkpoint)
    names = list(saved.tasks.names)
    chosen = chosen_tasks(names, OmegaConf.select(cfg, "tasks.names"))
    instructions = dict(cfg.instructions or {})
    chosen_tasks(names, list(instructions))
    replay = SavedReplay([rank / "replay" for rank in rank_folders(checkpoint)])
    repeats = for_each(saved.tasks.action_repeat, names)
    empty = [name for name in chosen if not replay.segments_of(names.index(name))]
    if empty:
        raise ValueError(f"the replay of {cfg.run} holds no episode of {', '.join(empty)}")
    started = time.monotonic()
    with new_folder(Path(cfg.out)) as place:
        for name in chosen:
            task = names.index(name)
            widths = {"obs_dim": saved.obs_dims[task], "action_dim": saved.action_dims[task]}
            about = {
                "action_repeat": repeats[task],
                "training_seed": int(saved.seed),
                "checkpoint": checkpoint.name,
                "ezm_lightning_version": version("ezm-lightning"),
                **({"instruction": instructions[name]} if name in instructions else {}),
            }
            count = len(replay.segments_of(task))
            episodes = progress(replay.episodes(task, **widths), count, name)
            folder = write_dataset(place, name, episodes, about=about, **widths)
            print(f"{name:<28}{count:>6} episodes  {megabytes(folder):>8.2f} MB  {dataset_id(name)}")
    print(f"written to {cfg.out} in {time.monotonic() - started:.1f} s")


def import_datasets(cfg: DictConfig) -> None:
    """Writes a replay, from a composed config."""
    check_request(cfg)
    datasets = [Dataset(folder) for folder in find_datasets(Path(cfg.path))]
    names = tasks_of(datasets, cfg.task)
    for dataset, spec in zip(datasets, resolve_tasks(names), strict=True):
        check_fits(dataset, spec, None)
    started = time.monotonic()
    named = list(zip(names, datasets, strict=True))
    episodes = {name: list(progress(dataset.episodes(), len(dataset), name)) for name, dataset in named}
    empty = [name for name in names if not episodes[name]]
    if empty:
        raise ValueError(f"{cfg.path} holds no episode of {', '.join(empty)}")
    with new_folder(Path(cfg.out)) as place:
        replay_of(list(episodes.values())).save(place)
        size = megabytes(place)
    for name, of_task in episodes.items():
        print(f"{name:<28}{len(of_task):>6} episodes {sum(map(len, of_task)):>9} transitions")
    print(f"written to {cfg.out}, {size:.2f} MB, in {time.monotonic() - started:.1f} s; task indices in this order")


def check_request(cfg: DictConfig) -> None:
    """Raises ValueError for an unknown format or a folder that exists, ImportError without Minari."""
    if cfg.format not in FORMATS:
        raise ValueError(f"format={cfg.format}; nearest: {nearest(str(cfg.format), FORMATS, count=1)}")
    check_package()
    check_new(Path(cfg.out))


def checkpoint_of(run: str) -> Path:
    """The checkpoint that has the replay. Raises ValueError if there is none or if it is damaged."""
    given = Path(run)
    if given.is_dir() and not is_checkpoint(given):
        return checkpoint_in(given, f"run={run}")
    wrong = damage(given)
    if wrong is not None:
        raise ValueError(f"run={run}: {wrong}")
    return given


def chosen_tasks(known: list[str], wanted: Iterable[str] | None) -> list[str]:
    """``wanted``, or all known tasks if it is None. Raises ValueError for an unknown one, with the nearest."""
    if wanted is None:
        return known
    for name in wanted:
        if name not in known:
            raise ValueError(f"the run has no task {name!r}; nearest: {nearest(name, known, count=1)}")
    return list(wanted)


def progress(episodes: Iterable[Item], count: int, name: str) -> Iterator[Item]:
    """Iterates over the episodes, or over rounds of them, with a progress bar on a terminal."""
    console = Console(stderr=True)
    yield from track(episodes, f"{name} ", total=count, console=console, disable=not console.is_terminal)


def megabytes(folder: Path) -> float:
    """The size of all files below a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6


VERBS = {"export": ("dataset_export", export_datasets), "import": ("dataset_import", import_datasets)}


def main(argv: list[str] | None = None) -> int | None:
    """The command; see ``ezm dataset --help``."""
    logging.getLogger("torchrl").setLevel(logging.WARNING)  # it would report every storage
    return run_word("dataset", VERBS, sys.argv[1:] if argv is None else argv)


def run_word(verb: str, words: Mapping[str, tuple[str, Callable[[DictConfig], None]]], arguments: list[str]) -> int:
    """Runs the function and the config of the first argument. Returns the exit status; 2 for an unknown word."""
    word = arguments[0] if arguments else ""
    if word not in words:
        if not word:
            return refuse(f"ezm {verb} is followed by one of {', '.join(words)}")
        return refuse(f"ezm {verb} {word}: unknown; nearest: {nearest(word, words, count=1)} ({', '.join(words)})")
    config, run = words[word]
    return hydra_main(config, run, arguments[1:])
