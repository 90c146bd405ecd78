"""An agent file: the part of a checkpoint that playing needs, a tenth of its size.

It holds the task table, the config of the model and of the planner, and the weights for acting. A checkpoint also holds
the learner, the optimiser and the networks that only a loss reads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ezm_lightning.checkpoints.old_names import without_removed
from ezm_lightning.checkpoints.replaced import replaced
from ezm_lightning.checkpoints.tensor_file import write

FORMAT = 1
MARK = "ezm_agent"  # the entry that only an agent file has; its value is the format
SUFFIX = ".agent"


@dataclass(frozen=True)
class AgentRecord:
    """The content of an agent file."""

    tasks: list[str]
    obs_dims: list[int]
    action_dims: list[int]
    action_repeat: int | list[int]  # simulator steps per decision, of all tasks or of each
    config: dict[str, Any]  # the nodes ``model``, ``planner`` and ``search_model``
    weights: dict[str, Tensor]  # of the model that acts, by name

    def write(self, file: Path) -> None:
        """Writes the agent file completely or not at all. Raises ValueError if it exists or cannot be written."""
        try:
            if file.exists():
                raise ValueError(f"{file} exists already: remove it, or choose another name")
            file.parent.mkdir(parents=True, exist_ok=True)
            with replaced(file) as temporary:
                write({MARK: FORMAT, **vars(self)}, temporary)
        except OSError as error:
            raise ValueError(f"{file} cannot be written ({error.strerror or error})") from error


def is_agent_file(content: Any) -> bool:
    """Whether the content of a file is that of an agent file."""
    return isinstance(content, Mapping) and MARK in content


def record_in(content: Mapping[str, Any], path: str | Path) -> AgentRecord:
    """The record in the content of an agent file. Raises ValueError for another format and for missing entries."""
    if content[MARK] != FORMAT:
        raise ValueError(f"{path} is an agent file of format {content[MARK]}, this version reads format {FORMAT}")
    names = list(AgentRecord.__dataclass_fields__)
    missing = [name for name in names if name not in content]
    if missing:
        raise ValueError(f"{path} is not a whole agent file: it has no {', '.join(missing)}")
    return AgentRecord(**{name: content[name] for name in names} | {"config": without_removed(content["config"])})
