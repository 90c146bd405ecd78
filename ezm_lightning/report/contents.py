"""The content of a report: tables for readers, data for files, and a list of what was left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations

import numpy as np

from ezm_lightning.report.floors import Floor, floor_of
from ezm_lightning.report.groups import Group
from ezm_lightning.report.published import Point, sources_of
from ezm_lightning.report.runs import NEAR
from ezm_lightning.report.similarity import read_similarities
from ezm_lightning.report.statistics import (
    Estimate,
    area,
    bootstrap,
    estimate,
    iqm,
    mean_over_tasks,
    probability_of_improvement,
)
from ezm_lightning.report.tables import UNKNOWN, Data, Table, duration, in_order, interval, number, steps

SEED = 0  # of the bootstrap
METHOD = (
    "Returns are means over the episodes of the last evaluation, never the best of several. A group's numbers are "
    "those of the last simulator steps (action repeats counted) at which all its runs were evaluated; each table says "
    "which. The probability of improvement and published results are compared at equal simulator steps. Steps that "
    "differ by at most 1 % count as equal. IQM is the mean of the middle half of all runs of all tasks. Intervals are "
    "95 % percentile bootstrap intervals, which draw the runs of each task again. They are too narrow with fewer than "
    "five seeds, and there is none with one seed. Score is (return − random) / (success − random). Random is measured; "
    "success is 1000 for Control Suite tasks and the threshold of Gymnasium's registry for its tasks. HumanoidBench "
    "has published constants for both. The score of a task without them is the share of episodes that succeed, where "
    "it is reported. Area is the mean of a curve over its simulator steps. Ignoring termination, an episode continues "
    "to its time limit."
)
PICTURES = (
    "Thin lines are seeds, thick ones their mean, bands 95 % intervals. Published points of the same steps are drawn "
    "side by side; the longest of their intervals end at the edge."
)


@dataclass
class Contents:
    """A whole report, before it is written."""

    groups: Sequence[Group]
    points: Sequence[Point]
    tables: list[Table] = field(default_factory=list)
    data: list[Data] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    def floor(self, task: str) -> Floor:
        """A task's floor; values that the package lacks come from the record of a run."""
        floor = floor_of(task)
        records = (run.record.floors.get(task) for group in self.groups for run in group.runs_of(task))
        recorded = next((record for record in records if record), {})
        return replace(
            floor,
            random=recorded.get("random") if floor.random is None else floor.random,
            zero=recorded.get("zero") if floor.zero is None else floor.zero,
        )


def make_contents(groups: Sequence[Group], points: Sequence[Point], left_out: Sequence[str]) -> Contents:
    """Every table and file of a report."""
    contents = Contents(groups, points, left_out=list(left_out))
    contents.left_out += [note for group in groups for note in _notes(group)]
    for part in (aggregates, tasks_at_the_end, improvements, published, record):
        tables, data = part(contents)
        if data.rows:
            contents.tables += tables
            contents.data.append(data)
    contents.data += [evaluations(groups), curves(groups)]
    similarities = read_similarities(groups)
    contents.data += [similarities] if similarities.rows else []
    if points:
        contents.tables.append(sources(points))
    return contents


def _notes(group: Group) -> list[str]:
    """Notes on what a group's numbers leave out."""
    notes = []
    for run in group.runs:
        notes += [f"{run.path}: {problem}." for problem in run.problems]
    for task in group.tasks:
        last = group.last_step([task])
        if last is None:
            notes.append(f"{group.name}, {task}: there is no simulator step at which all of its runs were evaluated.")
            continue
        longer = [run for run in group.runs_of(task) if run.curves[task].env_steps[-1] > (1 + NEAR) * last]
        if longer:
            seeds = ", ".join(run.seed_label for run in longer)
            notes.append(
                f"{group.name}, {task}: what seed {seeds} did after {steps(last)} simulator steps is drawn, but not "
                "counted, because others were not evaluated after that."
            )
    without = [task for task in group.tasks if task not in group.scored_tasks]
    if without:
        notes.append(f"{group.name}: {', '.join(without)} has no normalised score (random or success is not known).")
    return notes


def _rng() -> np.random.Generator:
    return np.random.default_rng(SEED)


def aggregates(contents: Contents) -> tuple[list[Table], Data]:
    """IQM and mean of the scores over all tasks of a group, under both termination protocols."""
    columns = ("group", "tasks", "seeds", "steps per task", "IQM of scores", "mean of scores", "area of mean scores",
               "IQM, ignoring termination", "mean, ignoring termination")  # fmt: skip
    rows, data = [], Data("aggregates", ("group", "tasks", "runs", "env_steps", "ignoring_termination", "statistic",
                                         "value", "low", "high"))  # fmt: skip
    for group in contents.groups:
        tasks = group.scored_tasks
        last = group.last_step(tasks)
        if last is None:
            continue
        cells = []
        for ignoring in (False, True):
            strata = [x[:, 0] for x in group.strata(tasks, [last], ignoring=ignoring, scored=True)]
            for name, statistic in (("iqm", iqm), ("mean", mean_over_tasks)):
                result = estimate(strata, statistic, _rng())
                data.add(group.name, len(tasks), len(group.runs), last, ignoring, name, *result)
                cells.append(interval(result, 3))
        over = _area_of_scores(group, tasks)
        data.add(group.name, len(tasks), len(group.runs), last, False, "area", over, None, None)
        cells.insert(2, number(over, 3))
        rows.append((group.name, str(len(tasks)), ", ".join(group.seeds), steps(last), *cells))
    note = "Over the tasks that have a score. Every task has the same weight in the mean."
    return [Table("All tasks together", columns, rows, note)], data


def _area_of_scores(group: Group, tasks: Sequence[str]) -> float:
    grid = group.grid(tasks)
    return area(np.array(grid), mean_over_tasks(group.strata(tasks, grid, scored=True)))


def tasks_at_the_end(contents: Contents) -> tuple[list[Table], Data]:
    """Each task's last evaluation and area, one row per group."""
    columns = ("task", "group", "steps", "mean return", "IQM", "each seed", "score", "area",
               "mean, ignoring termination", "random", "zero actions")  # fmt: skip
    data = Data("tasks", ("task", "group", "runs", "env_steps", "mean", "mean_low", "mean_high", "iqm", "iqm_low",
                          "iqm_high", "score", "area", "mean_ignoring_termination", "random", "zero"))  # fmt: skip
    rows = []
    for task in all_tasks(contents.groups):
        floor = contents.floor(task)
        for group in (group for group in contents.groups if task in group.tasks):
            last, runs = group.last_step([task]), group.runs_of(task)
            if last is None:
                continue
            ends = group.strata([task], [last])[0][:, 0]
            ignoring = float(group.strata([task], [last], ignoring=True)[0].mean())
            mean, middle = (estimate([ends], statistic, _rng()) for statistic in (mean_over_tasks, iqm))
            over = float(np.mean([area(c.env_steps, c.returns) for c in (r.curves[task].until(last) for r in runs)]))
            score = float(group.strata([task], [last], scored=True)[0].mean())
            data.add(task, group.name, len(runs), last, *mean, *middle, score, over, ignoring, floor.random, floor.zero)
            by_seed = ", ".join(f"{run.seed_label}: {number(float(end))}" for run, end in zip(runs, ends, strict=True))
            rows.append((task, group.name, steps(last), interval(mean), interval(middle), by_seed, number(score, 3),
                         number(over), number(ignoring), number(floor.random), number(floor.zero)))  # fmt: skip
    return [Table("Each task at the end", columns, rows, "“Each seed” is seed: return.")], data


def improvements(contents: Contents) -> tuple[list[Table], Data]:
    """For each pair of groups, the probability that a run of the first is better than one of the second."""
    columns = ("X", "Y", "tasks in common", "steps", "P(X > Y)")
    data = Data("improvement", ("x", "y", "tasks", "least_env_steps", "most_env_steps", "value", "low", "high"))
    rows = []
    for x, y in combinations(contents.groups, 2):
        last = {task: common_step(x, y, task) for task in x.tasks if task in y.tasks}
        common = {task: step for task, step in last.items() if step is not None}
        if common:
            ends = [[group.strata([task], [step])[0][:, 0] for task, step in common.items()] for group in (x, y)]
            result = probability_of_improvement(ends[0], ends[1], _rng())
            least, most = min(common.values()), max(common.values())
            data.add(x.name, y.name, len(common), least, most, *result)
            shown = steps(most) if least == most else f"{steps(least)} to {steps(most)}"
            rows.append((x.name, y.name, str(len(common)), shown, interval(result, 2)))
    note = (
        "The share of pairs of runs of one task in which X has the higher return, a tie half, averaged over tasks. "
        "Each task is compared at the last simulator step at which all runs of both groups were evaluated after their "
        "first update."
    )
    return [Table("Probability of improvement", columns, rows, note)], data


def common_step(x: Group, y: Group, task: str) -> int | None:
    """The last simulator step at which all runs of both groups were evaluated after an update; None without one."""
    both = Group("both", [*x.runs_of(task), *y.runs_of(task)])
    return max(both.grid([task], trained=True), default=None)


Rows = dict[tuple[int, bool, int, str], dict[str, tuple[Estimate, str]]]  # see _suite_beside


def published(contents: Contents) -> tuple[list[Table], Data]:
    """Published means beside a group's evaluations at the same simulator steps: a table for each suite of tasks."""
    data = Data("published", ("task", "algorithm", "source", "env_steps", "mean", "low", "high", "seeds", "group",
                              "our_mean", "our_mean_ignoring_termination", "our_env_steps", "our_runs"))  # fmt: skip
    suites: dict[str, Rows] = {}
    for point in contents.points:
        for place, group in enumerate(contents.groups):
            if point.task not in group.tasks:
                continue
            grid = group.grid([point.task])
            nearest = min(grid, key=lambda step: abs(step - point.env_steps), default=None)
            if nearest is None or abs(nearest - point.env_steps) > NEAR * point.env_steps:
                continue
            runs = len(group.runs_of(point.task))
            honoured, ignoring = (
                group.strata([point.task], [nearest], ignoring=flag)[0][:, 0] for flag in (False, True)
            )
            theirs = Estimate(point.mean, point.low, point.high)
            data.add(point.task, point.algorithm, point.source, point.env_steps, *theirs, point.seeds, group.name,
                     float(honoured.mean()), float(ignoring.mean()), nearest, runs)  # fmt: skip
            rows = suites.setdefault(point.task.partition("/")[0], {})
            at = point.env_steps, point.ignores_termination
            ours = rows.setdefault((*at, place, group.name), {})
            if point.task not in ours:
                compared = ignoring if point.ignores_termination else honoured
                ours[point.task] = estimate([compared], mean_over_tasks, _rng()), str(runs)
            rows.setdefault((*at, len(contents.groups), point.label), {})[point.task] = theirs, point.seeds
    return [_suite_beside(suite, rows) for suite, rows in suites.items()], data


def _suite_beside(suite: str, means: Rows) -> Table:
    """A column per task, and the mean of several if the row has all.

    ``means`` has a row's means and numbers of seeds by task. Its key is the simulator steps, whether termination is
    ignored, the place of the group, after which published rows come, and the name.
    """
    ordered = sorted(means.items())
    tasks = list(dict.fromkeys(task for _, row in ordered for task in row))
    rows = []
    for (env_steps, ignoring, _, name), row in ordered:
        seeds = ", ".join(in_order(count for _, count in row.values()))
        cells = [interval(row[task][0]) if task in row else UNKNOWN for task in tasks]
        if len(tasks) > 1:
            complete = len(row) == len(tasks)
            cells.append(number(float(np.mean([mean.value for mean, _ in row.values()])) if complete else None))
        rows.append((steps(env_steps), f"{name}, ignoring termination" if ignoring else name, seeds, *cells))
    columns = [
        "steps",
        "of",
        "seeds",
        *(task.partition("/")[2] for task in tasks),
        *(["mean"] if len(tasks) > 1 else []),
    ]
    note = (
        "Our groups first, then published means with their 95 % intervals over seeds, at the steps at which we have an "
        "evaluation. “Seeds” is their number."
    )
    return Table(f"Beside published results: {suite}", columns, rows, note)


def sources(points: Sequence[Point]) -> Table:
    """The sources of the published numbers."""
    rows = [(row["source"], row["from"], row["licence"], row["note"]) for row in sources_of(points)]
    return Table("Sources of published numbers", ("source", "from", "licence", "to be known"), rows)


def record(contents: Contents) -> tuple[list[Table], Data]:
    """The command and the cost of each run, if they are recorded."""
    columns = ("group", "run", "seed", "state", "steps", "commit", "machine", "wall-clock", "core-hours", "GPU hours",
               "command")  # fmt: skip
    data = Data("runs", ("group", "run", "seed", "state", "env_steps", "budget", "commit", "machine", "wall_seconds",
                         "core_hours", "gpu_hours", "command"))  # fmt: skip
    rows: list[Sequence[str]] = []
    missing: dict[str, int] = {}
    for group in contents.groups:
        for run in group.runs:
            entry = run.record
            state = entry.state(run.last_step)
            path = run.path.resolve()
            name = path.parent.name if path.name == "eval.csv" else path.stem
            data.add(group.name, name, entry.seed, state, run.last_step, entry.budget, entry.commit, entry.machine,
                     entry.seconds, entry.core_hours, entry.gpu_hours, entry.command)  # fmt: skip
            hours = (entry.core_hours, entry.gpu_hours)
            rows.append((group.name, name, run.seed_label, state, steps(run.last_step), entry.commit or UNKNOWN,
                         entry.machine or UNKNOWN, duration(entry.seconds), *(number(h, 2) for h in hours),
                         entry.command or UNKNOWN))  # fmt: skip
            for key in ("command", "commit", "machine", "seconds"):
                if getattr(entry, key) is None:
                    missing[key] = missing.get(key, 0) + 1
    labels = {"seconds": "wall-clock"}
    lacking = ", ".join(f"{labels.get(key, key)} of {count}" for key, count in missing.items())
    note = f"Not recorded, of {len(rows)} runs: {lacking}." if missing else ""
    total = sum(run.record.seconds or 0 for group in contents.groups for run in group.runs)
    if total:
        wall = f"Wall-clock in all, as far as recorded: {total / 3600:.1f} h."
        note = f"{wall} Core-hours are a run's CPU time; where it is not recorded, wall-clock times threads. {note}"
        note = note.strip()
    return [Table("Runs", columns, rows, note)], data


def evaluations(groups: Sequence[Group]) -> Data:
    """All evaluations that were read."""
    data = Data("evaluations", ("group", "file", "seed", "task", "env_steps", "return", "return_ignoring_termination"))
    for group in groups:
        for run in group.runs:
            for task, curve in run.curves.items():
                points = np.stack([curve.returns, curve.ignoring]).T.tolist()
                for step, point in zip(curve.env_steps.tolist(), points, strict=True):
                    data.add(group.name, run.path.as_posix(), run.record.seed, task, step, *point)
    return data


def curves(groups: Sequence[Group]) -> Data:
    """The aggregated curves: returns of each task, and scores of all tasks together ('all')."""
    data = Data("curves", ("group", "task", "ignoring_termination", "env_steps", "runs", "mean", "mean_low",
                           "mean_high", "iqm", "iqm_low", "iqm_high"))  # fmt: skip
    for group in groups:
        for task in [*group.tasks, "all"]:
            for ignoring in (False, True):
                aggregated = aggregated_curve(group, task, ignoring=ignoring)
                if aggregated is not None:
                    grid, mean, middle = aggregated
                    runs = len(group.runs if task == "all" else group.runs_of(task))
                    for index, step in enumerate(grid.tolist()):
                        data.add(group.name, task, ignoring, step, runs, *map(float, mean[:, index]),
                                 *map(float, middle[:, index]))  # fmt: skip
    return data


def aggregated_curve(
    group: Group, task: str, *, ignoring: bool = False
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Simulator steps [n], mean and IQM with their intervals, each [3, n]; for 'all', of the scores of all tasks.

    None if no step is common to all runs, or if no task has a score.
    """
    tasks = group.scored_tasks if task == "all" else [task]
    grid = group.grid(tasks)
    if not grid:
        return None
    strata = group.strata(tasks, grid, ignoring=ignoring, scored=task == "all")
    return np.array(grid), bootstrap(strata, mean_over_tasks, _rng()), bootstrap(strata, iqm, _rng())


def all_tasks(groups: Sequence[Group]) -> list[str]:
    """The tasks of all groups, each once."""
    return list(dict.fromkeys(task for group in groups for task in group.tasks))
