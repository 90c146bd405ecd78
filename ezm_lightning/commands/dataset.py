"""ezm dataset export|import: the episodes of a run as Minari datasets, and Minari datasets as a replay.

  ezm dataset export run=runs/demo/seed1_TIME out=data             a dataset a task, the whole replay of the run
  ezm dataset export run=runs/demo/seed1_TIME out=data tasks=[dmc/cartpole-swingup]
  ezm dataset import path=data out=replay                          a folder that Replay.adopt and Replay.load read
  ezm dataset import path=DATASET out=replay task=dmc/walker-walk  a dataset of somebody else, which names no task

An episode keeps terminated and truncated apart, its final observation, the actor's extra columns (search_value) and the
number of each step (env_step). The metadata have the task, action repeat, seed, versions and instruction. A round trip
gives the same bits. Others read the datasets with MINARI_DATASETS_PATH=data, for example
minari.load_dataset("ezm/dmc-cartpole-swingup-v0"). Needs pip install 'ezm-lightning[minari]'.
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
from ezm_lightning.checkpoints.runs import newest_checkpoint
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
    """Writes a dataset a task, from a composed config."""
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
    episodes = [list(progress(each.episodes(), len(each), name)) for each, name in zip(datasets, names, strict=True)]
    lacking = [name for name, own in zip(names, episodes, strict=True) if not own]
    if lacking:
        raise ValueError(f"{cfg.path} holds no episode of {', '.join(lacking)}")
    with new_folder(Path(cfg.out)) as place:
        replay_of(episodes).save(place)
        size = megabytes(place)
    for name, own in zip(names, episodes, strict=True):
        print(f"{name:<28}{len(own):>6} episodes {sum(map(len, own)):>9} transitions")
    print(f"written to {cfg.out}, {size:.2f} MB, in {time.monotonic() - started:.1f} s; task indices in this order")


def check_request(cfg: DictConfig) -> None:
    """Raises ValueError or ImportError for what cannot be done, before anything is read."""
    if cfg.format not in FORMATS:
        raise ValueError(f"format={cfg.format}; nearest: {nearest(str(cfg.format), FORMATS, count=1)}")
    check_package()
    check_new(Path(cfg.out))


def checkpoint_of(run: str) -> Path:
    """The checkpoint that holds the replay. Raises ValueError where there is none or it is damaged."""
    given = Path(run)
    checkpoint = given if is_checkpoint(given) or not given.is_dir() else newest_checkpoint(given)
    if checkpoint is None:
        raise ValueError(f"run={run} is a folder without an intact checkpoint in {given / 'checkpoints'}")
    wrong = damage(checkpoint)
    if wrong is not None:
        raise ValueError(f"run={run}: {wrong}")
    return checkpoint


def chosen_tasks(known: list[str], wanted: Iterable[str] | None) -> list[str]:
    """``wanted``, or all that are known. Raises ValueError for an unknown one, naming the nearest."""
    if wanted is None:
        return known
    for name in wanted:
        if name not in known:
            raise ValueError(f"the run has no task {name!r}; nearest: {nearest(name, known, count=1)}")
    return list(wanted)


def progress(episodes: Iterable[Item], count: int, name: str) -> Iterator[Item]:
    """The episodes, or rounds of them, with a bar on a terminal."""
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
    """Runs what the first argument names with its config; 2 for a word that is none of them."""
    word = arguments[0] if arguments else ""
    if word not in words:
        return refuse(f"ezm {verb} {word}: unknown; nearest: {nearest(word, words, count=1)} ({', '.join(words)})")
    config, run = words[word]
    return hydra_main(config, run, arguments[1:])
