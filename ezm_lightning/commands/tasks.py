"""Every known task with its dimensions: observation, action, simulator steps per episode. The range of a step's reward
and the return of random actions are listed if they are known.

  ezm tasks             all tasks
  ezm tasks cartpole    tasks whose name contains 'cartpole'; with several words, all of them
  ezm tasks mw/         the tasks of Meta-World

Each name works in ``tasks=[...]`` of ``ezm train``. Any Gymnasium environment with a Box action works too, by its id:
``gym/Pendulum-v1``; the list has Gymnasium's MuJoCo tasks alone. Its observation is a flat Box, or a Dict of
Boxes, which is flattened with its keys in alphabetical order. Arguments follow a question mark; a shell wants
quotes around them: ``'tasks=gym/LunarLander-v3?continuous=true'``.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable

from ezm_lightning.envs.sources import SOURCES, load_source, task_spec
from ezm_lightning.envs.spec import TaskSpec
from ezm_lightning.errors import asks_for_help, first_line, nearest, refuse

COLUMNS = ("task", "obs_dim", "action_dim", "steps", "reward", "random")
ALWAYS_SHOWN = 4  # columns; the others are left out if no task has a value


def listed(source: str) -> tuple[list[str], str]:
    """(the names of a source's tasks, the reason why there are none): one of the two is empty."""
    try:
        return [f"{source}/{task}" for task in load_source(source).known_tasks()], ""
    except ImportError as error:
        return [], str(error)


def row(name: str) -> tuple[str, ...]:
    """One line of the table; for a task that cannot be built, the reason replaces its dimensions."""
    try:
        spec: TaskSpec = task_spec(name)
    except (ImportError, ValueError) as error:
        return (name, "-", "-", first_line(error))
    reward = "" if spec.reward_range is None else "{:g} to {:g}".format(*spec.reward_range)
    random = "" if spec.random_score is None else f"{spec.random_score:g}"
    return (spec.label, str(spec.obs_dim), str(spec.action_dim), str(spec.max_episode_steps), reward, random)


def quietly(build: Callable[[], list[tuple[str, ...]]]) -> list[tuple[str, ...]]:
    """``build()`` without warnings about old versions of tasks, which are listed on purpose."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return build()


def format_table(rows: list[tuple[str, ...]]) -> str:
    """The rows below their header, names to the left and numbers to the right; a row may end early with a reason."""
    built = [COLUMNS, *(row for row in rows if len(row) == len(COLUMNS))]
    shown = [column for column in range(len(COLUMNS)) if column < ALWAYS_SHOWN or any(row[column] for row in built[1:])]
    widths = [
        max(len(row[column]) for row in (built if column else [COLUMNS, *rows])) for column in range(len(COLUMNS))
    ]

    def line(row: tuple[str, ...]) -> str:
        columns = shown if len(row) == len(COLUMNS) else range(len(row))
        return "  ".join(f"{row[column]:{'>' if column else '<'}{widths[column]}}" for column in columns).rstrip()

    return "\n".join(line(row) for row in [COLUMNS, *rows])


def main(argv: list[str] | None = None) -> int:
    """Prints the table; the exit status is 2 if no task's name contains all words."""
    arguments = sys.argv[1:] if argv is None else argv
    if asks_for_help(arguments):
        print(__doc__)
        return 0
    words = [argument.lower() for argument in arguments]
    sources = {source: listed(source) for source in SOURCES}
    names = [name for source_names, _ in sources.values() for name in source_names]
    for source, (_, problem) in sources.items():
        if problem:
            print(f"{source}: not available: {problem}", file=sys.stderr)
    chosen = [name for name in names if all(word in name.lower() for word in words)]
    if not chosen:
        return refuse(f"no task contains {' and '.join(map(repr, words))}; nearest: {nearest(' '.join(words), names)}")
    print(format_table(quietly(lambda: [row(name) for name in chosen])))
    return 0
