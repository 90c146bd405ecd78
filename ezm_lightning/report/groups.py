"""Groups of runs that differ only in seed and tasks; their curves and scores at equal simulator steps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ezm_lightning.report.floors import floor_of
from ezm_lightning.report.runs import Curve, Run

SHOWN = 3  # settings in a group's name


def scores_of(task: str, curve: Curve, *, ignoring: bool = False) -> np.ndarray:
    """(return − random) / (success − random); for a task without these two, the share of episodes that succeeded. NaN
    for a task that does not report it either."""
    floor = floor_of(task)
    return floor.score(curve.protocol(ignoring=ignoring)) if floor.has_score else curve.success


@dataclass(frozen=True)
class Group:
    """Runs that are reported together."""

    name: str
    runs: Sequence[Run]

    @property
    def tasks(self) -> list[str]:
        return list(dict.fromkeys(task for run in self.runs for task in run.curves))

    @property
    def scored_tasks(self) -> list[str]:
        """The tasks that have a normalised score."""
        return [
            task
            for task in self.tasks
            if not any(np.isnan(scores_of(task, curve)).any() for curve in self.curves_of(task))
        ]

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
        """The simulator steps from first to last step at which any of these runs was evaluated."""
        first, last = self.first_step(tasks), self.last_step(tasks)
        every = np.unique(np.concatenate([curve.env_steps for task in tasks for curve in self.curves_of(task)]))
        return every[(every >= first) & (every <= last)]

    def strata(
        self, tasks: Sequence[str], env_steps: Iterable[float], *, ignoring: bool = False, scored: bool = False
    ) -> list[np.ndarray]:
        """For each task, the returns or the scores of its runs' last evaluations that are not after ``env_steps``
        [runs, points]."""
        steps = list(env_steps)
        result = []
        for task in tasks:
            rows = []
            for curve in self.curves_of(task):
                values = scores_of(task, curve, ignoring=ignoring) if scored else curve.protocol(ignoring=ignoring)
                rows.append(values[[curve.index_at(step) for step in steps]])
            result.append(np.stack(rows))
        return result


def make_groups(labelled: Mapping[str, Sequence[Run]], unlabelled: Sequence[Run]) -> tuple[list[Group], list[str]]:
    """The groups, and notes on them.

    Runs with a label of the user are one group, whatever their settings. The others are one group if their names and
    settings are equal.
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
    return [Group(f"{name}: {_label(dict(settings), different)}", same) for settings, same in by_settings.items()]


def _different(runs: Sequence[Run]) -> list[str]:
    """The keys of settings that are not the same in all runs."""
    keys = dict.fromkeys(key for run in runs for key in run.record.settings)
    return sorted(key for key in keys if len({run.record.settings.get(key) for run in runs}) > 1)


def _label(settings: Mapping[str, str], different: Sequence[str]) -> str:
    parts = [f"{key}={settings[key]}" if settings[key] else key for key in different if key in settings]
    return " ".join(parts[:SHOWN]) + (" …" if len(parts) > SHOWN else "") or "as the preset has it"


def _unique(groups: Sequence[Group]) -> list[Group]:
    """The groups; a repeated name gets a number."""
    counts: dict[str, int] = {}
    named = []
    for group in groups:
        counts[group.name] = counts.get(group.name, 0) + 1
        count = counts[group.name]
        named.append(group if count == 1 else Group(f"{group.name} ({count})", group.runs))
    return named
