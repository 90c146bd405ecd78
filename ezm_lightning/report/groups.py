"""Groups of runs that differ only in seed and tasks; their curves and scores at equal simulator steps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ezm_lightning.report.floors import floor_of
from ezm_lightning.report.runs import Curve, Run
from ezm_lightning.report.tables import in_order

SHOWN = 3  # settings in a group's name
BUDGET = ("env_steps_per_task", "replay.capacity")  # a run may resume with more


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
        return in_order(run.seed_label for run in self.runs)

    def runs_of(self, task: str) -> list[Run]:
        return [run for run in self.runs if task in run.curves]

    def curves_of(self, task: str) -> list[Curve]:
        return [run.curves[task] for run in self.runs_of(task)]

    def grid(self, tasks: Sequence[str], *, trained: bool = False) -> list[int]:
        """The simulator steps at which every run of these tasks was evaluated, at most 1 % apart; empty if there are
        none. With ``trained`` without those before the first update, as far as updates were recorded."""
        curves = [curve for task in tasks for curve in self.curves_of(task)]
        fewest = min((curve.env_steps for curve in curves), key=len, default=np.array([], int))
        steps = [step for step in fewest.tolist() if all(curve.has(step) for curve in curves)]
        if not trained:
            return steps
        return [step for step in steps if all(curve.updates[curve.index_near(step)] != 0 for curve in curves)]

    def last_step(self, tasks: Sequence[str]) -> int | None:
        """The last simulator step at which every run of these tasks was evaluated; None if there is none."""
        return max(self.grid(tasks), default=None)

    def strata(
        self, tasks: Sequence[str], env_steps: Iterable[float], *, ignoring: bool = False, scored: bool = False
    ) -> list[np.ndarray]:
        """For each task, the returns or the scores of its runs' evaluations near ``env_steps`` [runs, points]; these
        steps are of the tasks' ``grid``."""
        steps = list(env_steps)
        result = []
        for task in tasks:
            rows = []
            for curve in self.curves_of(task):
                values = scores_of(task, curve, ignoring=ignoring) if scored else curve.protocol(ignoring=ignoring)
                rows.append(values[[curve.index_near(step) for step in steps]])
            result.append(np.stack(rows))
        return result


def make_groups(labelled: Mapping[str, Sequence[Run]], unlabelled: Sequence[Run]) -> tuple[list[Group], list[str]]:
    """The groups, and notes on them.

    Runs with a label of the user are one group, whatever their settings. The others are one group if their names and
    settings are equal.
    """
    groups: list[Group] = []
    notes: list[str] = []
    labelled = {label: _without_beginnings(runs, notes) for label, runs in labelled.items()}
    unlabelled = _without_beginnings(unlabelled, notes)
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
    groups = _unique(groups)
    return groups, [*notes, *(note for group in groups for note in _lacking(group))]


def _lacking(group: Group) -> list[str]:
    """A note for each seed without a run of every task of its group: a mean over all runs weighs it less."""
    count, notes = len(group.tasks), []
    for seed in group.seeds:
        own = {task for run in group.runs if run.seed_label == seed for task in run.curves}
        if len(own) < count:
            notes.append(f"{group.name}: seed {seed} has {len(own)} of {count} tasks.")
    return notes


def _without_beginnings(runs: Sequence[Run], notes: list[str]) -> list[Run]:
    """The runs without those that another one has continued, and notes on these: a run that resumed in a folder of its
    own repeats the curve of the run that it resumed."""
    kept = list(runs)
    for run in runs:
        whole = next((other for other in kept if other is not run and _continues(other, run)), None)
        if whole is not None:
            kept.remove(run)
            notes.append(f"{run.path}: left out, because {whole.path} begins with the same evaluations.")
    return kept


def _continues(longer: Run, run: Run) -> bool:
    """Whether a run has the same name, seed, tasks and settings but its budget, and begins with the other's
    evaluations."""
    sides = [
        (
            side.name,
            {key: value for key, value in side.record.settings.items() if key not in BUDGET},
            side.seed_label,
            list(side.curves),
        )
        for side in (longer, run)
    ]
    return sides[0] == sides[1] and all(longer.curves[task].begins_with(curve) for task, curve in run.curves.items())


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
