"""Runs that differ in nothing but seed and tasks are one group; its curves and scores at equal simulator steps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ezm_lightning.report.floors import floor_of
from ezm_lightning.report.runs import Curve, Run

SHOWN = 3  # settings in a group's name
Scale = Callable[[str, np.ndarray], np.ndarray]  # returns of a task -> what is compared


def as_return(task: str, returns: np.ndarray) -> np.ndarray:
    """The returns themselves."""
    return returns


def as_score(task: str, returns: np.ndarray) -> np.ndarray:
    """(return − random) / (success − random)."""
    floor = floor_of(task)
    return np.array([floor.score(value) for value in returns.ravel()]).reshape(returns.shape)


@dataclass(frozen=True)
class Group:
    """Runs that are reported as one."""

    name: str
    runs: Sequence[Run]

    @property
    def tasks(self) -> list[str]:
        return list(dict.fromkeys(task for run in self.runs for task in run.curves))

    @property
    def scored_tasks(self) -> list[str]:
        """The tasks that have a normalised score."""
        return [task for task in self.tasks if floor_of(task).has_score]

    @property
    def seeds(self) -> list[str]:
        """The runs' seeds, each once, in order."""
        return sorted({run.seed_label for run in self.runs}, key=lambda seed: (len(seed), seed))

    def runs_of(self, task: str) -> list[Run]:
        return [run for run in self.runs if task in run.curves]

    def curves_of(self, task: str) -> list[Curve]:
        return [run.curves[task] for run in self.runs_of(task)]

    def first_step(self, tasks: Sequence[str]) -> int:
        """The first simulator step at which all runs of these tasks have been evaluated."""
        return int(max(curve.env_steps[0] for task in tasks for curve in self.curves_of(task)))

    def last_step(self, tasks: Sequence[str]) -> int:
        """The last simulator step that all runs of these tasks have reached."""
        return int(min(curve.env_steps[-1] for task in tasks for curve in self.curves_of(task)))

    def grid(self, tasks: Sequence[str]) -> np.ndarray:
        """The simulator steps between those two at which any of these runs was evaluated."""
        first, last = self.first_step(tasks), self.last_step(tasks)
        every = np.unique(np.concatenate([curve.env_steps for task in tasks for curve in self.curves_of(task)]))
        return every[(every >= first) & (every <= last)]

    def strata(
        self, tasks: Sequence[str], env_steps: Iterable[float], *, ignoring: bool = False, scale: Scale = as_return
    ) -> list[np.ndarray]:
        """Of each task its runs' last evaluations that are not after ``env_steps`` [runs, points]."""
        steps = list(env_steps)
        found = []
        for task in tasks:
            curves = self.curves_of(task)
            rows = [curve.protocol(ignoring=ignoring)[[curve.index_at(step) for step in steps]] for curve in curves]
            found.append(scale(task, np.stack(rows)))
        return found


def make_groups(labelled: Mapping[str, Sequence[Run]], unlabelled: Sequence[Run]) -> tuple[list[Group], list[str]]:
    """The groups, and what must be said of them.

    Runs that the user has given a label are one group, whatever their settings; the others are one group where name
    and settings are equal.
    """
    groups, notes = [], []
    for label, runs in labelled.items():
        groups.append(Group(label, runs))
        different = _different(runs)
        if different:
            notes.append(f"The runs of {label} differ in more than seed and tasks: {', '.join(different)}.")
    by_name: dict[str, list[Run]] = {}
    for run in unlabelled:
        by_name.setdefault(run.name, []).append(run)
    for name, runs in by_name.items():
        groups += _split(name, runs)
    return _unique(groups), notes


def _split(name: str, runs: Sequence[Run]) -> list[Group]:
    """One group for each set of settings among runs of one name."""
    by_settings: dict[tuple[tuple[str, str], ...], list[Run]] = {}
    for run in runs:
        by_settings.setdefault(tuple(sorted(run.record.settings.items())), []).append(run)
    if len(by_settings) == 1:
        return [Group(name, runs)]
    different = _different(runs)
    return [Group(f"{name}: {_said(dict(settings), different)}", own) for settings, own in by_settings.items()]


def _different(runs: Sequence[Run]) -> list[str]:
    """The keys of settings that are not the same in all runs."""
    keys = dict.fromkeys(key for run in runs for key in run.record.settings)
    return sorted(key for key in keys if len({run.record.settings.get(key) for run in runs}) > 1)


def _said(settings: Mapping[str, str], different: Sequence[str]) -> str:
    own = [f"{key}={settings[key]}" if settings[key] else key for key in different if key in settings]
    return " ".join(own[:SHOWN]) + (" …" if len(own) > SHOWN else "") or "as the preset has it"


def _unique(groups: Sequence[Group]) -> list[Group]:
    """The groups with a number behind a name that is there already."""
    seen: dict[str, int] = {}
    named = []
    for group in groups:
        seen[group.name] = seen.get(group.name, 0) + 1
        count = seen[group.name]
        named.append(group if count == 1 else Group(f"{group.name} ({count})", group.runs))
    return named
