"""Demonstrations of a run's tasks: episodes of Minari datasets, checked against the tasks, and a replay of them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ezm_lightning.envs.sources import resolve_tasks
from ezm_lightning.envs.spec import TaskSpec
from ezm_lightning.replay.episodes import replay_of, rows_needed, slots_for
from ezm_lightning.replay.minari_format import Dataset, Episode, find_datasets
from ezm_lightning.replay.mixed import MixedReplay
from ezm_lightning.replay.rings import Replay, replay_bytes


@dataclass(frozen=True)
class Demonstrations:
    """The demonstrations of a run's tasks; a task may have none."""

    episodes: Mapping[str, Sequence[Episode]]  # by task

    @property
    def digest(self) -> str:
        """SHA-256 of all transitions, the same on every machine."""
        return digest(episode for name in sorted(self.episodes) for episode in self.episodes[name])

    def nbytes(self, **sizes: Any) -> int:
        """Bytes of a replay of the episodes with rows of these ``sizes`` (see :func:`replay_bytes`)."""
        episodes = list(self.episodes.values())
        num_slots = len(episodes) * slots_for(episodes)
        return replay_bytes(num_tasks=len(episodes), num_slots=num_slots, capacity=rows_needed(episodes), **sizes)

    def beside(self, online: Replay, names: Sequence[str], *, share: float, **settings: Any) -> MixedReplay:
        """A replay that draws from ``online``, the replay of the tasks ``names``, and from the demonstrations.

        ``settings`` are arguments of a Replay.
        """
        shown = [name for name in names if name in self.episodes]
        rows = replay_of([self.episodes[name] for name in shown], **settings)
        tasks = [list(names).index(name) for name in shown]
        return MixedReplay(online, rows, tasks=tasks, share=share, digest=self.digest)

    def check_every(self, names: Sequence[str], instead: str) -> None:
        """Raises ValueError, with what to write ``instead``, unless every task has a demonstration."""
        lacking = [name for name in names if name not in self.episodes]
        if lacking:
            raise ValueError(f"demos.paths has no demonstration of {', '.join(lacking)}; {instead}")


def digest(episodes: Iterable[Episode]) -> str:
    """SHA-256 of the observations, actions, rewards and ends of episodes, in their order."""
    sha = hashlib.sha256()
    for episode in episodes:
        for part in (episode.obs, episode.action, episode.reward, episode.terminated, episode.truncated):
            sha.update(part.tobytes())
    return sha.hexdigest()


def read_demonstrations(
    paths: Sequence[str], names: Sequence[str], action_repeats: Sequence[int], *, most: int | None = None
) -> Demonstrations:
    """The demonstrations of the tasks ``names`` in the datasets at or below ``paths``, at most ``most`` of each.

    Raises ValueError, with the dataset, if it does not name its task, is damaged, or has another width or action repeat
    than the task, and if there is no dataset of these tasks; ImportError without Minari.
    """
    wanted = {spec.name: (spec, repeat) for spec, repeat in zip(resolve_tasks(names), action_repeats, strict=True)}
    episodes: dict[str, list[Episode]] = {}
    others: list[str] = []
    for folder in dict.fromkeys(folder for path in paths for folder in find_datasets(Path(path))):
        dataset = Dataset(folder)
        task = task_of(dataset)
        if task not in wanted:
            others.append(task)
            continue
        check_fits(dataset, *wanted[task])
        episodes.setdefault(task, []).extend(dataset.episodes())
    if not episodes:
        raise ValueError(
            f"demos.paths={','.join(map(str, paths))} has demonstrations of {', '.join(others)}, "
            f"and the run's tasks are {', '.join(names)}"
        )
    empty = [task for task, of_task in episodes.items() if not of_task]
    if empty:
        raise ValueError(f"demos.paths: the dataset of {', '.join(empty)} has no episode")
    return Demonstrations({task: of_task[:most] for task, of_task in episodes.items()})


def task_of(dataset: Dataset) -> str:
    """The task in a dataset's metadata. Raises ValueError, with what to type, if there is none."""
    if dataset.task is None:
        raise ValueError(
            f"{dataset.folder} does not say which task it is of: "
            f"ezm demos import path={dataset.folder} task=SOURCE/TASK out=FOLDER"
        )
    return str(dataset.task)


def check_fits(dataset: Dataset, spec: TaskSpec, action_repeat: int | None) -> None:
    """Raises ValueError if a dataset has other widths than the task, or was made with another action repeat."""
    for what, there, here in (
        ("observations", dataset.obs_dim, spec.obs_dim),
        ("actions", dataset.action_dim, spec.action_dim),
    ):
        if there != here:
            raise ValueError(f"{dataset.folder} has {what} of width {there}, {spec.name} has {here}")
    repeat = dataset.metadata.get("action_repeat")
    if repeat is not None and action_repeat is not None and int(repeat) != action_repeat:
        raise ValueError(
            f"{dataset.folder} was made with action_repeat={repeat}, the run has {action_repeat} for {spec.name}: "
            f"tasks.action_repeat={repeat}"
        )
