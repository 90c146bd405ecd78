"""Task names and the sources of their environments. Imports no physics.

A task is named ``<source>/<task>``: ``dmc/walker-walk``, ``gym/HalfCheetah-v5``, ``hb/h1-walk``. A source is a module
(or any object) with three functions::

    known_tasks() -> list[str]                  the task names it offers, without the prefix
    task_spec(task: str) -> TaskSpec            ValueError for an unknown task, with the nearest names
    make(task: str, num_slots: int, *, action_repeat: int, ignore_termination: bool) -> Slots   see ``slots``

``SOURCES`` maps prefixes to modules, which are imported when needed. ``register_source`` adds a source. The name of an
importable module is a prefix too (``my_package.my_module/reach``), so that a run from the command line can use a task
of your own. Such a module may define the three functions, or only ``TASKS``, a dict from task name to a ``Simulator``
class.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, cast

from ezm_lightning.envs.checks import building
from ezm_lightning.envs.process import mujoco_warns_once, same_folder
from ezm_lightning.envs.simulator import Simulator, SimulatorSource
from ezm_lightning.envs.slots import Slots
from ezm_lightning.envs.spec import TaskSpec
from ezm_lightning.errors import nearest

SimulatorFactory = Callable[[], Simulator]
Check = tuple[str, bool, str]


class Source(Protocol):
    """The functions of a source module. It may have three more, which the commands call for all sources::

    configure(**settings)          gets the node of the config that ``SETTINGS`` assigns to its prefix
    fetch(place) -> Iterator[str]  for ``ezm fetch``: gets the files of the tasks from a place (None: where they are
                                   published), and yields lines to print
    health() -> list[Check]        lines for ``ezm doctor``: (name, whether it works, what is installed or to be done)
    """

    def known_tasks(self) -> list[str]: ...

    def task_spec(self, task: str) -> TaskSpec: ...

    def make(self, task: str, num_slots: int, *, action_repeat: int, ignore_termination: bool) -> Slots: ...


SOURCES: dict[str, Any] = {
    "dmc": "ezm_lightning.envs.dmc",
    "gym": "ezm_lightning.envs.gym",
    "hb": "ezm_lightning.envs.humanoidbench",
    "mw": "ezm_lightning.envs.metaworld",
    "gr": "ezm_lightning.envs.robotics",
}


SETTINGS = {"humanoid_bench": "hb"}  # a node of the config, and the source that it configures


def configure(cfg: Mapping[str, Any]) -> None:
    """Gives each source its node of a config, if there is one."""
    for node, prefix in SETTINGS.items():
        if cfg.get(node) is not None:
            cast(Any, load_source(prefix)).configure(**cfg[node])


def fetchers() -> dict[str, Callable[[str | None], Iterator[str]]]:
    """The function ``fetch`` of each source that has one, by prefix; sources that cannot be imported have none."""
    functions = {}
    for prefix in SOURCES:
        with contextlib.suppress(ImportError):
            functions[prefix] = getattr(load_source(prefix), "fetch", None)
    return {prefix: fetch for prefix, fetch in functions.items() if fetch is not None}


def health() -> list[Check]:
    """The checks of all sources, for a report; sources that cannot be imported have none."""
    lines: list[Check] = []
    for prefix in SOURCES:
        with contextlib.suppress(ImportError):
            lines += getattr(load_source(prefix), "health", list)()
    return lines


def register_source(prefix: str, source: str | Mapping[str, SimulatorFactory] | Source) -> None:
    """Makes the tasks of ``source`` available as ``prefix/<task>``.

    ``source`` is the dotted name of a module (imported at first use), a dict from task name to a ``Simulator`` class
    (or any function that builds one), or an object with the three functions of a source. Raises ValueError for a
    prefix that belongs to another source or has a slash.
    """
    if not prefix or "/" in prefix:
        raise ValueError(f"a source prefix is a non-empty word without '/', got {prefix!r}")
    if prefix in SOURCES and SOURCES[prefix] != source:
        raise ValueError(f"the source prefix {prefix!r} is taken; taken are {sorted(SOURCES)}")
    SOURCES[prefix] = source


def task_spec(name: str) -> TaskSpec:
    """The dimensions of a task. Raises ValueError for an unknown name, ImportError for a missing simulator."""
    prefix, task = _split(name)
    source = load_source(prefix, task)
    with building(name), same_folder():
        spec = source.task_spec(task)
        if not isinstance(spec, TaskSpec):
            raise ValueError(f"{name}: task_spec returned a {type(spec).__name__}, a TaskSpec is expected")
        return spec


def known_tasks() -> list[str]:
    """Every task name that can be listed, with its prefix; sources without their simulator list nothing."""
    return [f"{prefix}/{task}" for prefix in SOURCES for task in load_source(prefix).known_tasks()]


def resolve_tasks(names: Sequence[str]) -> list[TaskSpec]:
    """The specs of ``names``, in order. Raises ValueError for an empty list, a repeated or an unknown name."""
    names = list(names)
    if not names:
        raise ValueError("no task given: name at least one, such as dmc/cartpole-balance")
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ValueError(f"each task may be named once, got {', '.join(repeated)} more often")
    return [task_spec(name) for name in names]


def make_slots(name: str, num_slots: int, *, action_repeat: int, ignore_termination: bool) -> Slots:
    """``num_slots`` environments of one task, stepped together."""
    prefix, task = _split(name)
    source = load_source(prefix)
    mujoco_warns_once()
    with building(name):
        return source.make(task, num_slots, action_repeat=action_repeat, ignore_termination=ignore_termination)


def load_source(prefix: str, task: str = "") -> Source:
    """The source of a prefix, which is imported. Raises ValueError for an unknown prefix, with the nearest names;
    ``task``, the task to be used, helps to find these."""
    source = SOURCES.get(prefix)
    if source is None:
        source = _importable(prefix)
    if isinstance(source, str):
        with building(prefix, "imported"):
            source = importlib.import_module(source)
    tasks = source if isinstance(source, Mapping) else getattr(source, "TASKS", None)
    if isinstance(tasks, Mapping) and not hasattr(source, "make"):
        return SimulatorSource(prefix, tasks)
    if any(not callable(getattr(source, function, None)) for function in ("task_spec", "make")):
        raise ValueError(_no_source(prefix, task, tasks))
    return source


def _no_source(prefix: str, task: str, tasks: Any) -> str:
    """The reason why a module is no source of tasks, with the tasks of all sources whose names are near ``task``."""
    if tasks is not None:
        return f"{prefix}: TASKS is a {type(tasks).__name__}; a dict from names to Simulator classes is expected"
    names = {name.partition("/")[2].lower(): name for name in reversed(known_tasks())}
    near = [names[word] for word in nearest(task.lower(), names).split(", ") if task]
    hint = f"; nearest: {', '.join(near)}" if near else ""
    return f"{prefix} is a module without tasks: it has neither TASKS nor known_tasks, task_spec and make{hint}"


def _split(name: str) -> tuple[str, str]:
    prefix, slash, task = name.partition("/")
    if not slash or not task:
        guess = nearest(f"dmc/{name}", known_tasks())
        raise ValueError(f"a task is named <source>/<task>, got {name!r}; nearest: {guess}")
    return prefix, task


def _importable(prefix: str) -> str:
    try:
        exists = importlib.util.find_spec(prefix) is not None
    except (ImportError, ValueError):
        exists = False
    if not exists:
        raise ValueError(
            f"unknown task source {prefix!r}, and no module of that name can be imported; "
            f"nearest: {nearest(prefix, SOURCES)} (known: {', '.join(SOURCES)})"
        )
    return prefix
