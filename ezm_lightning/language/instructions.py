"""Instructions of tasks, "<who>. <what to do>.", from a user's file or from the file beside this module.

The built-in file is also a fixed reference: all vectors are centred with the mean of its vectors, in every run.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ezm_lightning.errors import first_line, nearest

FILE = Path(__file__).with_name("instructions.yaml")


def read_instructions(path: str | Path, key: str = "text.instructions") -> dict[str, str]:
    """The texts by task in the YAML file at a ``key`` of the config.

    Raises ValueError for a file that is missing or has other content.
    """
    try:
        content: Any = OmegaConf.to_container(OmegaConf.load(path))
    except FileNotFoundError as error:
        raise ValueError(f"{key}={path} does not exist") from error
    except (OSError, OmegaConfBaseException, ValueError) as error:
        raise ValueError(f"{key}={path} cannot be read: {first_line(error)}") from error
    except Exception as error:  # the YAML reader has its own errors
        raise ValueError(f"{key}={path} is no YAML file: {first_line(error)}") from error
    return checked(content, f"{key}={path}")


def checked(content: Any, where: str) -> dict[str, str]:
    """``content`` as texts by task. Raises ValueError for anything else."""
    texts = content.values() if isinstance(content, Mapping) else ()
    if not texts or not all(isinstance(text, str) and text.strip() for text in texts):
        raise ValueError(f"{where} must map task names to texts: dmc/walker-run: 'Planar robot with two legs. Run.'")
    return {str(task): str(text) for task, text in cast(Mapping[Any, str], content).items()}


@functools.cache
def built_in() -> dict[str, str]:
    """The instructions that come with the package, by task."""
    return read_instructions(FILE)


def reference() -> list[str]:
    """The texts, each once, whose mean vector centres all vectors."""
    return list(dict.fromkeys(built_in().values()))


def instructions_of(tasks: Sequence[str], path: str | None, key: str = "text.instructions") -> list[str]:
    """The instruction of each task, from the file at a ``key`` of the config if there is one, else the built-in one.
    Raises ValueError for a task without an instruction, with the place to write it."""
    texts = built_in() if path is None else read_instructions(path, key)
    for task in tasks:
        if task not in texts:
            where = "the built-in instructions have none" if path is None else f"{path} has no instruction"
            fix = f"write {key}=FILE with a line" if path is None else "add the line"
            raise ValueError(f"{where} for {task}; nearest: {nearest(task, texts, 1)}; {fix} '{task}: <who>. <what>.'")
    return [texts[task] for task in tasks]
