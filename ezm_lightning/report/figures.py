"""The pictures of a report, as PNG files in memory. Needs matplotlib."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ezm_lightning.report.contents import Contents, aggregated_curve, all_tasks
from ezm_lightning.report.groups import Group
from ezm_lightning.report.similarity import pairs_of
from ezm_lightning.report.tables import Data, steps

SIZE, DPI = (5.2, 3.4), 130
LEGEND, ENTRY = 2.2, 0.16  # the width of a legend beside the axes, the height of an entry
MARKERS = "sD^vPX*<>hd"
LONGEST = 100  # letters of a file's name that come from a task or a group
BEYOND = 1.1  # published points are drawn up to this multiple of our steps
BESIDE = 0.006  # of our steps: the distance of published points of the same steps
COLOURS = ("#1b9e77", "#d95f02", "#7570b3", "#e7298a", "#66a61e", "#e6ab02", "#a6761d", "#666666")  # of many sources
FEW = 4  # published sources that need no colours
SHORT = 6  # entries of a legend that may cover a part of the picture


class Figure(NamedTuple):
    """A picture, the name of its file, and its alternative text."""

    name: str
    alt: str
    png: bytes


def make_figures(contents: Contents) -> list[Figure]:
    """One picture per task, those of all tasks together, and the probabilities of improvement."""
    import matplotlib

    with matplotlib.rc_context({"font.size": 9, "axes.grid": True, "grid.alpha": 0.3, "savefig.dpi": DPI}):
        figures = [_task(contents, task) for task in all_tasks(contents.groups)]
        scored = [group for group in contents.groups if aggregated_curve(group, "all") is not None]
        if scored:
            overall = [_scores(contents, scored, *statistic) for statistic in ((2, "IQM"), (1, "mean"))]
            figures = [*overall, _ends(contents, scored), *figures]
        pairs = next((data for data in contents.data if data.name == "improvement"), None)
        if pairs is not None:
            figures.append(_improvement(pairs.rows))
        return figures + _similarities(contents)


def _axes(width: float = SIZE[0], height: float = SIZE[1]) -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(canvas)
    return canvas, canvas.subplots()


def _png(canvas: Any) -> bytes:
    out = io.BytesIO()
    canvas.savefig(out, format="png", metadata={"Software": None})
    return out.getvalue()


def _colour(contents: Contents, group: Group) -> str:
    return f"C{[member.name for member in contents.groups].index(group.name) % 10}"


def _task(contents: Contents, task: str) -> Figure:
    """A task's curves: seeds thin, their mean thick with its interval; floors; published points."""
    canvas, axes = _axes()
    groups = [group for group in contents.groups if task in group.tasks]
    for group in groups:
        _group_curves(axes, group, task, _colour(contents, group))
    floor = contents.floor(task)
    for value, style, label in ((floor.random, ":", "random actions"), (floor.zero, "--", "zero actions")):
        if value is not None:
            axes.axhline(value, color="gray", linestyle=style, linewidth=1, label=label)
    _points(axes, contents, task, max(curve.env_steps[-1] for group in groups for curve in group.curves_of(task)))
    _by_steps(axes, task, "simulator steps of the task", "return")
    runs = "; ".join(f"{group.name}, {len(group.runs_of(task))} runs" for group in groups)
    return Figure(f"{_file_name(task)}.png", f"Returns of {task} over simulator steps: {runs}", _png(canvas))


def _group_curves(axes: Any, group: Group, task: str, colour: str) -> None:
    for curve in group.curves_of(task):
        axes.plot(curve.env_steps, curve.returns, color=colour, alpha=0.35, linewidth=0.8)
    aggregated = aggregated_curve(group, task)
    if aggregated is None:
        return
    grid, mean, _ = aggregated
    count = len(group.curves_of(task))
    label = f"{group.name} ({count} seed{'s' * (count > 1)})"
    _line(axes, grid, mean, colour, label)
    ignoring = aggregated_curve(group, task, ignoring=True)
    if ignoring is not None and np.nanmax(np.abs(ignoring[1][0] - mean[0]), initial=0) > 1e-6:
        axes.plot(grid, ignoring[1][0], color=colour, linestyle="--", label=f"{group.name}, ignoring termination")


def _points(axes: Any, contents: Contents, task: str, last: float) -> None:
    """Published points in our range of steps, one marker and colour per source; those of the same steps side by side.

    The axes hold every mean. An interval of two seeds can reach far beyond what a task can pay; it is cut there.
    """
    in_range = [point for point in contents.points if point.task == task and point.env_steps <= BEYOND * last]
    labels = list(dict.fromkeys(point.label for point in in_range))
    colours = ["black"] if len(labels) <= FEW else COLOURS
    bars = []
    for index, label in enumerate(labels):
        points = [point for point in in_range if point.label == label]
        at = [point.env_steps + (index - (len(labels) - 1) / 2) * BESIDE * last for point in points]
        style = {"color": colours[index % len(colours)], "alpha": 0.7}
        marker = MARKERS[index % len(MARKERS)]
        axes.plot(at, [point.mean for point in points], marker, linestyle="none", markersize=5, label=label, **style)
        bars += [(x, point.low, point.high, style) for x, point in zip(at, points, strict=True)]
    limits = axes.get_ylim()
    for x, low, high, style in bars:
        axes.vlines(x, low, high, linewidth=0.8, **style)
    axes.set_ylim(limits)


def _scores(contents: Contents, groups: Sequence[Group], place: int, name: str) -> Figure:
    """IQM or mean of the scores over all tasks of each group."""
    canvas, axes = _axes()
    for group in groups:
        curve = aggregated_curve(group, "all")
        if curve is not None:
            _line(axes, curve[0], curve[place], _colour(contents, group), group.name)
    _by_steps(axes, f"{name} of normalised scores", "simulator steps per task", "score")
    alt = f"{name} of normalised scores over simulator steps, one line per group"
    return Figure(f"scores_{name.lower()}.png", alt, _png(canvas))


def _line(axes: Any, env_steps: np.ndarray, values: np.ndarray, colour: str, label: str) -> None:
    """A curve [3, n] of values with their interval."""
    axes.plot(env_steps, values[0], color=colour, linewidth=2, label=label, marker="o", markersize=3)
    if not np.isnan(values[1]).any():
        axes.fill_between(env_steps, values[1], values[2], color=colour, alpha=0.15, linewidth=0)


def _by_steps(axes: Any, title: str, xlabel: str, ylabel: str) -> None:
    axes.set(title=title, xlabel=xlabel, ylabel=ylabel)
    axes.xaxis.set_major_formatter(lambda value, _: steps(value))
    entries = len(axes.get_legend_handles_labels()[1])
    if entries <= SHORT:
        axes.legend(fontsize=7)
        return
    canvas = axes.get_figure()
    canvas.set_size_inches(SIZE[0] + LEGEND, max(SIZE[1], ENTRY * (entries + 1)))
    canvas.legend(fontsize=7, loc="outside right upper")


def _ends(contents: Contents, groups: Sequence[Group]) -> Figure:
    """The last scores of each group with their intervals: the IQM, and below it the mean."""
    aggregates = next(data for data in contents.data if data.name == "aggregates")
    rows = [row for row in aggregates.rows if row[4] is False and row[5] in ("iqm", "mean")]
    canvas, axes = _axes(SIZE[0], 0.7 + 0.32 * max(4, len(rows)))
    labels = []
    for place, (name, _, _, env_steps, _, statistic, *ends) in enumerate(rows):
        value, low, high = (float(str(x)) for x in ends)
        group = next(group for group in groups if group.name == name)
        axes.barh(place, value, color=_colour(contents, group), alpha=0.8 if statistic == "iqm" else 0.4)
        if not np.isnan(low):
            axes.plot([low, high], [place, place], color="black", linewidth=1.2)
        labels.append(f"{name}, {steps(float(str(env_steps)))}: {'IQM' if statistic == 'iqm' else 'mean'}")
    axes.set_yticks(range(len(labels)), labels)
    axes.invert_yaxis()
    axes.set_title("last normalised scores")
    return Figure("last_scores.png", "IQM and mean of the last normalised scores, bars by group", _png(canvas))


def _improvement(rows: Sequence[Sequence[object]]) -> Figure:
    """P(X > Y) of each pair of groups."""
    canvas, axes = _axes(SIZE[0], 0.9 + 0.42 * max(2, len(rows)))
    for place, (*_, value, low, high) in enumerate(rows):
        value, low, high = (float(str(x)) for x in (value, low, high))
        axes.plot(value, place, "o", color="C0")
        if not np.isnan(low):
            axes.plot([low, high], [place, place], color="C0")
    axes.axvline(0.5, color="gray", linestyle=":")
    axes.set_yticks(range(len(rows)), [f"{row[0]}\n> {row[1]}" for row in rows])
    axes.invert_yaxis()
    axes.set(xlim=(-0.03, 1.03), ylim=(len(rows) - 0.5, -0.5), title="probability of improvement")
    return Figure("improvement.png", "Probability that a run of one group is better than one of another", _png(canvas))


def _similarities(contents: Contents) -> list[Figure]:
    """One picture per group and part of the learner: the cosine of each pair of tasks, mean over seeds."""
    data = next((data for data in contents.data if data.name == "gradient_similarity"), None)
    if data is None:
        return []
    return [_similarity(data, *key) for key in dict.fromkeys((str(row[0]), str(row[4])) for row in data.rows)]


def _similarity(data: Data, group: str, part: str) -> Figure:
    """The most and the least similar pair are in colour, the others are gray."""
    canvas, axes = _axes()
    pairs = pairs_of(data, group, part)
    for place, (pair, (env_steps, cosine)) in enumerate(pairs.items()):
        ends = {0: "C2", len(pairs) - 1: "C3"}
        label = " and ".join(pair) if place in ends else None
        colour, width = (ends[place], 2.0) if place in ends else ("gray", 0.6)
        axes.plot(env_steps, cosine, color=colour, linewidth=width, label=label, zorder=2 + (place in ends))
    axes.axhline(0, color="black", linewidth=0.6)
    _by_steps(axes, f"{group}: gradients of {part}", "simulator steps per task", "cosine between tasks")
    alt = f"Cosines between the gradients of tasks, {part} of {group}: the most and the least similar pair in colour"
    return Figure(f"gradients_{_file_name(group)}_{_file_name(part)}.png", alt, _png(canvas))


def _file_name(name: str) -> str:
    """A file's name for a task or a group; of a long one the beginning and a digest."""
    plain = "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in name)
    return plain if len(plain) <= LONGEST else f"{plain[:LONGEST]}_{hashlib.sha256(name.encode()).hexdigest()[:8]}"
