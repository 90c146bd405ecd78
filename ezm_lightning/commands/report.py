"""ezm report RUNS...: learning curves, scores and costs of runs as one HTML page, with its PNG and CSV files.

RUNS are folders of runs, or folders that contain such folders, finished or not, of any version; also single curves (CSV
files with the columns of eval.csv). Runs that differ only in seed and tasks are one group. LABEL=RUNS puts runs into a
group of that name, whatever their settings. Examples:
  ezm report runs/demo                                       the runs of experiment=demo, in the folder report/
  ezm report runs/ezm runs/brc against=simba,ezv2            two groups, beside published results
  ezm report four=runs/demo one=runs/alone out=fig2          groups by name, in the folder fig2/

Options:
  against=NAME,NAME    published results of brc, brc_single, bro, bro_fast, dreamerv3, ezm, ezm_single, ezv2,
                       mhsac, mrq, sac, simba, simbav2, simbav2_utd1, simbav2_utd8, td7, tdmpc, tdmpc2, or of
                       all, at equal simulator steps
  out=FOLDER           the folder of index.html, *.png and *.csv (report); an earlier report there is replaced
  page=FILE            also writes the tables into a Markdown file, between two marks
  least_steps=NUMBER   leaves out runs without an evaluation at this number of simulator steps, and says so

A number is the last evaluation, never the best. Intervals are stratified bootstrap intervals, 95 %.
"""

from __future__ import annotations

import importlib.util
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ezm_lightning import __version__
from ezm_lightning.checkpoints.text_file import replace_text
from ezm_lightning.errors import asks_for_help, nearest, refuse
from ezm_lightning.report.contents import Contents, all_tasks, make_contents
from ezm_lightning.report.folder import check_out, write_report
from ezm_lightning.report.groups import make_groups
from ezm_lightning.report.markdown import check_page, updated_page
from ezm_lightning.report.published import named, points_of
from ezm_lightning.report.runs import Run, find_curves, read_run

OPTIONS = ("against", "out", "page", "least_steps")


@dataclass
class Request:
    """The parsed command line."""

    runs: list[tuple[str | None, str]] = field(default_factory=list)  # (label or None, path)
    against: list[str] = field(default_factory=list)
    out: Path = Path("report")
    page: Path | None = None
    least_steps: int = 0


def parse(arguments: Sequence[str]) -> Request:
    """The request. Raises ValueError for an argument that is neither an option nor RUNS, with the nearest option."""
    request = Request()
    for text in arguments:
        key, equals, value = text.partition("=")
        if not equals or Path(text).exists():
            if text.startswith("-"):
                raise ValueError(f"unknown flag {text}; options are {', '.join(f'{name}=...' for name in OPTIONS)}")
            request.runs.append((None, text))
        elif key in OPTIONS:
            _set(request, key, value)
        elif Path(value).exists() and key:
            request.runs.append((key, value))
        else:
            raise ValueError(f"{text} is neither an option (nearest: {nearest(key, OPTIONS, count=1)}) nor LABEL=RUNS: "
                             f"there is no {value or 'empty path'}")  # fmt: skip
    if not request.runs:
        raise ValueError("no runs are named: ezm report runs/<name>")
    return request


def _set(request: Request, key: str, value: str) -> None:
    if not value:
        raise ValueError(f"{key}= has no value")
    if key == "against":
        request.against = named(value)
    elif key == "least_steps":
        digits = value.replace("_", "")
        if not digits.isdigit():
            raise ValueError(f"least_steps={value} must be a whole number of at least 0")
        request.least_steps = int(digits)
    elif key == "out":
        request.out = Path(value)
    else:
        request.page = Path(value)


def gather(request: Request) -> tuple[dict[str, list[Run]], list[Run], list[str]]:
    """The runs with a label, those without, and what was left out. Raises ValueError if nothing can be reported."""
    labelled: dict[str, list[Run]] = {}
    unlabelled: list[Run] = []
    left_out: list[str] = []
    read_files: set[tuple[str | None, Path]] = set()
    for label, path in request.runs:
        files, without = find_curves(path)
        left_out += [f"{folder}: the run has no eval.csv (yet)." for folder in without]
        for file in files:
            if (label, file.resolve()) in read_files:
                continue
            read_files.add((label, file.resolve()))
            run = read_run(file)
            if run is None:
                left_out.append(f"{file}: no evaluation in it can be read.")
            elif run.last_step < request.least_steps:
                left_out.append(f"{file}: its last evaluation was at {run.last_step:,} simulator steps (least_steps).")
            else:
                (unlabelled if label is None else labelled.setdefault(label, [])).append(run)
    if not labelled and not unlabelled:
        raise ValueError(f"nothing can be reported: {left_out[0] if left_out else 'no run was found'}")
    return labelled, unlabelled, left_out


def write(request: Request, contents: Contents, command: str) -> None:
    """Writes all files of a report."""
    from ezm_lightning.report.figures import make_figures
    from ezm_lightning.report.page import make_page

    figures = make_figures(contents)
    html = make_page(contents, figures, command=command, version=__version__)
    files = {"index.html": html.encode()}
    files |= {figure.name: figure.png for figure in figures}
    files |= {f"{data.name}.csv": data.text().encode() for data in contents.data}
    page = request.page
    text = updated_page(page, contents, figures, out=request.out, command=command) if page else ""
    write_report(request.out, files, {"command": command, "version": __version__})
    if page:
        replace_text(page, text)


def print_summary(request: Request, contents: Contents) -> None:
    """Prints each task's last evaluation, what was left out, and the report's path."""
    from rich.console import Console
    from rich.table import Table

    from ezm_lightning.commands.printing import show

    console = Console(soft_wrap=True)
    for table in (table for table in contents.tables if table.title == "Each task at the end"):
        shown = [table.columns.index(name) for name in ("task", "group", "steps", "mean return", "each seed")]
        grid = Table(*(table.columns[index] for index in shown))
        for row in table.rows:
            grid.add_row(*(row[index].replace("[", "\\[") for index in shown))
        show(grid)
    for line in contents.left_out:
        console.print(f"note: {line}", markup=False, highlight=False)
    console.print(f"report {request.out / 'index.html'}", markup=False, highlight=False)


def main(argv: list[str] | None = None) -> int:
    """Writes a report. Returns 2 for a mistake, which is explained in one line; then nothing is written."""
    arguments = sys.argv[1:] if argv is None else argv
    if not arguments or asks_for_help(arguments):
        print(__doc__)
        return 0
    try:
        request = parse(arguments)
        if importlib.util.find_spec("matplotlib") is None:
            raise ImportError("ezm report draws with matplotlib: pip install 'ezm-lightning[plots]'")
        check_out(request.out)
        if request.page is not None:
            check_page(request.page)
        labelled, unlabelled, left_out = gather(request)
        groups, notes = make_groups(labelled, unlabelled)
        contents = make_contents(groups, points_of(request.against, all_tasks(groups)), [*notes, *left_out])
        _note_unpublished(request, contents)
        write(request, contents, "ezm report " + shlex.join(arguments))
    except (ValueError, ImportError, OSError) as error:
        return refuse(error)
    print_summary(request, contents)
    return 0


def _note_unpublished(request: Request, contents: Contents) -> None:
    """Notes the tasks for which ``against`` has no number."""
    without = set(all_tasks(contents.groups)) - {point.task for point in contents.points}
    if request.against and without:
        contents.left_out.append(f"against= has no number for {', '.join(sorted(without))}.")
